"""Monitors and firings as the API takes and gives them: a form for each kind, so that each parameter is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.types import Discriminator, Tag

from phasewatch.errors import Conflict
from phasewatch.storage.monitors import EDITABLE
from phasewatch.storage.retention import RetentionRules
from phasewatch.storage.schema import Firing, Job, JobState, Monitor
from server.schemas.measures import MeasureLabel
from server.schemas.values import Name
from server.triggers import CRON_PATTERN, read_cron

LONGEST_S = 366 * 86_400
FOLDER = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$"
"""Names with / between; none begins with a dot, so that none leads upwards."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


# Which runs.


class RunSelector(_Strict):
    """One run."""

    run: UUID = Field(description="the run's id")


class TagSelector(_Strict):
    """Runs by tag, those to come included."""

    tag: Name = Field(description="every run that carries this tag")


class AllSelector(_Strict):
    """Every run."""

    all: Literal[True] = Field(description="true: every run there is and will be")


# When.


def _checked_cron(text: str) -> str:
    read_cron(text)
    if re.fullmatch(CRON_PATTERN, text) is None:
        raise ValueError(f"cron {text!r} is to be written in small letters with one space between its fields")
    return text


Seconds = Annotated[float, Field(ge=1, le=LONGEST_S, strict=True, allow_inf_nan=False)]


class IntervalTrigger(_Strict):
    """Again and again, counted from the monitor's creation."""

    every_s: Seconds = Field(description="seconds between two firings")


# The pattern is for whoever reads the document; a line that is wrong gets `read_cron`'s words.
CronLine = Annotated[
    str, Field(max_length=200, json_schema_extra={"pattern": CRON_PATTERN}), AfterValidator(_checked_cron)
]


class CronTrigger(_Strict):
    """By the clock, in UTC."""

    cron: CronLine = Field(
        description="minute, hour, day, month, weekday (0 and 7: Sunday); a day and a weekday must both hold"
    )


class CheckpointTrigger(_Strict):
    """Within a second of each checkpoint."""

    each_checkpoint: Literal[True] = Field(description="true: as soon as a checkpoint is recorded")


def _only_key(value: Any) -> str | None:
    """The one key of an object, which says which form it is of."""
    given = value.model_dump() if isinstance(value, BaseModel) else value
    keys = list(given) if isinstance(given, dict) else []
    return str(keys[0]) if len(keys) == 1 else None


Selector = Annotated[
    Annotated[RunSelector, Tag("run")] | Annotated[TagSelector, Tag("tag")] | Annotated[AllSelector, Tag("all")],
    Discriminator(
        _only_key,
        custom_error_type="selector",
        custom_error_message='give {"run": id}, {"tag": text} or {"all": true}',
    ),
]
Trigger = Annotated[
    Annotated[IntervalTrigger, Tag("every_s")]
    | Annotated[CronTrigger, Tag("cron")]
    | Annotated[CheckpointTrigger, Tag("each_checkpoint")],
    Discriminator(
        _only_key,
        custom_error_type="trigger",
        custom_error_message='give {"every_s": n}, {"cron": "m h d m w"} or {"each_checkpoint": true}',
    ),
]
ClockTrigger = Annotated[
    Annotated[IntervalTrigger, Tag("every_s")] | Annotated[CronTrigger, Tag("cron")],
    Discriminator(
        _only_key,
        custom_error_type="trigger",
        custom_error_message='give {"every_s": n} or {"cron": "m h d m w"}; this kind does not wait for checkpoints',
    ),
]


# What else each kind is told.


class NoParameters(_Strict):
    """Nothing: everything there is to do is done."""


class CompareParameters(_Strict):
    """What is compared."""

    measure: MeasureLabel = Field("icl_score", description="a number, or a score of heads")


class SilenceParameters(_Strict):
    """When a run counts as silent."""

    after_s: Seconds = Field(600, description="seconds without a heartbeat or new data")


class DivergenceParameters(_Strict):
    """Which loss is looked at."""

    series: Name | None = Field(
        None, description="a logged metric, in nats; null: the mean loss of each slice, or the metric `loss`"
    )


