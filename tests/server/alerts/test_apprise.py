"""Apprise over real sockets, in its own process: what arrives, and everything it is kept from."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from phasewatch.errors import AddressRefused, InvalidInput
from server.alerts import apprise_child, apprise_service
from server.alerts.apprise_child import LOCAL, may_open, may_reach
from server.alerts.apprise_service import check_url, send_apprise
from tests.webhook_receiver import Receiver


@pytest.mark.filterwarnings("ignore:'imghdr'")  # of Apprise's own imports, which are another process's otherwise
class TestCheck:
    @pytest.fixture(autouse=True)
    def _in_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the child says of a URL, without starting one a case."""
        monkeypatch.setattr(
            apprise_service, "_ask", lambda asked: {"hosts": apprise_child.hosts(apprise_child.read_url(asked["url"]))}
        )

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/", "slack://…"),
            ("mailto://user:pass@93.184.215.14?to=me@example.com", "mailto://93.184.215.14…"),
            ("ntfys://93.184.215.14/secret-topic", "ntfys://93.184.215.14…"),
        ],
    )
    def test_shows_no_secret_of_what_it_takes(self, url: str, shown: str) -> None:
        assert check_url(url, allow_private=False) == shown

    @pytest.mark.parametrize(
        "url",
        [
            "json://127.0.0.1/x",
            "xml://2130706433/",
            "form://[::1]/",
            "jsons://0x7f000001/",
            "ntfy://localhost/topic",
            "gotify://10.0.0.1/token",
            "mailto://user:pass@example.com?smtp=169.254.169.254&to=me@example.com",
            "rsyslog://192.168.0.1",
        ],
    )
    def test_a_host_of_this_network_is_refused(self, url: str) -> None:
        with pytest.raises(AddressRefused):
            check_url(url, allow_private=False)

    @pytest.mark.parametrize("schema", sorted(LOCAL))
    def test_what_acts_on_this_machine_is_refused_by_name(self, schema: str) -> None:
        with pytest.raises(InvalidInput, match="acts on the machine"):
            check_url(f"{schema.upper()}://x", allow_private=True)

    @pytest.mark.parametrize("url", ["nonsense://x", "slack://"])
    def test_what_apprise_cannot_use_is_refused(self, url: str) -> None:
        with pytest.raises(InvalidInput, match="not a service that Apprise knows"):
            check_url(url, allow_private=False)

    @pytest.mark.parametrize("url", ["", "x", "://x", "ntfy:/x", "1://x", "json://h\n/x", "json://h/" + "x" * 3_000])
    def test_what_is_no_url_never_gets_to_apprise(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(apprise_service, "_ask", lambda request: pytest.fail("it was asked"))
        with pytest.raises(InvalidInput):
            check_url(url, allow_private=False)


class TestSend:
    def test_the_check_is_made_in_another_process(self) -> None:
        assert check_url("json://127.0.0.1/x", allow_private=True) == "json://127.0.0.1…"
        with pytest.raises(InvalidInput, match="syslog:// acts on the machine"):
            check_url("syslog://", allow_private=True)

    def send(self, receiver: Receiver, schema: str = "json", query: str = "", *, allow_private: bool = True) -> Any:
        url = f"{schema}://127.0.0.1:{receiver.port}/x{query}"
        return send_apprise(url, "a title", "what happened\n\nhttps://x", allow_private=allow_private)

    def test_what_arrives(self) -> None:
        with Receiver(answers=[(200, {})]) as receiver:
            outcome = self.send(receiver)
        assert (outcome.outcome, outcome.status_code) == ("delivered", None)
        (came,) = receiver.received
        said = json.loads(came.body)
        assert (said["title"], said["message"]) == ("a title", "what happened\n\nhttps://x")

    def test_a_refusal_has_its_status_and_no_secret(self) -> None:
        with Receiver(answers=[(503, {})]) as receiver:
            outcome = self.send(receiver, query="?+X-Token=hush")
        assert (outcome.outcome, outcome.status_code) == ("refused", 503)
        assert "hush" not in (outcome.detail or "")

    def test_the_connection_itself_is_refused(self) -> None:
        """Whatever a name resolved to when it was checked, this is where it leads."""
        with Receiver() as receiver:
            outcome = self.send(receiver, allow_private=False)
        assert (outcome.outcome, receiver.received) == ("forbidden", [])
        assert "led to 127.0.0.1" in (outcome.detail or "")

    def test_nobody_listens(self) -> None:
        with Receiver() as receiver:
            port = receiver.port
        outcome = send_apprise(f"json://127.0.0.1:{port}/x", "t", "b", allow_private=True)
        assert outcome.outcome == "unreachable"

    def test_one_that_takes_too_long_is_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(apprise_service, "LIMIT_S", 0.05)
        outcome = send_apprise("json://127.0.0.1:9/x", "t", "b", allow_private=True)
        assert (outcome.outcome, "did not answer within" in (outcome.detail or "")) == ("unreachable", True)


class TestGuard:
    """What the hook decides; that it is asked is seen in TestSend."""

    @pytest.mark.parametrize(
        ("address", "allow_private", "may"),
        [
            (("1.1.1.1", 443), False, True),
            (("2606:4700::1111", 443, 0, 0), False, True),
            (("127.0.0.1", 80), False, False),
            (("127.0.0.1", 80), True, True),
            (("::1", 80, 0, 0), True, True),
            (("localhost", 80), False, False),
            (("hooks.example.com", 80), True, False),  # a name here would be resolved once more
            ("/run/docker.sock", True, False),
            (b"\x00abstract", True, False),
            ((), True, False),
        ],
    )
    def test_connections(self, address: Any, allow_private: bool, may: bool) -> None:
        assert may_reach(address, allow_private) is may

    @pytest.mark.parametrize(
        ("path", "mode", "flags", "may"),
        [
            (os.__file__, "r", os.O_RDONLY, True),
            (os.__file__.encode(), "rb", os.O_RDONLY, True),
            (os.__file__, "w", os.O_WRONLY, False),
            (os.__file__, None, os.O_RDWR, False),
            (3, "r", 0, True),
            ("/dev/null", "r", 0, True),
            ("/etc/passwd", "r", 0, False),
            ("/etc/mime.types", "r", 0, True),
            ("/proc/self/environ", "r", 0, False),
            ("~/.netrc", "r", 0, False),
            (f"{sys.prefix}/../../../../../../../../../etc/passwd", "r", 0, False),
            ("phasewatch-data/secret-key", "r", 0, False),
            (Path("/root/.ssh/id_rsa"), "r", 0, False),
        ],
    )
    def test_files(self, path: Any, mode: str | None, flags: int, may: bool) -> None:
        assert may_open(path, mode, flags) is may

    @pytest.mark.parametrize(
        ("event", "args"),
        [
            ("subprocess.Popen", ("ls", ["ls"], None, None)),
            ("os.system", ("ls",)),
            ("os.posix_spawn", ("ls", [], {})),
            ("os.exec", ("ls", [], {})),
            ("open", ("/etc/passwd", "r", 0)),
            ("open", ("/tmp/x", "w", 0)),
        ],
    )
    def test_what_a_service_may_be_without_is_no_reason_to_give_up(self, event: str, args: tuple[Any, ...]) -> None:
        refused: list[str] = []
        with pytest.raises(PermissionError):
            apprise_child.guard(True, refused)(event, args)
        assert refused == []

    @pytest.mark.parametrize("event", ["socket.connect", "socket.sendto", "socket.sendmsg"])
    def test_a_refused_address_is_named(self, event: str) -> None:
        refused: list[str] = []
        hook = apprise_child.guard(False, refused)
        for address in (("169.254.169.254", 80), "/run/docker.sock"):
            with pytest.raises(PermissionError, match="may not be reached"):
                hook(event, (None, address))
        assert refused == ["169.254.169.254", "a local socket"]
        hook(event, (None, ("93.184.215.14", 443)))
        hook(event, (None, None))
        hook("socket.gethostbyname", ("localhost",))
        assert len(refused) == 2
