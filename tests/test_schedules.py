"""Schedules: `due` and `steps` are one description, and the default is dense where a small run changes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from pydantic import ValidationError

from phasewatch.schedules import Schedule

SCHEDULES = {
    "default": Schedule(),
    "log alone": Schedule(log=7, windows=()),
    "fine log": Schedule(log=400, windows=()),
    "every": Schedule(log=0, every=25, windows=()),
    "window": Schedule(log=0, windows=((100, 200, 30),)),
    "all": Schedule(log=40, every=25, windows=((10, 30, 3), (90, 110, 1))),
    "nothing": Schedule(log=0, windows=()),
}


@pytest.mark.parametrize("until", [0, 1, 9, 10, 99, 700, 1033])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_due_and_steps_agree(schedule: Schedule, until: int) -> None:
    assert schedule.steps(until) == [step for step in range(-3, until + 50) if schedule.due(step, last=until)]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_an_open_end_gives_the_same_steps_without_the_last(schedule: Schedule) -> None:
    open_ended = {step for step in range(701) if schedule.due(step)}
    assert set(schedule.steps(700)) - open_ended <= {700}
    assert open_ended <= set(schedule.steps(700))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_first_and_last_are_always_there(schedule: Schedule) -> None:
    steps = schedule.steps(333)
    assert (steps[0], steps[-1]) == (0, 333)


def test_default_covers_the_demo() -> None:
    steps = Schedule().steps(700)
    assert len(steps) == 49
    assert all(later - earlier <= 20 for earlier, later in pairwise(steps))
    assert len(Schedule().steps(100_000)) == 71


def test_log_spacing_is_even_in_log_step() -> None:
    assert Schedule(log=1, windows=()).steps(1000) == [0, 1, 10, 100, 1000]
    assert Schedule(log=2, windows=()).steps(120) == [0, 1, 3, 10, 32, 100, 120]


def test_windows_include_both_ends() -> None:
    assert Schedule(log=0, windows=((5, 9, 2),)).steps(20) == [0, 5, 7, 9, 20]


def test_a_window_replaces_the_log_spacing_inside_it() -> None:
    assert Schedule(log=2, windows=((20, 60, 20),)).steps(120) == [0, 1, 3, 10, 20, 40, 60, 100, 120]


def test_reads_as_a_toml_table_and_back() -> None:
    schedule = Schedule.model_validate({"log": 40, "every": 25, "windows": [[100, 500, 10]]})
    assert Schedule.model_validate_json(schedule.model_dump_json()) == schedule
    assert schedule.windows == ((100, 500, 10),)


@pytest.mark.parametrize(
    "bad", [{"log": -1}, {"every": 0}, {"windows": [[9, 5, 1]]}, {"windows": [[1, 5, 0]]}, {"often": 3}], ids=str
)
def test_nonsense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Schedule.model_validate(bad)
