"""When a monitor is due: intervals, cron lines and "each checkpoint" against a clock. Pure.

Apart from what monitors find to do, which asks the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from apscheduler.triggers.cron import CronTrigger

from phasewatch.errors import InvalidInput

EACH_CHECKPOINT_S = 1.0
_CRON_LOOK_BACK = tuple(timedelta(**{unit: n}) for unit, n in (("minutes", 1), ("hours", 1), ("days", 1), ("days", 32)))


@dataclass(frozen=True)
class Due:
    """A time at which a monitor is to fire; `coalesced` when older ones were missed and this one stands for them.

    `only_with_work`: no firing where there is nothing to do.
    """

    at: datetime
    coalesced: bool = False
    only_with_work: bool = False


def next_firing(trigger: Mapping[str, Any], created_at: datetime, last: datetime | None, now: datetime) -> Due | None:
    """When a monitor should have fired last, unless it did; None when it is not due.

    trigger: {"every_s": n}, aligned to `created_at`; {"cron": five fields, in UTC}; or {"each_checkpoint": true}. last:
    the time its newest firing stands for. Raises InvalidInput for another trigger.
    """
    since = created_at if last is None else last
    match dict(trigger):
        case {"each_checkpoint": True}:
            at = _aligned(created_at, EACH_CHECKPOINT_S, now)
            return Due(at, only_with_work=True) if last is None or at > last else None
        case {"every_s": (int() | float()) as every_s} if every_s >= 1:
            at = _aligned(created_at, every_s, now)
            missed = at - since > timedelta(seconds=every_s * 1.5)
            return Due(at, coalesced=missed) if at > since else None
        case {"cron": str() as crontab}:
            return _next_by_cron(crontab, since, now)
    raise InvalidInput(
        f'trigger {dict(trigger)} is not known; use {{"every_s": n}} with n from 1, {{"cron": "m h d m w"}} '
        'or {"each_checkpoint": true}'
    )


def _aligned(created_at: datetime, every_s: float, now: datetime) -> datetime:
    periods = (now - created_at) // timedelta(seconds=every_s)
    return created_at + periods * timedelta(seconds=every_s)


def _next_by_cron(crontab: str, since: datetime, now: datetime) -> Due | None:
    cron = read_cron(crontab)
    first = _after(cron, since)
    if first is None or first > now:
        return None
    newest = first
    # The newest due time, looked for in the last minute first: a monitor that slept for a year is not walked through.
    for span in (*_CRON_LOOK_BACK, now - since):
        at = _after(cron, max(since, now - span))
        if at is not None and at <= now:
            while at is not None and at <= now:
                newest, at = at, _after(cron, at)
            break
    return Due(newest, coalesced=newest > first)


def _after(cron: CronTrigger, since: datetime) -> datetime | None:
    """The first time strictly after `since`."""
    at: datetime | None = cron.get_next_fire_time(None, since + timedelta(microseconds=1))
    return at


def coming_times(crontab: str, now: datetime, count: int) -> list[datetime]:
    """The next times of a cron line after `now`, at most `count`. Raises InvalidInput as `read_cron` does."""
    cron, found = read_cron(crontab), [now]
    while len(found) <= count and (at := _after(cron, found[-1])) is not None:
        found.append(at)
    return found[1:]


# Cron lines: minute, hour, day of month, month, weekday.

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of each month


@dataclass(frozen=True)
class _Field:
    """One of the five: what it is called, its first and last number, how a number is written, and words for some."""

    name: str
    first: int
    last: int
    pattern: str
    words: tuple[str, ...] = ()
    first_word: int = 0

    def read(self, text: str) -> set[int]:
        """The numbers that `*`, `*/5`, `7`, `8-17`, `22-4/2` or several of these by comma mean."""
        return set().union(*(self._read_part(part) for part in text.split(",")))

    def _read_part(self, part: str) -> set[int]:
        span, slash, step = part.partition("/")
        low, dash, high = span.partition("-")
        if span == "*":
            first, last = self.first, self.last
        elif dash:
            first, last = self._number(low), self._number(high)
        else:
            first = self._number(low)
            last = self.last if slash else first
        every = int(step) if slash else 1
        if every < 1:
            raise ValueError(f"{part!r} steps by {every}")
        if last < first:  # over the end and on from the beginning: 22-4
            last += self.last - self.first + 1
        return {(n - self.first) % (self.last - self.first + 1) + self.first for n in range(first, last + 1, every)}

    def _number(self, text: str) -> int:
        number = self.words.index(text) + self.first_word if text in self.words else int(text)
        if self.name == "weekday" and number == 7:
            return 0
        if not self.first <= number <= self.last:
            raise ValueError(f"{self.name} {number} lies outside {self.first} to {self.last}")
        return number


_FIELDS = (
    _Field("minute", 0, 59, "[0-5]?[0-9]"),
    _Field("hour", 0, 23, "[01]?[0-9]|2[0-3]"),
    _Field("day", 1, 31, "0?[1-9]|[12][0-9]|3[01]"),
    _Field("month", 1, 12, "|".join(("0?[1-9]", "1[0-2]", *_MONTHS)), _MONTHS, 1),
    _Field("weekday", 0, 6, "|".join(("[0-7]", *_WEEKDAYS)), _WEEKDAYS),
)


def _pattern(field: _Field) -> str:
    one = rf"(\*|({field.pattern})(-({field.pattern}))?)(/[1-9][0-9]?)?"
    return f"{one}(,{one})*"


CRON_PATTERN = f"^{' '.join(_pattern(field) for field in _FIELDS)}$"
"""What a cron line looks like; only days that no month has are left to `read_cron`."""


@lru_cache(maxsize=1_000)
def read_cron(crontab: str) -> CronTrigger:
    """The trigger of a cron line in UTC; weekday 0 and 7 are Sunday, and a day and a weekday must both hold.

    Raises InvalidInput naming what cannot be read, or that no month has the day.
    """
    fields = crontab.lower().split()
    if len(fields) != len(_FIELDS):
        raise InvalidInput(f"cron {crontab!r} has {len(fields)} fields; give minute, hour, day, month and weekday")
    try:
        minutes, hours, days, months, weekdays = (
            sorted(field.read(text)) for field, text in zip(_FIELDS, fields, strict=True)
        )
    except ValueError as error:
        raise InvalidInput(f"cron {crontab!r} cannot be read: {error}") from error
    if min(days) > max(_LONGEST[month - 1] for month in months):
        raise InvalidInput(f"cron {crontab!r} never comes: none of its months has a day {min(days)}")
    return CronTrigger(
        minute=_listed(minutes), hour=_listed(hours), day=_listed(days), month=_listed(months),
        day_of_week=",".join(_WEEKDAYS[day] for day in weekdays), timezone=UTC,
    )  # fmt: skip


def _listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))
