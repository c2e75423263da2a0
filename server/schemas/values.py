"""Values that many schemas share: names, JSON that every database can keep, numbers and nested numbers as JSON."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema
from typing_extensions import TypeAliasType

from phasewatch.errors import InvalidInput
from phasewatch.storage.limits import clean_text, whole_number

MAX_DEPTH = 32
MAX_EXACT = 2**53 - 1  # the largest whole number that every reader of JSON keeps as it is
_UNPRINTABLE = {chr(code) for code in (*range(32), 127)}


def _printable(text: str) -> str:
    if any(character in _UNPRINTABLE for character in text):
        raise ValueError("holds a control character; use printable ones")
    return text


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    _check_json(value, 0)
    return value


def _check_json(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds NaN or an infinity, which JSON does not have; use null or a string")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key)
            _check_json(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_json(inner, depth + 1)


def _check_text(text: str) -> None:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds a NUL or half of a surrogate pair, which is no text")


Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_printable),
    Field(json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]+$"}),
]
WHOLE = BeforeValidator(whole_number)
Text = Annotated[str, StringConstraints(max_length=100_000), AfterValidator(clean_text)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]
StepNumber = Annotated[int, Field(ge=0, le=MAX_EXACT, strict=True), WHOLE]
FiniteNumber = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Number = FiniteNumber | Literal["Infinity", "-Infinity"] | None
"""A float as JSON: null for NaN, words for the infinities."""

_Nested = TypeAliasType("_Nested", "Number | list[_Nested]")


def _nested_schema(depth: int) -> dict[str, Any]:
    """The schema of nested numbers to a depth: generators of clients do not know one that names itself."""
    number = [{"type": "number"}, {"type": "string", "enum": ["Infinity", "-Infinity"]}, {"type": "null"}]
    return {"anyOf": [*number, *([{"type": "array", "items": _nested_schema(depth - 1)}] if depth else [])]}


Nested = Annotated[_Nested, WithJsonSchema(_nested_schema(3))]
"""Numbers in lists of equal length, nested to any depth."""


def to_float(value: float | str | None) -> float:
    """The float that a JSON number stands for."""
    return math.nan if value is None else float(value)


def from_float(value: float) -> float | str | None:
    """A float as a JSON number; `to_float`'s inverse."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def to_array(values: Any) -> npt.NDArray[np.float64]:
    """The array that nested JSON numbers stand for. Raises InvalidInput where lists differ in length or depth."""
    try:
        return np.array(_floats(values), np.float64)
    except ValueError as error:
        raise InvalidInput("nested lists of numbers must have the same length at each depth, 64 at most") from error


def _floats(values: Any) -> Any:
    return [_floats(inner) for inner in values] if isinstance(values, list) else to_float(values)


def from_array(values: npt.NDArray[np.floating]) -> Any:
    """An array as nested lists, NaN and infinities as null."""
    if np.isfinite(values).all():
        return values.tolist()
    return np.where(np.isfinite(values), values.astype(object), np.array(None)).tolist()
