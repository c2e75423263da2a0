"""Sends signed webhooks: one POST to a checked address, no redirect followed, bounded in time and in what is read."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore

import phasewatch
from phasewatch import webhooks
from phasewatch.errors import AddressRefused
from phasewatch.storage.schema import DeliveryOutcome
from server.alerts.addresses import Resolve, checked_addresses, parse_target, resolve

CONNECT_S = 5.0
DEADLINE_S = 20.0  # of a whole attempt, however slowly an answer drips
MAX_RETRY_AFTER_S = 6 * 3600.0
_REDIRECT = "redirects are not followed; give the address it leads to"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt. took_ms: of the attempt; retry_after_s: what the receiver asked for."""

    outcome: DeliveryOutcome
    took_ms: float
    status_code: int | None = None
    detail: str | None = None
    retry_after_s: float | None = None


def send_webhook(
    url: str, secret: str, delivery: str, body: bytes, *, allow_private: bool, resolver: Resolve = resolve
) -> Outcome:
    """Makes one attempt; whatever happens is in its outcome. What the receiver answers is never read past its head."""
    begin = time.monotonic()
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"phasewatch/{phasewatch.__version__}",
        webhooks.TIMESTAMP: str(timestamp),
        webhooks.DELIVERY: delivery,
        webhooks.SIGNATURE: webhooks.sign(secret, timestamp, body),
    }
    try:
        status, answered = _post(url, headers, body, _Network(begin + DEADLINE_S, allow_private, resolver))
    except AddressRefused as error:
        return Outcome("forbidden", _ms_since(begin), detail=str(error))
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
        detail = f"{type(error).__name__}: {error}".rstrip(": ")
        return Outcome("unreachable", _ms_since(begin), detail=detail)
    if 200 <= status < 300:
        return Outcome("delivered", _ms_since(begin), status)
    led_on = 300 <= status < 400
    wait_s = retry_after_s(answered.get("retry-after"), datetime.now(UTC))
    return Outcome("refused", _ms_since(begin), status, _REDIRECT if led_on else None, wait_s)


def _post(url: str, headers: Mapping[str, str], body: bytes, network: _Network) -> tuple[int, dict[str, str]]:
    """The status and the headers of the answer."""
    target = parse_target(url)
    parts = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    timeouts = {"connect": CONNECT_S, "read": DEADLINE_S, "write": DEADLINE_S, "pool": DEADLINE_S}
    with httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=network) as pool:
        sent: list[tuple[bytes | str, bytes | str]] = [("Host", target.authority), *headers.items()]
        with pool.stream(
            "POST", parts, headers=[*sent, ("Connection", "close")], content=body, extensions={"timeout": timeouts}
        ) as answer:
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            return answer.status, found


class _Network(httpcore.NetworkBackend):
    """Connects to an address that was checked, and lets nothing go on past the deadline."""

    def __init__(self, deadline: float, allow_private: bool, resolver: Resolve) -> None:
        self._deadline, self._allow_private, self._resolver = deadline, allow_private, resolver
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = checked_addresses(host, port, allow_private=self._allow_private, resolver=self._resolver)
        failure: Exception | None = None
        for address in addresses[:3]:
            try:
                left = min(_left(self._deadline), CONNECT_S)
                stream = self._sockets.connect_tcp(address, port, left, local_address, socket_options)
                return _Stream(stream, self._deadline)
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        raise AddressRefused("a webhook goes over the network")

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, _left(self._deadline)))


class _Stream(httpcore.NetworkStream):
    """A stream on which every wait ends at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout(f"no answer within {DEADLINE_S:g} s")
    return left


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks to wait, six hours at most; None where it says nothing usable."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


def _ms_since(begin: float) -> float:
    return round(1000 * (time.monotonic() - begin), 1)
