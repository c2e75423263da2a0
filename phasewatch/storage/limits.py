"""What both databases can keep, checked before anything is written.

PostgreSQL refuses NUL characters and lone surrogates in text, and NaN in JSON; SQLite keeps a NumPy integer as a blob.
Storage refuses or converts these in one place, so that a row means the same on both.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any, SupportsIndex

from phasewatch.errors import InvalidInput

MAX_STEP = 2**62
MAX_NAME = 200
MAX_INTEGER = 2**31 - 1


def checked_step(step: SupportsIndex, first: int = 0, segment: int | None = None) -> int:
    """The step as a plain integer; a NumPy integer is one, a float or a bool is not.

    Raises InvalidInput outside [first, MAX_STEP]; `segment` is the number of the segment that begins at `first`.
    """
    try:
        number = operator.index(step)
    except TypeError:
        number = None
    if number is None or isinstance(step, bool):
        raise InvalidInput(f"step {step!r} is a {type(step).__name__}; give a whole number of optimizer steps")
    if not 0 <= number <= MAX_STEP:
        raise InvalidInput(f"step {number} is out of range; give a number from 0 to {MAX_STEP}")
    if number < first:
        raise InvalidInput(f"step {number} is out of range; segment {segment} takes steps from {first}")
    return number


def whole_number(value: Any) -> Any:
    """2.0 as 2, for JSON knows one kind of number; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def checked_name(what: str, name: str) -> str:
    """The name. Raises InvalidInput unless it has 1 to 200 characters that both databases keep."""
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidInput(f"{what} {name[:40]!r} has {len(name)} characters; give 1 to {MAX_NAME}")
    if name != clean_text(name):
        raise InvalidInput(f"{what} {name[:40]!r} holds a NUL or half a character; leave it out")
    return name


def checked_json(what: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON brings it back. Raises InvalidInput for NaN, infinities and other objects."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} cannot be kept as JSON: {error}") from error
    return found


def clean_text(text: str) -> str:
    """The text with every NUL and every lone surrogate replaced by U+FFFD."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
