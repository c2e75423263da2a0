from __future__ import annotations

from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from phasewatch import client
from phasewatch.detection import PhaseChange
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.runs import edit_run
from phasewatch.storage.series import put_series
from tests.cli.conftest import Call, call
from tests.conftest import MakeRun
from tests.live_server import LiveServer

INDUCTION = PhaseChange(
    100, 200, 300, "level", "rise", 0.5, "probability", "prefix_matching:L1H0", induction=True, heads=((1, 0),)
)
UNFINISHED = PhaseChange(400, 450, None, "level", "drop", 1.5, "nats", "mean_loss:text")


@pytest.fixture
def recorded(live: LiveServer, sqlite_database: Database, make_run: MakeRun) -> UUID:
    """A run with metrics, head scores, a number and two changes."""
    run_id = make_run(name="two-layer", tags=("demo",))
    heads = [[[0.1, 0.02], [0.03, 0.04]], [[0.1, np.nan], [0.9, 0.2]], [[0.3, 0.1], [0.8, 0.2]]]
    with sqlite_database.transaction() as session:
        put_series(session, run_id, {0: {"loss": 5.0}, 400: {"loss": 2.25, "lr": np.inf}})
        for step, scores in zip((0, 200, 400), heads, strict=True):
            found = {
                "prefix_matching": StoredMeasurement(1, np.array(scores), 0.03),
                "icl_score": StoredMeasurement(1, np.array(-step / 1000)),
                "position_profile": StoredMeasurement(1, np.arange(5.0)),
            }
            put_measurements(session, run_id, step, found)
        steps = [0, 100, 200, 300, 310, 320, 330, 400]
        note = "icl_score: 1 of 8 checkpoints are not finite and were left out"
        store_scan(session, run_id, [INDUCTION, UNFINISHED], steps, detector_version=1, ended=False, notes=[note])
    return run_id


class TestRuns:
    def test_lists_newest_first_with_status_step_and_changes(
        self, phasewatch: Call, recorded: UUID, make_run: MakeRun
    ) -> None:
        make_run(name="empty")
        answer = phasewatch("runs")
        assert answer.status == 0
        first, second = [line for line in answer.out.splitlines() if "20" in line]
        assert first.split()[0] == "empty"
        assert second.split()[:4] == ["two-layer", str(recorded)[:13], "running", "400"]
        assert second.rstrip().endswith("2 (induction at step 200)")

    def test_json_has_the_items_of_the_api_and_how_many_changes(
        self, phasewatch: Call, live: LiveServer, recorded: UUID
    ) -> None:
        assert phasewatch("runs", "--json").json == {
            "items": [{**live.get(f"/runs/{recorded}"), "phase_changes": 2}], "next": None,
        }  # fmt: skip

    def test_filters_and_limit(self, phasewatch: Call, recorded: UUID, make_run: MakeRun) -> None:
        for _ in range(3):
            make_run(name="other")
        assert [run["name"] for run in phasewatch("runs", "--json", "--limit", "2").json["items"]] == ["other"] * 2
        for option in (("--tag", "demo"), ("--name", "two-layer")):
            assert [run["id"] for run in phasewatch("runs", "--json", *option).json["items"]] == [str(recorded)]
        assert phasewatch("runs", "--json", "--status", "failed").json["items"] == []

    def test_reads_every_page(
        self, phasewatch: Call, live: LiveServer, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "_PAGE", 2)
        ids = [str(make_run(name="many")) for _ in range(5)]
        assert [run["id"] for run in phasewatch("runs", "--json").json["items"]] == ids[::-1]

    def test_no_runs_yet_says_what_to_do(self, phasewatch: Call, live: LiveServer) -> None:
        assert "phasewatch train" in phasewatch("runs").out

    def test_a_name_cannot_steer_the_terminal(self, phasewatch: Call, make_run: MakeRun, live: LiveServer) -> None:
        make_run(name="[red]x[/red]\x1b[2J\nnext")
        [line] = [line for line in phasewatch("runs").out.splitlines() if "[red]" in line]
        assert "[red]x[/red] [2J next" in line
        assert "\x1b" not in line


