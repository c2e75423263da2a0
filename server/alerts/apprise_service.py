"""Channels that go through Apprise, as the rest of the service sees them: what a URL names, and one attempt to send.

The work is done in a child process (apprise_child.py), which is ended when it takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from phasewatch.errors import AddressRefused, InvalidInput, Unavailable
from server.alerts.addresses import MAX_URL, Resolve, checked_addresses, checked_host, resolve
from server.alerts.webhook import Outcome

LIMIT_S = 60.0
SAID_LENGTH = 300
_ROOT = Path(__file__).parent.parent.parent
_ENVIRONMENT = {"PATH": os.path.defpath, "LANG": "C.UTF-8"}  # no proxy, no secret of the service
_STATUS = re.compile(r"\berror=(\d{3})\b")
_SCHEMA = re.compile(r"[a-z][a-z0-9+-]{1,30}")


def check_url(url: str, *, allow_private: bool, resolver: Resolve = resolve) -> str:
    """The URL as people may see it.

    Raises InvalidInput for one that Apprise cannot use or that acts on this machine, AddressRefused for a host that is
    not public. A host that has no address now is left to the check at sending.
    """
    schema = checked_schema(url)
    found = _ask({"url": url, "allow_private": allow_private})
    for host in found["hosts"]:
        name = checked_host(host)
        with contextlib.suppress(OSError):
            checked_addresses(name, 0, allow_private=allow_private, resolver=resolver)
    return f"{schema}://{found['hosts'][0] if found['hosts'] else ''}…"


def checked_schema(url: str) -> str:
    """The schema of an Apprise URL. Raises InvalidInput where there is none, or the URL holds what none does."""
    schema, colon, _ = url.partition("://")
    if not colon or not _SCHEMA.fullmatch(schema.lower()) or len(url) > MAX_URL:
        raise InvalidInput(
            "an Apprise URL begins with a service, such as mailto:// or slack://, and has at most 2,000 characters"
        )
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise AddressRefused("the URL holds a control character; leave it out")
    return schema.lower()


def send_apprise(url: str, title: str, body: str, *, allow_private: bool) -> Outcome:
    """Makes one attempt; whatever happens is in its outcome. Every address is checked as it is connected to."""
    begin = time.monotonic()
    try:
        found = _ask({"url": url, "allow_private": allow_private, "title": title, "body": body})
    except InvalidInput as error:
        return Outcome("forbidden", _ms_since(begin), detail=str(error))
    except Unavailable as error:
        return Outcome("unreachable", _ms_since(begin), detail=str(error))
    if found["sent"]:
        return Outcome("delivered", _ms_since(begin))
    if found["refused"]:
        detail = f"it led to {found['refused'][0]}, which is not an address of the public internet"
        return Outcome("forbidden", _ms_since(begin), detail=detail)
    status = _STATUS.search(found["said"])
    said = " ".join(found["said"].replace(url, "…").split())[:SAID_LENGTH] or "the service did not take it"
    return Outcome("refused" if status else "unreachable", _ms_since(begin), int(status[1]) if status else None, said)


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """The answer. Raises InvalidInput where the URL cannot be used, Unavailable where the child is lost."""
    command = [sys.executable, "-m", "server.alerts.apprise_child"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=_ROOT,
            env=_ENVIRONMENT,
            timeout=LIMIT_S,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the service did not answer within {LIMIT_S:g} s") from error
    except (subprocess.CalledProcessError, ValueError) as error:
        raise Unavailable("the process that speaks to the service ended without an answer") from error
    if "problem" in found:
        raise InvalidInput(found["problem"])
    return found


def _ms_since(begin: float) -> float:
    return round(1000 * (time.monotonic() - begin), 1)
