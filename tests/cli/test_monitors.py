"""`phasewatch monitor`, from making one to deleting it."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Call
from tests.conftest import MakeRun
from tests.live_server import LiveServer


def test_a_monitor_is_made_listed_changed_fired_and_removed(
    phasewatch: Call, live: LiveServer, make_run: MakeRun
) -> None:
    run = make_run(name="mine")
    answer = phasewatch(
        "monitor", "add", "silence", "--kind", "stale_run", "--run", "mine", "--every", "30", "--set", "after_s=60",
        "--json",
    )  # fmt: skip
    made = answer.json
    number = str(made["id"])
    assert made == live.get(f"/monitors/{number}")
    assert (made["selector"], made["trigger"]) == ({"run": str(run)}, {"every_s": 30})
    assert made["parameters"] == {"after_s": 60}
    row = next(line for line in phasewatch("monitor", "list").out.splitlines() if "silence" in line)
    assert row.split() == [number, "silence", "stale_run", "run", str(run), "every_s", "30.0", "after_s", "60.0"]
    assert phasewatch("monitor", "list", "--json").json["items"][-1] == made
    changed = phasewatch("monitor", "edit", number, "--cron", "0 3 * * *", "--off", "--all", "--set", "after_s=5")
    assert changed.out == f"monitor {number} (stale_run) silence: all, cron 0 3 * * *, off\n"
    assert live.get(f"/monitors/{number}")["parameters"] == {"after_s": 5}
    fired = phasewatch("monitor", "fire", number, "--json").json
    assert phasewatch("monitor", "fire", number).out.endswith("jobs: none: there was nothing to do\n")
    assert [one["id"] for one in phasewatch("monitor", "firings", number, "--json").json["items"]][-1] == fired[
        "firing"
    ]
    assert "–" in phasewatch("monitor", "firings", number).out
    assert phasewatch("monitor", "remove", number).out == f"monitor {number} is deleted, and 2 firings of it\n"
    assert phasewatch("monitor", "fire", number).status == 1


def test_jobs_of_a_firing_are_counted_by_state(phasewatch: Call, make_run: MakeRun) -> None:
    make_run(name="mine")
    made = phasewatch("monitor", "add", "c", "--kind", "compare", "--all", "--each-checkpoint", "--json").json
    fired = phasewatch("monitor", "fire", str(made["id"]))
    assert fired.out.startswith("firing ")
    assert "1 waiting" in phasewatch("monitor", "firings", str(made["id"])).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "m", "--kind", "score", "--all"], "exactly one way, not 0: --every, --cron, --each-checkpoint"),
        (["add", "m", "--kind", "score", "--every", "5", "--each-checkpoint", "--all"], "not 2"),
        (["add", "m", "--kind", "score", "--every", "5"], "--run, --tag, --all"),
        (["add", "m", "--kind", "score", "--every", "5", "--all", "--set", "x"], "NAME=VALUE"),
        (["add", "m", "--kind", "score", "--every", "5", "--all", "--set", "x=1"], "parameters.x"),
        (["add", "m", "--kind", "other", "--every", "5", "--all"], "kind"),
        (["edit", "1"], "nothing was named"),
        (["edit", "1", "--set", "after_s=3"], "kind score"),
        (["remove", "99"], "monitor 99 does not exist"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(phasewatch: Call, arguments: list[str], words: str) -> None:
    answer = phasewatch("monitor", *arguments)
    assert answer.status == 1
    assert words in answer.err
    assert answer.err.count("\n") == 1