class TestShow:
    def test_tells_metrics_measures_and_changes(self, phasewatch: Call, recorded: UUID) -> None:
        answer = phasewatch("show", str(recorded))
        lines = [" ".join(line.split()) for line in answer.out.splitlines()]
        assert f"two-layer {recorded} running step 400" in lines
        assert "loss 400 2.25" in lines
        assert "lr 400 Infinity" in lines
        assert "prefix_matching 0.1 0.8 0.9 L1H0 0.03 3" in lines
        assert "icl_score -0 -0.4 nats 3" in lines or "icl_score 0 -0.4 nats 3" in lines
        assert "position_profile" not in answer.out
        assert INDUCTION.explain() in answer.out
        assert f"{UNFINISHED.explain()} (provisional)" in answer.out
        assert "note: icl_score: 1 of 8 checkpoints are not finite and were left out" in answer.out

    def test_json(self, phasewatch: Call, live: LiveServer, recorded: UUID) -> None:
        shown = phasewatch("show", str(recorded), "--json").json
        assert shown["run"] == live.get(f"/runs/{recorded}")
        assert shown["series"][0] == {"name": "loss", "step": 400, "value": 2.25}
        found = live.get(f"/runs/{recorded}/phase-changes")
        assert (shown["phase_changes"], shown["notes"]) == (found["items"], found["notes"])
        [heads] = [course for course in shown["measures"] if course["head"]]
        assert heads == {
            "measure": "prefix_matching",
            "unit": live.get(f"/runs/{recorded}/measures/prefix_matching")["unit"],
            "n_steps": 3,
            "first": 0.1,
            "last": 0.8,
            "highest": 0.9,
            "head": [1, 0],
            "chance": 0.03,
        }

    @pytest.mark.parametrize("length", [36, 32, 20, 13])
    def test_finds_a_run_by_the_beginning_of_its_id(self, phasewatch: Call, recorded: UUID, length: int) -> None:
        beginning = recorded.hex if length == 32 else str(recorded)[:length].upper()
        assert phasewatch("show", beginning, "--json").json["run"]["id"] == str(recorded)

    def test_finds_a_run_by_its_name(self, phasewatch: Call, recorded: UUID) -> None:
        assert phasewatch("show", "two-layer", "--json").json["run"]["id"] == str(recorded)

    def test_a_name_of_several_runs_names_them(self, phasewatch: Call, recorded: UUID, make_run: MakeRun) -> None:
        other = make_run(name="two-layer")
        answer = phasewatch("show", "two-layer")
        assert answer.status == 1
        assert f"give an id: {other}, {recorded}" in answer.err

    @pytest.mark.parametrize("wanted", ["nobody", "ffff", "a\x00b", ""])
    def test_no_such_run(self, phasewatch: Call, recorded: UUID, wanted: str) -> None:
        answer = phasewatch("show", wanted)
        assert (answer.status, answer.out) == (1, "")
        assert "`phasewatch runs` lists them" in answer.err

    def test_an_empty_run_and_a_failed_one(
        self, phasewatch: Call, live: LiveServer, sqlite_database: Database, make_run: MakeRun
    ) -> None:
        run_id = make_run(name="empty")
        assert "nothing recorded yet" in phasewatch("show", "empty").out
        with sqlite_database.transaction() as session:
            edit_run(session, run_id, status="failed", failure="node lost")
        assert "node lost" in phasewatch("show", "empty").out


class TestConnection:
    def test_no_server_is_one_line_that_says_how_to_start_one(self) -> None:
        answer = call("runs", "--url", "http://127.0.0.1:9")
        assert (answer.status, answer.out) == (1, "")
        [line] = answer.err.splitlines()
        assert "no phasewatch server answers at http://127.0.0.1:9" in line
        assert "python -m server" in line

    @pytest.mark.parametrize("url", ["localhost", "ftp://a", "http://", "http://a:b"])
    def test_an_address_that_is_none(self, url: str) -> None:
        answer = call("runs", "--url", url)
        assert answer.status == 1
        assert "no address of a server" in answer.err

    def test_url_counts_before_the_command_and_after_it(self, live: LiveServer) -> None:
        nowhere = "http://127.0.0.1:9"
        assert call("--url", live.url, "runs", env={"PHASEWATCH_URL": nowhere}).status == 0
        assert call("--url", nowhere, "runs", "--url", live.url).status == 0

    def test_token(self, sqlite_database: Database, artifacts: Artifacts, tmp_path: Path) -> None:
        server = LiveServer(sqlite_database, artifacts, token="right")
        path = tmp_path / "token"
        path.write_text("right\n")
        try:
            refused = call("runs", "--url", server.url)
            assert refused.status == 1
            assert "--token" in refused.err
            assert call("runs", "--url", server.url, "--token", "right").status == 0
            assert call("--token", "right", "runs", "--url", server.url).status == 0
            assert call("runs", "--url", server.url, env={"PHASEWATCH_TOKEN": "right"}).status == 0
            assert call("runs", "--url", server.url, env={"PHASEWATCH_TOKEN_FILE": str(path)}).status == 0
            unreadable = call("runs", "--url", server.url, env={"PHASEWATCH_TOKEN_FILE": str(path) + "-none"})
            assert "PHASEWATCH_TOKEN_FILE" in unreadable.err
        finally:
            server.stop()

    @pytest.mark.parametrize("arguments", [["shw"], ["show"], ["runs", "--limit", "0"], ["runs", "--status", "odd"]])
    def test_a_wrong_call_is_status_2(self, arguments: list[str]) -> None:
        assert call(*arguments).status == 2

    def test_version(self) -> None:
        assert call("--version").out.startswith("phasewatch 0.")
