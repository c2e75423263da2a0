"""Sending webhooks over real sockets: what arrives, what is made of answers, and where no connection is made to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from phasewatch.webhooks import verify_signature
from server.alerts import webhook
from server.alerts.webhook import Outcome, retry_after_s, send_webhook
from tests.webhook_receiver import Receiver

BODY = b'{"delivery": "d1", "alerts": []}'


def send(url: str, *, allow_private: bool = True) -> Outcome:
    return send_webhook(url, "pws_x", "d1", BODY, allow_private=allow_private)


@contextmanager
def speaking(*parts: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """A server that reads a request and answers with these parts, whatever they are, a pause between two."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                for part in parts:
                    try:
                        connection.sendall(part)
                    except OSError:
                        return
                    if done.wait(pause_s):
                        return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        done.set()
        thread.join()


class TestSend:
    def test_what_arrives_is_signed(self) -> None:
        with Receiver() as receiver:
            outcome = send(receiver.url)
        (came,) = receiver.received
        assert (outcome.outcome, outcome.status_code) == ("delivered", 204)
        assert came.path == "/hooks/secret-path?token=abc"
        assert came.headers["Host"] == f"127.0.0.1:{receiver.port}"
        assert came.headers["Content-Type"] == "application/json"
        assert verify_signature("pws_x", came.headers, came.body) == "d1"

    @pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503])
    def test_another_answer_than_2xx_is_a_refusal(self, status: int) -> None:
        with Receiver(answers=[(status, {"Retry-After": "7"})]) as receiver:
            outcome = send(receiver.url)
        assert (outcome.outcome, outcome.status_code, outcome.retry_after_s) == ("refused", status, 7.0)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_not_followed(self, status: int) -> None:
        with Receiver() as elsewhere, Receiver(answers=[(status, {"Location": elsewhere.url})]) as receiver:
            outcome = send(receiver.url)
        assert (outcome.outcome, outcome.status_code) == ("refused", status)
        assert "redirects are not followed" in (outcome.detail or "")
        assert (len(receiver.received), elsewhere.received) == (1, [])

    def test_a_private_address_is_never_connected_to(self) -> None:
        with Receiver() as receiver:
            outcome = send(receiver.url, allow_private=False)
        assert outcome.outcome == "forbidden"
        assert "127.0.0.1, which is not an address of the public internet" in (outcome.detail or "")
        assert receiver.received == []

    def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(self) -> None:
        asked = []

        def resolver(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

        with Receiver() as receiver:
            url = f"http://hooks.example.com:{receiver.port}/x"
            outcome = send_webhook(url, "s", "d1", BODY, allow_private=True, resolver=resolver)
        assert (outcome.outcome, asked) == ("delivered", ["hooks.example.com"])
        assert receiver.received[0].headers["Host"] == f"hooks.example.com:{receiver.port}"

    def test_a_name_that_turned_private_since_it_was_added(self) -> None:
        with Receiver() as receiver:
            url = f"http://hooks.example.com:{receiver.port}/x"
            outcome = send_webhook(
                url, "s", "d1", BODY, allow_private=False, resolver=lambda *_: ["93.184.215.14", "127.0.0.1"]
            )
        assert (outcome.outcome, receiver.received) == ("forbidden", [])

    def test_nobody_listens(self) -> None:
        with Receiver() as receiver:
            url = receiver.url
        outcome = send(url)
        assert (outcome.outcome, outcome.status_code) == ("unreachable", None)
        assert "ConnectError" in (outcome.detail or "")

    def test_a_name_without_an_address(self) -> None:
        def resolver(host: str, port: int) -> list[str]:
            raise socket.gaierror(-2, "Name or service not known")

        outcome = send_webhook("https://x.example/", "s", "d", BODY, allow_private=False, resolver=resolver)
        assert (outcome.outcome, "not known" in (outcome.detail or "")) == ("unreachable", True)

    def test_a_certificate_that_is_none(self) -> None:
        with Receiver() as receiver:
            outcome = send(receiver.url.replace("http://", "https://"))
        assert outcome.outcome == "unreachable"

    @pytest.mark.parametrize(
        "answer",
        [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 999999 x\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000],
        ids=["nothing", "nonsense", "a status that is none", "headers without end"],
    )
    def test_an_answer_that_is_none(self, answer: bytes) -> None:
        with speaking(answer) as url:
            assert send(url).outcome == "unreachable"

    def test_a_body_without_end_is_not_read(self) -> None:
        begin = time.monotonic()
        with speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 1_000_000, pause_s=30.0) as url:
            assert send(url).outcome == "delivered"
        assert time.monotonic() - begin < 10

    def test_an_answer_that_drips_ends_at_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(webhook, "DEADLINE_S", 0.5)
        with speaking(*[bytes([byte]) for byte in b"HTTP/1.1 200 OK" * 100], pause_s=0.05) as url:
            outcome = send(url)
        assert outcome.outcome == "unreachable"
        assert 400 < outcome.took_ms < 5_000


class TestRetryAfter:
    NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            (None, None),
            ("0", 0.0),
            (" 120 ", 120.0),
            ("999999999999999", 21_600.0),
            ("Mon, 30 Nov 2026 12:01:30 GMT", 90.0),
            ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0),
            ("Mon, 30 Nov 2099 12:00:00 GMT", 21_600.0),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("", None),
            ("٣", None),
        ],
    )
    def test_seconds_to_wait(self, header: str | None, seconds: float | None) -> None:
        assert retry_after_s(header, self.NOW) == seconds
