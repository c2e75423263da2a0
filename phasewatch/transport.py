"""Sends what a recorder has queued: in order, from a thread of its own, until the server has taken it or refused it.

Apart from the recorder, which knows runs and models, because here is all that can wait. A server that is away
(connection refused or lost, 429, 502, 503, 504) is asked again until it is back; what it refuses is reported and left
out. Every request is idempotent on the server, so one whose answer was lost is simply repeated. Where the queue lies on
disk, a refused token is a server that is away: what was recorded waits for a better one.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from phasewatch.client import error_of
from phasewatch.errors import PhasewatchError
from phasewatch.outbox import JSON, Gate, Item, Message, Point, Queue, json_body

logger = logging.getLogger("phasewatch")

THREAD_NAME: Final = "phasewatch-sender"
_AWAY: Final = frozenset({408, 425, 429, 502, 503, 504})
_DIVISIBLE: Final = frozenset({409, 413, 422})  # refusals that may be about one value of a batch
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_LONGEST_RETRY_AFTER_S: Final = 300.0
_TOKEN_REFUSED: Final = frozenset({401, 403})
_TOKEN_PAUSE_S: Final = 30.0
_BROKEN_ATTEMPTS: Final = 5  # at a request that the server answers with an error of its own
_ERRORS_KEPT: Final = 20

Value = float | str | None  # as JSON, which has no infinity and no NaN
Metric = tuple[int, str, Value]  # step, name, value


@dataclass
class Route:
    """A queue, where its metrics go, and what was learnt while it was sent.

    ends: it is closed once it is empty, since nobody puts anything into it.
    """

    outbox: Queue
    series_path: str
    segment: int | None = None
    shut: set[Gate] = field(default_factory=set)
    ends: bool = False

    @property
    def note(self) -> dict[str, Any]:
        """What whoever sends the rest must know."""
        return {"segment": self.segment, "shut": [gate.name for gate in self.shut]}


class Sender:
    """Empties outboxes into a server, one after the other.

    `refused` counts messages and metrics that the server would not take; `errors` holds the newest reasons.
    """

    def __init__(
        self, routes: Iterable[Route], http: httpx.Client, *, pause: Callable[[float], bool] | None = None
    ) -> None:
        """routes: gone through in the thread. `pause` waits so many seconds and is true where the sender should end
        (tests give their own)."""
        self.refused = 0
        self.errors: deque[PhasewatchError] = deque(maxlen=_ERRORS_KEPT)
        self._routes = routes
        self._http = http
        self._stopped = threading.Event()
        self._pause = pause or self._stopped.wait
        self._reported: set[tuple[str, int]] = set()
        self._away_since: float | None = None
        self._random = random.Random()  # not the caller's random state
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; it does not in a process forked from the one that started it."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Ends the thread, at once where it pauses; a request that is under way is not waited for any longer."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def note_failure(self, item: Item, error: Exception, n_items: int = 1) -> None:
        """Reports what could not even be asked."""
        kind = item.kind if isinstance(item, Message) else "metrics"
        self._report(kind, 0, PhasewatchError(f"{type(error).__name__}: {error}"), n_items)

    def _run(self) -> None:
        quiet = _OthersOnly()
        logging.getLogger("httpx").addFilter(quiet)
        try:
            for route in self._routes:
                self._empty(route)
                if self._stopped.is_set():
                    break
        finally:
            logging.getLogger("httpx").removeFilter(quiet)
            self._http.close()

    def _empty(self, route: Route) -> None:
        """Sends what a queue holds and gets, until it is closed or, where it ends, empty."""
        try:
            while not self._stopped.is_set() and (items := route.outbox.head()):
                self._deliver(route, items)
                if not self._stopped.is_set():
                    route.outbox.drop(len(items), route.note)
        finally:
            if route.ends:
                route.outbox.close()

    def _deliver(self, route: Route, items: Sequence[Item]) -> None:
        """Sends one message, or metrics, until they are taken or refused."""
        try:
            if isinstance(items[0], Message):
                self._send_message(route, items[0])
            else:
                for batch in batches(item for item in items if isinstance(item, Point)):
                    self._send_metrics(route, batch)
        except Exception as error:  # a body that cannot be made must not end the sending of all the others
            self.note_failure(items[0], error, len(items))

    def _send_message(self, route: Route, message: Message) -> None:
        shut = next((gate for gate in message.needs if gate in route.shut), None)
        if shut is not None:
            self._report(message.kind, 0, PhasewatchError(f"not sent, since {shut.value} was refused"))
            return
        response = self._request(
            route, message.method, message.path, message.body(), message.content_type, in_segment=message.in_segment
        )
        if response is None:
            return
        if response.is_success:
            route.segment = int(response.json()["number"]) if message.begins_segment else route.segment
            return
        if message.opens is not None:
            route.shut.add(message.opens)
        if not message.may_fail:
            self._report(message.kind, response.status_code, error_of(response))

    def _send_metrics(self, route: Route, batch: Sequence[Metric]) -> None:
        """Sends metrics; where the server refuses a batch because of some value, only that one is left out."""
        if Gate.RUN in route.shut:
            error = PhasewatchError(f"not sent, since {Gate.RUN.value} was refused")
            self._report("metrics", 0, error, len(batch))
            return
        response = self._request(route, "POST", route.series_path, _series_body(batch), JSON, in_segment=True)
        if response is None or response.is_success:
            return
        if len(batch) > 1 and response.status_code in _DIVISIBLE:
            self._send_metrics(route, batch[: len(batch) // 2])
            self._send_metrics(route, batch[len(batch) // 2 :])
        else:
            self._report("metrics", response.status_code, error_of(response), len(batch))

    def _request(
        self, route: Route, method: str, path: str, content: bytes, content_type: str, *, in_segment: bool
    ) -> httpx.Response | None:
        """The server's last word on a request; None where the sender was stopped before there was one."""
        params = {"segment": route.segment} if in_segment and route.segment is not None else None
        attempts = 0
        while not self._stopped.is_set():
            attempts += 1
            asked_s = None
            try:
                response = self._http.request(
                    method, path, content=content, params=params, headers={"Content-Type": content_type}
                )
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            else:
                if route.outbox.outlives_process and response.status_code in _TOKEN_REFUSED:
                    reason, asked_s = self._note_token(response), _TOKEN_PAUSE_S
                elif _is_away(response, attempts):
                    reason, asked_s = f"it answers {response.status_code}", _retry_after_s(response)
                else:
                    self._note_back(len(route.outbox))
                    return response
            self._note_away(reason)
            if self._pause(self._backoff_s(attempts) if asked_s is None else asked_s):
                break
        return None

    def _note_token(self, response: httpx.Response) -> str:
        """Lets a strict recorder know that the token is refused, once an absence."""
        error = error_of(response)
        if self._away_since is None:
            self.errors.append(error)
        return str(error)

    def _backoff_s(self, attempts: int) -> float:
        longest = min(_FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 30), _LONGEST_PAUSE_S)
        return longest * self._random.uniform(0.5, 1.0)

    def _note_away(self, reason: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            server = self._http.base_url.netloc.decode()
            message = "phasewatch: the server at %s is away (%s); recording goes on, and is sent when it is back"
            logger.warning(message, server, reason)

    def _note_back(self, n_left: int) -> None:
        if self._away_since is not None:
            away_s, self._away_since = time.monotonic() - self._away_since, None
            logger.info("phasewatch: the server is back after %.0f s; %d items to send", away_s, n_left)

    def _report(self, kind: str, status: int, error: PhasewatchError, n_refused: int = 1) -> None:
        """Counts what was not taken, and says so the first time that it happens to this kind in this way."""
        self.refused += n_refused
        self.errors.append(error)
        level = logging.DEBUG if (kind, status) in self._reported else logging.ERROR
        self._reported.add((kind, status))
        logger.log(level, "phasewatch: %s not recorded: %s (more like it is counted, not shown)", kind, error)


def batches(points: Iterable[Point]) -> list[list[Metric]]:
    """Metrics in batches, in order; no batch gives a step's metric twice, unless both values are the same."""
    found: list[dict[tuple[int, str], Value]] = [{}]
    for point in points:
        for name, given in point.values.items():
            value = _as_json(given() if callable(given) else given)
            if found[-1].get((point.step, name), value) != value:
                found.append({})
            found[-1][point.step, name] = value
    return [[(step, name, value) for (step, name), value in batch.items()] for batch in found if batch]


def _series_body(batch: Sequence[Metric]) -> bytes:
    by_step: dict[int, dict[str, Value]] = {}
    for step, name, value in batch:
        by_step.setdefault(step, {})[name] = value
    return json_body({"points": [{"step": step, "values": values} for step, values in by_step.items()]})()


def _as_json(value: float) -> Value:
    """A metric as the API takes it."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _is_away(response: httpx.Response, attempts: int) -> bool:
    """Whether asking again may help. An error of the server's own may lie in the request, so that has an end."""
    return response.status_code in _AWAY or (response.is_server_error and attempts < _BROKEN_ATTEMPTS)


def _retry_after_s(response: httpx.Response) -> float | None:
    """The pause that the server asks for, in seconds or as a date; None where it does not."""
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdigit():
        seconds = float(asked)
    else:
        try:
            until = parsedate_to_datetime(asked)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(seconds, _FIRST_PAUSE_S), _LONGEST_RETRY_AFTER_S)


class _OthersOnly(logging.Filter):
    """Keeps httpx from writing each of our requests into the log of the caller's training."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName != THREAD_NAME