class FolderParameters(_Strict):
    """Which folder is looked at."""

    folder: str = Field(
        pattern=FOLDER, max_length=1_000, description="a folder below PHASEWATCH_WATCH_ROOT, such as project/run-1"
    )
    stable_s: Annotated[float, Field(ge=0, le=86_400, strict=True, allow_inf_nan=False)] = Field(
        10, description="seconds since a file was last written to before it is read"
    )


class _MonitorCreate(_Strict):
    name: Name = Field(description="what people call it")
    selector: Selector = Field(description="the runs it watches")
    enabled: bool = Field(True, strict=True, description="whether it fires")


class ScoreMonitor(_MonitorCreate):
    """Measures every checkpoint that is not measured yet."""

    kind: Literal["score"] = Field(description="what it does at each firing")
    trigger: Trigger = Field(description="when it is due")
    parameters: NoParameters = Field(NoParameters(), description="none")


class ScanMonitor(_MonitorCreate):
    """Looks for phase changes in every run of which enough is new."""

    kind: Literal["scan"] = Field(description="what it does at each firing")
    trigger: Trigger = Field(description="when it is due")
    parameters: NoParameters = Field(NoParameters(), description="none")


class AblateMonitor(_MonitorCreate):
    """Silences the heads of each confirmed change at the checkpoints around it."""

    kind: Literal["ablate_on_change"] = Field(description="what it does at each firing")
    trigger: Trigger = Field(description="when it is due")
    parameters: NoParameters = Field(NoParameters(), description="none")


class CompareMonitor(_MonitorCreate):
    """Sets the runs beside one another; the comparison is the result of its job."""

    kind: Literal["compare"] = Field(description="what it does at each firing")
    trigger: Trigger = Field(description="when it is due; at each checkpoint of any of the runs")
    parameters: CompareParameters = Field(CompareParameters(), description="what is compared")


class SilenceMonitor(_MonitorCreate):
    """Tells of running runs that fell silent, once for each silence."""

    kind: Literal["stale_run"] = Field(description="what it does at each firing")
    trigger: ClockTrigger = Field(description="when it is due")
    parameters: SilenceParameters = Field(SilenceParameters(), description="when a run counts as silent")


class DivergenceMonitor(_MonitorCreate):
    """Tells of runs whose loss had fallen and rises again to stay."""

    kind: Literal["divergence"] = Field(description="what it does at each firing")
    trigger: Trigger = Field(description="when it is due")
    parameters: DivergenceParameters = Field(DivergenceParameters(), description="which loss is looked at")


class RetentionMonitor(_MonitorCreate):
    """Removes weights and makes losses smaller that the rules do not keep; what was freed is the result of its job."""

    kind: Literal["retention"] = Field(description="what it does at each firing")
    trigger: Trigger = Field(description="when it is due; at each checkpoint of any of the runs")
    parameters: RetentionRules = Field(RetentionRules(), description="what is kept")


class FolderMonitor(_MonitorCreate):
    """Registers checkpoints that a foreign trainer writes into a folder."""

    kind: Literal["watch_folder"] = Field(description="what it does at each firing")
    selector: RunSelector = Field(description="the run whose checkpoints they are")
    trigger: ClockTrigger = Field(description="when it is due")
    parameters: FolderParameters = Field(description="which folder is looked at")


MonitorCreate = Annotated[
    ScoreMonitor
    | ScanMonitor
    | AblateMonitor
    | CompareMonitor
    | RetentionMonitor
    | FolderMonitor
    | SilenceMonitor
    | DivergenceMonitor,
    Field(discriminator="kind"),
]
_FORMS: TypeAdapter[MonitorCreate] = TypeAdapter(MonitorCreate)


class AnyParameters(RetentionRules):
    """Parameters of any kind, those of the monitor's own; of kind retention where nothing else is said."""

    measure: MeasureLabel | None = Field(None, description="of kind compare")
    after_s: Seconds | None = Field(None, description="of kind stale_run")
    series: Name | None = Field(None, description="of kind divergence")
    folder: str | None = Field(None, pattern=FOLDER, max_length=1_000, description="of kind watch_folder")
    stable_s: Annotated[float, Field(ge=0, le=86_400, strict=True)] | None = Field(
        None, description="of kind watch_folder"
    )


