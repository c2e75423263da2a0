"""Measurements as the API takes them, and measures along a run as it gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from phasewatch.errors import InvalidInput, NotFound
from phasewatch.measures import registry
from phasewatch.measures.checkpoint import PARAMETRISED
from phasewatch.storage.measurements import MeasureHistory, StoredMeasurement
from server.reduction import Indices
from server.schemas.values import WHOLE, FiniteNumber, Nested, StepNumber, from_array, to_array
from server.windows import Window

VersionNumber = Annotated[int, Field(ge=1, lt=2**31, strict=True), WHOLE]
Excess = Literal["chance", "initial"]
MeasureLabel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:,=@+-]{0,199}$")]


class MeasurementCreate(BaseModel):
    """One measure of a checkpoint."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber = Field(1, description="version of the measure's definition")
    values: Nested = Field(description="a number, or nested lists such as (layers, heads); null for NaN")
    chance: FiniteNumber | None = Field(None, description="the value without the ability measured, where there is one")
    interval: tuple[Nested, Nested] | None = Field(None, description="low and high, each shaped like the values")

    def to_storage(self) -> StoredMeasurement:
        """The measurement as storage takes it; raises InvalidInput for ragged lists."""
        interval = None if self.interval is None else to_array(list(self.interval))
        return StoredMeasurement(self.version, to_array(self.values), self.chance, interval)


class MeasurementsCreate(BaseModel):
    """What was measured on a checkpoint in the training process."""

    model_config = ConfigDict(extra="forbid")

    step: StepNumber = Field(description="optimizer steps completed")
    measurements: dict[MeasureLabel, MeasurementCreate] = Field(max_length=1_000, description="measures by name")

    def to_storage(self) -> dict[str, StoredMeasurement]:
        """The measurements as storage takes them."""
        return {name: found.to_storage() for name, found in self.measurements.items()}


class MeasuresRequest(BaseModel):
    """What is to be measured, and where."""

    model_config = ConfigDict(extra="forbid")

    measures: list[MeasureLabel] = Field(
        min_length=1, max_length=100, description="names as GET /measures lists them, parameters after a colon"
    )
    steps: list[StepNumber] | None = Field(
        None, min_length=1, max_length=10_000, description="null: every checkpoint that has what each measure needs"
    )


class MeasuresRequested(BaseModel):
    """The jobs that measure it."""

    jobs: list[int] = Field(description="their ids, one a checkpoint, by step; GET /jobs/{id} says how each goes")


class RegisteredMeasureOut(BaseModel):
    """A measure that this server knows."""

    name: str = Field(description="its name; parameters follow a colon where it takes any")
    version: int = Field(description="rises whenever the same model would get other values")
    section: str = Field(description="section of MEASURES.md that defines it")
    needs: str = Field(description="losses, attention, weights, activations, logits or generation")
    cost: str = Field(description="when it is measured: every_checkpoint, flagged (around changes) or on_request")
    scope: str = Field(description="checkpoint, or run for one of all checkpoints together")
    slice: str | None = Field(description="the slice of the probe set that it is computed on")
    shape: list[str] = Field(description="names of the axes; empty for a number")
    unit: str = Field(description="unit of its values")
    chance: float | None = Field(description="the value without the ability measured, where it is one number")
    perfect: float | None = Field(description="the value with the ability in full")
    parameters: str | None = Field(description="how its name is written with parameters; null where it takes none")
    summary: str = Field(description="its definition in a sentence")
    formula: str = Field(description="its definition as a formula")
    source: str = Field(description="the paper it is from, or phasewatch")
    traps: list[str] = Field(description="how a value can mislead")

    @classmethod
    def of(cls, one: registry.Measure) -> Self:
        """The measure of the registry."""
        same = {name: getattr(one, name) for name in cls.model_fields if name != "parameters"}
        return cls(**same | {"shape": list(one.shape), "traps": list(one.traps)}, parameters=PARAMETRISED.get(one.name))


