"""What both databases can keep: steps, names, JSON, text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phasewatch.errors import InvalidInput
from phasewatch.storage.limits import MAX_STEP, checked_json, checked_name, checked_step, clean_text


@pytest.mark.parametrize("step", [0, 7, MAX_STEP, np.int32(7), np.uint64(7), np.array(7)])
def test_every_kind_of_integer_is_a_plain_one(step: Any) -> None:
    assert type(checked_step(step)) is int
    assert checked_step(step) == int(step)


@pytest.mark.parametrize("step", [-1, MAX_STEP + 1, 2**64, 7.0, np.float64(7), True, np.array([7, 8]), "7", None])
def test_anything_else_is_no_step(step: Any) -> None:
    with pytest.raises(InvalidInput, match="step"):
        checked_step(step)


def test_a_step_before_its_segment_names_both() -> None:
    assert checked_step(20, 20, 3) == 20
    with pytest.raises(InvalidInput, match="step 19 is out of range; segment 3 takes steps from 20"):
        checked_step(19, 20, 3)


@pytest.mark.parametrize("name", ["a", "x" * 200, "日本 😀", "ablation:L1H0", " "])
def test_a_name_that_can_be_kept_is_not_changed(name: str) -> None:
    assert checked_name("name", name) == name


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00", "\ud83d", "\udc00x"])
def test_a_name_that_cannot_be_kept_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="series name"):
        checked_name("series name", name)


def test_json_is_what_it_will_be_when_it_is_read() -> None:
    given: dict[Any, Any] = {"a": (1, 2), 3: None}
    assert checked_json("config", given) == {"a": [1, 2], "3": None}


def _endless() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["self"] = inner
    return inner


@pytest.mark.parametrize("value", [{"x": np.float32(1)}, {"x": float("nan")}, {"x": {1}}, {(1, 2): 3}, _endless()])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="config cannot be kept as JSON"):
        checked_json("config", value)


@pytest.mark.parametrize(
    ("text", "clean"),
    [("a\x00b", "a\ufffdb"), ("\ud83d", "\ufffd"), ("x\udc80", "x\ufffd"), ("日本 😀\n", "日本 😀\n"), ("", "")],
)
def test_text_loses_only_what_postgresql_refuses(text: str, clean: str) -> None:
    assert clean_text(text) == clean
    clean_text(text).encode("utf-8")