class MonitorEdit(_Strict):
    """What is to change; what is left out stays as it is. The kind is for ever."""

    name: Name | None = Field(None, description="what people call it")
    selector: Selector | None = Field(None, description="the runs it watches")
    trigger: Trigger | None = Field(None, description="when it is due")
    parameters: AnyParameters | None = Field(None, description="what its jobs are told, in place of all it was told")
    enabled: bool | None = Field(None, strict=True, description="whether it fires")

    def changes(self, row: Monitor) -> dict[str, Any]:
        """The columns that change. Raises Conflict for a trigger or parameters that its kind does not have."""
        given = self.model_dump(mode="json", exclude_unset=True)
        given = {name: value for name, value in given.items() if value is not None}
        whole = {"kind": row.kind} | {name: getattr(row, name) for name in EDITABLE} | given
        try:
            form = _FORMS.validate_python(whole)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"][1:])
            raise Conflict(f"monitor {row.id} is of kind {row.kind}: {where}: {first['msg']}") from error
        columns = columns_of(form)
        return {name: columns[name] for name in given}


def columns_of(form: BaseModel) -> dict[str, Any]:
    """A form as the columns of a monitor, every parameter spelt out."""
    return form.model_dump(mode="json")


class MonitorOut(BaseModel):
    """A scheduled watch on runs."""

    id: int = Field(description="its id")
    name: str = Field(description="what people call it")
    kind: str = Field(description="what its jobs do, such as score or scan")
    selector: dict[str, Any] = Field(description='the runs it watches: {"run": id}, {"tag": text} or {"all": true}')
    trigger: dict[str, Any] = Field(
        description='when it is due: {"every_s": n}, {"cron": text} or {"each_checkpoint": true}'
    )
    parameters: dict[str, Any] = Field(description="what its jobs are told")
    enabled: bool = Field(description="whether it fires")
    created_at: datetime = Field(description="when it was made, UTC; intervals count from here")

    @classmethod
    def of(cls, row: Monitor) -> Self:
        """The monitor of a row."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class FiringJob(BaseModel):
    """A job that a firing asked for; GET /jobs/{id} says more."""

    id: int = Field(description="its id")
    kind: str = Field(description="what it does")
    run: UUID | None = Field(description="the run it works on")
    step: int | None = Field(description="the step it works on")
    state: JobState = Field(description="where it stands")

    @classmethod
    def of(cls, row: Job) -> Self:
        """The job of a row."""
        return cls(id=row.id, kind=row.kind, run=row.run_id, step=row.step, state=row.state)


class FiringOut(BaseModel):
    """One time a monitor was due."""

    id: int = Field(description="its id, increasing")
    monitor: int = Field(description="the monitor that was due")
    scheduled_at: datetime = Field(description="when it was due, UTC")
    coalesced: bool = Field(description="whether earlier times that were missed stand behind it")
    created_at: datetime = Field(description="when it was noticed, UTC")
    jobs: list[FiringJob] = Field(description="what it asked for; nothing is asked for twice")

    @classmethod
    def of(cls, row: Firing, jobs: Mapping[int, list[Job]]) -> Self:
        """The firing of a row, with its jobs of all firings'."""
        same = {name: getattr(row, name) for name in cls.model_fields if name not in ("monitor", "jobs")}
        return cls(**same, monitor=row.monitor_id, jobs=[FiringJob.of(job) for job in jobs.get(row.id, ())])


class Fired(BaseModel):
    """A monitor that was fired by hand."""

    firing: int = Field(description="the firing's id")
    jobs: list[int] = Field(description="ids of the jobs it made; empty where there was nothing to do")


class ComingTimes(BaseModel):
    """When a cron line is due next."""

    times: list[datetime] = Field(description="the next times, UTC, the soonest first")


class DeletedMonitor(BaseModel):
    """What went with a monitor."""

    firings: int = Field(description="its firings; their jobs stay")
