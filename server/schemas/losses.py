"""Loss slices and token histories as the API gives them."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from phasewatch.errors import InvalidInput, TooLarge
from phasewatch.storage.losses import LossHistory
from phasewatch.storage.schema import LossSlice
from server.schemas.values import from_array

MAX_TOKENS = 100_000
MAX_VALUES = 5_000_000


class LossSliceOut(BaseModel):
    """The losses of one slice at one step, without their values."""

    slice: str = Field(description="the slice they belong to")
    step: int = Field(description="optimizer steps completed")
    n_values: int = Field(description="how many losses there are, one a predicted token")
    mean: float | None = Field(description="mean over the finite values, nats; null where none is finite")
    n_non_finite: int = Field(description="how many values are NaN or infinite")
    sha256: str = Field(description="SHA-256 of the little-endian C-ordered float32 array as received")
    codec: str = Field(description="how the values are stored")

    @classmethod
    def of(cls, row: LossSlice, slice_name: str) -> Self:
        """The loss slice of a row."""
        return cls(
            slice=slice_name,
            step=row.step,
            n_values=row.n_values,
            mean=row.mean_nats,
            n_non_finite=row.n_non_finite,
            sha256=row.sha256,
            codec=row.codec,
        )


class LossValues(BaseModel):
    """The losses of one slice at one step."""

    step: int = Field(description="optimizer steps completed")
    slice: str = Field(description="the slice they belong to")
    shape: tuple[int, int] = Field(description="(n_sequences, n_positions)")
    values: list[float | None] = Field(description="nats, row by row; null where a value is not finite")
    non_finite: list[int] = Field(description="positions in `values` of what is NaN or infinite")

    @classmethod
    def of(cls, step: int, slice_name: str, values: npt.NDArray[np.float32]) -> LossValues:
        """The losses (n_sequences, n_positions) of a step."""
        flat = values.reshape(-1)
        n_sequences, n_positions = values.shape
        return cls.model_construct(
            step=step,
            slice=slice_name,
            shape=(n_sequences, n_positions),
            values=from_array(flat),
            non_finite=np.flatnonzero(~np.isfinite(flat)).tolist(),
        )


class LossHistories(BaseModel):
    """Losses of some tokens along the visible history of a run."""

    steps: list[int] = Field(description="(n_steps,), ascending")
    tokens: list[int] = Field(description="(n_tokens,), positions in the flat slice, in the order asked for")
    values: list[list[float | None]] = Field(description="(n_steps, n_tokens), nats; null where not finite")

    @classmethod
    def of(cls, history: LossHistory) -> LossHistories:
        """The histories that storage read."""
        return cls.model_construct(
            steps=history.steps.tolist(), tokens=history.tokens.tolist(), values=from_array(history.values)
        )


RANGES = {"pattern": r"^[0-9]{1,18}(-[0-9]{1,18})?(, ?[0-9]{1,18}(-[0-9]{1,18})?)*$"}
"""What `parse_ranges` reads, for a schema, which cannot say that no range runs backwards."""


def parse_ranges(text: str, what: str) -> list[tuple[int, int]]:
    """The (first, last) pairs of a text such as `0,5,7-20`; raises InvalidInput naming what cannot be read."""
    ranges = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not _is_number(low) or (dash and not _is_number(high)):
            raise InvalidInput(f"{what} {part[:40]!r} is neither a number nor a range; write {what}=0,5,7-20")
        pair = int(low), int(high) if dash else int(low)
        if pair[0] > pair[1]:
            raise InvalidInput(f"{what} {part[:40]!r} runs backwards; write the smaller number first")
        ranges.append(pair)
    return ranges


def token_numbers(text: str) -> npt.NDArray[np.int64]:
    """The tokens of `0,5,7-20`, in that order. Raises TooLarge beyond 100,000."""
    ranges = parse_ranges(text, "tokens")
    asked = sum(high - low + 1 for low, high in ranges)
    if asked > MAX_TOKENS:
        raise TooLarge(f"{asked} tokens were asked for; at most {MAX_TOKENS} are answered at once")
    return np.concatenate([np.arange(low, high + 1, dtype=np.int64) for low, high in ranges])


def chosen_steps(text: str | None, available: list[int]) -> list[int]:
    """Those of the available steps that `100,200-400` names; all of them without a text."""
    if text is None:
        return available
    ranges = parse_ranges(text, "steps")
    return [step for step in available if any(low <= step <= high for low, high in ranges)]


def check_size(n_steps: int, n_tokens: int) -> None:
    """Raises TooLarge where so many values are not answered at once."""
    if n_steps * n_tokens > MAX_VALUES:
        raise TooLarge(
            f"{n_steps} steps × {n_tokens} tokens are {n_steps * n_tokens} values; at most {MAX_VALUES} are answered "
            "at once: ask for fewer tokens or steps"
        )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18
