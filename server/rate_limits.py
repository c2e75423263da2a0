"""How often somebody may ask: token buckets in this process, a minute's worth deep.

Each API process counts for itself, so that a limit costs no database; with n of them a caller gets up to n times that.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from server.problems import TooManyRequests
from server.settings import Settings

MAX_KEYS = 10_000
_MINUTE_S = 60.0


class Buckets:
    """A bucket a key: it holds `per_minute` requests and fills again at that rate; 0 is no limit."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = float(per_minute)
        self._rate = per_minute / _MINUTE_S
        self._clock = clock
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # key -> what was left, and when

    def has(self, key: Hashable) -> bool:
        """True where a request could be taken now."""
        left, then = self._left.get(key, (self._size, self._clock()))
        return not self._rate or left + (self._clock() - then) * self._rate >= 1.0

    def take(self, key: Hashable) -> float:
        """Takes one request out of a bucket: 0.0, or the seconds until there is one where it is empty."""
        if not self._rate:
            return 0.0
        now = self._clock()
        left, then = self._left.pop(key, (self._size, now))
        left = min(self._size, left + (now - then) * self._rate)
        taken = left >= 1.0
        self._left[key] = (left - 1.0 if taken else left, now)
        if len(self._left) > MAX_KEYS:  # the one that was asked for the longest time ago, so the fullest
            self._left.popitem(last=False)
        return 0.0 if taken else (1.0 - left) / self._rate


class RateLimits:
    """The buckets of one process: requests and ingest a token, and whoever shows no valid token by address."""

    def __init__(self, settings: Settings) -> None:
        self._requests = Buckets(settings.rate_limit)
        self._ingest = Buckets(settings.ingest_rate_limit)
        self._public = Buckets(settings.rate_limit)
        self._attempts = Buckets(settings.attempt_limit)

    def take_request(self, token_id: int, *, ingest: bool) -> None:
        """Counts a request of a token. Raises TooManyRequests."""
        kind, buckets = ("writes of recordings", self._ingest) if ingest else ("requests", self._requests)
        _check(buckets.take(token_id), f"this token sends more {kind} than PHASEWATCH_{_setting(ingest)} allows")

    def take_public(self, address: str) -> None:
        """Counts a request to a route that needs no token. Raises TooManyRequests."""
        _check(self._public.take(network(address)), f"{address} asks more often than PHASEWATCH_RATE_LIMIT allows")

    def may_attempt(self, address: str) -> bool:
        """False where an address has used up its attempts, so that another is not even looked up."""
        return self._attempts.has(network(address))

    def take_attempt(self, address: str) -> None:
        """Counts a request without a valid token. Raises TooManyRequests."""
        wait_s = self._attempts.take(network(address))
        _check(wait_s, f"{address} sent too many requests without a valid token (PHASEWATCH_ATTEMPT_LIMIT)")


def network(address: str) -> str:
    """What of an address is counted as one: the whole of IPv4, the first 64 bits of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))


def _setting(ingest: bool) -> str:
    return "INGEST_RATE_LIMIT" if ingest else "RATE_LIMIT"


def _check(wait_s: float, why: str) -> None:
    if wait_s > 0:
        raise TooManyRequests(why, wait_s)
