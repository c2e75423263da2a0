"""What a channel wants to be told, and when: rules over what happened, and the hours in which it is left alone.

Pure: the clock is handed in. Apart from the alerts themselves, because the API takes and gives these as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal, Self
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from phasewatch.storage.limits import checked_name
from phasewatch.storage.schema import AlertKind, ChangeState

ChangeKind = Literal["level", "slope", "bump", "hidden", "spike", "divergence"]

_CLOCK = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
_FORBID = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Occurrence:
    """Something that people may want to be told of; `key` says what counts as the same.

    payload: what a receiver is given, as JSON. From `phase_change_id` on: of a phase change only, for the rules;
    `effect` in the change's own unit.
    """

    kind: AlertKind
    run_id: UUID | None
    key: str
    title: str
    payload: dict[str, Any] = field(default_factory=dict)
    phase_change_id: UUID | None = None
    change_kind: str | None = None
    induction: bool = False
    effect: float | None = None
    q_value: float | None = None
    state: ChangeState | None = None


class AllRuns(BaseModel):
    """Every run there is."""

    model_config = _FORBID

    all: Literal[True] = Field(description="true")


class OneRun(BaseModel):
    """One run."""

    model_config = _FORBID

    run: UUID = Field(description="the run's id")


class TaggedRuns(BaseModel):
    """The runs that carry a tag."""

    model_config = _FORBID

    tag: str = Field(min_length=1, max_length=200, description="the tag")

    @field_validator("tag")
    @classmethod
    def _can_be_kept(cls, tag: str) -> str:
        return checked_name("tag", tag)


class Rules(BaseModel):
    """Which occurrences a channel is told of. What is about phase changes says nothing of the other kinds."""

    model_config = _FORBID

    kinds: tuple[AlertKind, ...] = Field(
        ("phase_change", "stale_run", "divergence", "job_failed"), min_length=1, description="what is told at all"
    )
    runs: AllRuns | OneRun | TaggedRuns = Field(
        AllRuns(all=True), description='{"all": true}, {"run": id} or {"tag": text}'
    )
    states: tuple[ChangeState, ...] = Field(
        ("confirmed",),
        min_length=1,
        description="at which states of a change; withdrawn only where the channel was told of the change before",
    )
    change_kinds: tuple[ChangeKind, ...] | None = Field(None, description="only changes of these kinds; null: any")
    induction_only: bool = Field(False, strict=True, description="only the formation of induction heads")
    min_effect: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        strict=True,
        description="only changes of at least this size, each in its own unit",
    )
    max_q: float | None = Field(
        None,
        ge=0,
        le=1,
        strict=True,
        description="only changes with a q-value of at most this; those without one do not pass",
    )

    def match(self, occurrence: Occurrence, tags: Collection[str] = ()) -> bool:
        """True where a channel with these rules is to be told; tags: those of the occurrence's run."""
        if occurrence.kind not in self.kinds or not self._covers(occurrence.run_id, tags):
            return False
        return occurrence.kind != "phase_change" or self._wants(occurrence)

    def _covers(self, run_id: UUID | None, tags: Collection[str]) -> bool:
        match self.runs:
            case OneRun(run=wanted):
                return run_id == wanted
            case TaggedRuns(tag=tag):
                return tag in tags
        return True

    def _wants(self, change: Occurrence) -> bool:
        return (
            change.state in self.states
            and (change.induction or not self.induction_only)
            and (self.change_kinds is None or change.change_kind in self.change_kinds)
            and (self.min_effect is None or (change.effect is not None and change.effect >= self.min_effect))
            and (self.max_q is None or (change.q_value is not None and change.q_value <= self.max_q))
        )


class QuietHours(BaseModel):
    """The hours of every day in which nothing is sent; they may lie across midnight."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    begin: str = Field(alias="from", pattern=_CLOCK, description="when they begin, HH:MM", examples=["22:00"])
    end: str = Field(alias="to", pattern=_CLOCK, description="when they end, HH:MM", examples=["07:00"])
    zone: str = Field("UTC", max_length=64, description="time zone, such as Europe/Berlin", examples=["Europe/Berlin"])

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"time zone {name[:40]!r} is not known here; give one such as Europe/Berlin") from error
        return name

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.begin == self.end:
            raise ValueError(f"quiet hours from {self.begin} to {self.end} have no length; leave them out")
        return self

    def end_of(self, now: datetime) -> datetime | None:
        """When the quiet hours that `now` (aware) lies in end, in UTC; None outside of them."""
        zone = ZoneInfo(self.zone)
        begin, end = time.fromisoformat(self.begin), time.fromisoformat(self.end)
        local = now.astimezone(zone)
        clock = local.time().replace(tzinfo=None)
        quiet = begin <= clock < end if begin < end else clock >= begin or clock < end
        if not quiet:
            return None
        day = local.date() + timedelta(days=1) if clock >= end else local.date()
        return datetime.combine(day, end, zone).astimezone(UTC)