class MeasureOut(BaseModel):
    """A measure that a run has values of."""

    measure: str = Field(description="its name, parameters after a colon included")
    version: int = Field(description="version of its definition")
    n_steps: int = Field(description="checkpoints it was measured at")
    last_step: int = Field(description="the newest of them")
    unit: str | None = Field(description="unit of its values; null for a measure this server does not know")
    axes: list[str] | None = Field(description="what its axes are; empty for a number, null where it is not known")
    section: str | None = Field(description="section of MEASURES.md that defines it")
    summary: str | None = Field(description="its definition in a sentence")

    @classmethod
    def of(cls, row: tuple[str, int, int, int]) -> Self:
        """The measure of (name, version, number of steps, last step)."""
        name, version, n_steps, last_step = row
        known = _registered(name)
        return cls(
            measure=name,
            version=version,
            n_steps=n_steps,
            last_step=last_step,
            unit=known.unit if known else None,
            axes=list(known.shape) if known else None,
            section=known.section if known else None,
            summary=known.summary if known else None,
        )


class MeasureHistoryOut(BaseModel):
    """One measure along the visible history of a run."""

    measure: str = Field(description="its name, parameters after a colon included")
    version: int = Field(description="version of its definition")
    unit: str | None = Field(description="unit of its values; null for a measure this server does not know")
    steps: list[int] = Field(description="(n_steps,), ascending")
    shape: list[int] = Field(description="shape of the values at one step, such as (layers, heads); empty for a number")
    axes: list[str] | None = Field(
        description="what the shape's axes are; null for a measure this server does not know"
    )
    values: list[Any] = Field(description="(n_steps, *shape); null where a value is not finite")
    chance: float | None = Field(description="the value without the ability measured, where there is one")
    interval: list[Any] | None = Field(description="(n_steps, 2, *shape), low and high, where every step has one")
    n_all: int = Field(description="how many there are of the steps asked for, before ?points= thinned them out")

    @classmethod
    def of(cls, history: MeasureHistory, excess: Excess | None, window: Window) -> MeasureHistoryOut:
        """What of the history that storage read lies in the window, raw or as excess over chance or its first step."""
        known = _registered(history.measure)
        n_all = len(window.inside(history.steps))
        history = answered(history, excess, window)
        chance = history.chance[-1] if len(history.steps) else np.nan
        return cls.model_construct(
            measure=history.measure,
            version=history.version,
            unit=known.unit if known else None,
            steps=history.steps.tolist(),
            shape=list(history.values.shape[1:]),
            axes=list(known.shape) if known else None,
            values=from_array(history.values),
            chance=float(chance) if np.isfinite(chance) else None,
            interval=None if history.interval is None else from_array(history.interval),
            n_all=n_all,
        )


def answered(history: MeasureHistory, excess: Excess | None, window: Window) -> MeasureHistory:
    """What of a history lies in the window, as it is or as excess over chance or over its first step."""
    zero = _zero(history, excess)
    interval = None if history.interval is None else history.interval - zero[:, None]
    shown = replace(history, values=history.values - zero, interval=interval).at(window.inside(history.steps))
    return shown.at(_reduced(shown, window))


def as_records(history: MeasureHistory) -> npt.NDArray[np.void]:
    """The history as records (n_steps,) of `step`, int64, and `values`, float32 in the measure's shape."""
    records = np.empty(len(history.steps), [("step", "<i8"), ("values", "<f4", history.values.shape[1:])])
    with np.errstate(over="ignore"):
        records["step"], records["values"] = history.steps, history.values
    return records


def _reduced(history: MeasureHistory, window: Window) -> Indices:
    """Indices of the steps that are answered; raises InvalidInput for points of a measure that is no single number."""
    if window.points is not None and history.values.ndim > 1:
        shape = history.values.shape[1:]
        raise InvalidInput(
            f"measure {history.measure!r} has values {shape} a step; points thins out single numbers: ask for steps, "
            "or for what is new with after"
        )
    return window.reduced(history.steps, history.values)


def _zero(history: MeasureHistory, excess: Excess | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What is subtracted from the values, broadcastable (n_steps, 1 …) or (1, *shape)."""
    if excess == "initial":
        return history.values[:1]
    levels = np.zeros(len(history.steps))
    if excess == "chance":
        levels = history.chance
        if not np.isfinite(levels).all():
            raise InvalidInput(f"measure {history.measure!r} has no chance level; ask for excess=initial or none")
    return levels.reshape(-1, *[1] * (history.values.ndim - 1))


def _registered(name: str) -> registry.Measure | None:
    try:
        return registry.get(name)
    except NotFound:
        return None
