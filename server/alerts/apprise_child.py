"""Sends one message through Apprise, in a process of its own: `python -m server.alerts.apprise_child < request.json`.

Apprise speaks to a hundred services in its own ways: it resolves names itself, follows redirects, reads key files. So
what it may not do is refused underneath it, by an audit hook that sees every connection, file and process of this
interpreter and cannot be taken off again. In: a JSON object with url, allow_private, and title and body where something
is to be sent. Out: one with the hosts that the URL names, or why it cannot be used, and what came of sending.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import mimetypes
import os
import resource
import sys
import sysconfig
from collections.abc import Callable
from typing import Any

import apprise

from phasewatch.errors import InvalidInput
from server.alerts.addresses import is_public

LOCAL = frozenset(
    "cmd console dbus exec execute file glib gnome kde local macosx pipe qt script shell stdout subprocess syslog "
    "vapid windows".split()
)
"""Schemas of Apprise, of its add-ons and of names they might take, that act on this machine instead of the network."""

MAX_MEMORY = 2**30
MAX_CPU_S = 30
_READABLE = tuple(
    os.path.realpath(path)
    for path in (
        sys.prefix,
        sys.base_prefix,
        *sysconfig.get_paths().values(),
        "/usr/share/zoneinfo",
        "/usr/share/ca-certificates",
    )
)
_FILES = frozenset(
    ("/dev/null", "/dev/urandom", "/etc/localtime", "/etc/ssl/certs/ca-certificates.crt", *mimetypes.knownfiles)
)
_PROCESSES = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)


def main() -> None:
    """Answers the request on standard input."""
    request = json.load(sys.stdin)
    answer = sys.stdout
    sys.stdout = io.StringIO()  # nothing that Apprise prints gets into the answer
    json.dump(answer_to(request), answer)


def answer_to(request: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of a request, after doing it."""
    apprise.Apprise.instantiate("json://localhost")  # loads what every service needs, before files are refused
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    refused: list[str] = []
    sys.addaudithook(guard(request["allow_private"], refused))
    try:
        service = read_url(request["url"])
    except InvalidInput as error:
        return {"problem": str(error)}
    found: dict[str, Any] = {"hosts": hosts(service)}
    return found if request.get("body") is None else found | send(service, request, refused)


def read_url(url: str) -> Any:
    """The service that a URL names. Raises InvalidInput for one that acts on this machine or cannot be used."""
    schema = url.partition("://")[0].lower()
    local = f"{schema}:// acts on the machine that the service runs on; give one that sends elsewhere"
    if schema in LOCAL:
        raise InvalidInput(local)
    asset = apprise.AppriseAsset(app_id="phasewatch", app_desc="phasewatch", app_url="", async_mode=False)
    service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if not isinstance(service, apprise.NotifyBase):
        raise InvalidInput(f"{schema[:20]}:// is not a service that Apprise knows, or lacks something it needs")
    if LOCAL & set(schemas(service)):
        raise InvalidInput(local)
    return service


def send(service: Any, request: dict[str, Any], refused: list[str]) -> dict[str, Any]:
    """Sends; whether the service took it, what Apprise said of it, and what the hook refused."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger("apprise")
    logger.addHandler(handler)
    logger.propagate = False
    sender = apprise.Apprise()
    sender.add(service)
    with contextlib.suppress(OSError):  # of the hook, where a plugin lets it through
        sent = sender.notify(body=request["body"], title=request["title"], body_format=apprise.NotifyFormat.TEXT)
        return {"sent": bool(sent), "said": said.getvalue(), "refused": refused}
    return {"sent": False, "said": said.getvalue(), "refused": refused}


def schemas(service: Any) -> list[str]:
    """Every schema that this service goes by."""
    names = (getattr(service, name, None) or () for name in ("protocol", "secure_protocol"))
    return [one for name in names for one in ((name,) if isinstance(name, str) else name)]


def hosts(service: Any) -> list[str]:
    """The hosts that a URL names of a service which people may run themselves; others have hosts of their own."""
    if not getattr(service, "protocol", None):
        return []
    named = [getattr(service, name, None) for name in ("host", "smtp_host")]
    return [str(host) for host in named if host]


def guard(allow_private: bool, refused: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses what no message needs, and notes the addresses that it refused."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = args[1]
            if address is not None and not may_reach(address, allow_private):
                refused.append(str(address[0]) if isinstance(address, tuple) and address else "a local socket")
                raise PermissionError(f"{refused[-1]} may not be reached")
        elif event == "open" and not may_open(*args):
            raise PermissionError("no file of this machine may be opened")
        elif event.startswith(_PROCESSES):
            raise PermissionError("no process may be started")

    return hook


def may_reach(address: Any, allow_private: bool) -> bool:
    """True for the address of a connection over the network, in numbers, that is public or need not be."""
    if not isinstance(address, tuple) or not address:
        return False
    return is_public(str(address[0])) or (allow_private and _is_number(str(address[0])))


def _is_number(text: str) -> bool:
    return text.replace(".", "").isdigit() or ":" in text


def may_open(path: Any, mode: Any, flags: Any) -> bool:
    """True for reading what Python itself is made of, and a few files that everybody reads."""
    if isinstance(path, int):
        return True
    writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if (isinstance(mode, str) and set(mode) & set("wax+")) or writes:
        return False
    name = os.path.realpath(os.fsdecode(path))
    return os.fsdecode(path) in _FILES or name in _FILES or any(name.startswith(f"{place}/") for place in _READABLE)


if __name__ == "__main__":
    main()
