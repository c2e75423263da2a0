"""`phasewatch report` against the real API: what was recorded stands in the file, and nothing in it is alive."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import delete

from phasewatch.client import Client
from phasewatch.detection import PhaseChange
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.report.page import POLICY
from phasewatch.report.page import page as page_of
from phasewatch.report.run import read_run
from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import list_phase_changes, review_phase_change, store_scan
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import edit_run, set_probe_set
from phasewatch.storage.schema import Job, MeasurementRow
from phasewatch.training import TrainingConfig
from tests.cli.conftest import Call
from tests.conftest import MakeRun
from tests.live_server import LiveServer
from tests.report.html_text import HtmlText

STEPS = [0, 10, 20, 40, 80, 160, 240, 320, 400, 500]
HOSTILE = '<script>alert(1)</script><img src=x onerror="x"> $\\frac$ & \u202e\''
TOKEN = "</code><b>"
SVG_NAMES = {"svg", "metadata", "RDF", "Work", "type", "defs", "style", "g", "path", "use", "clipPath", "rect", "image"}
INDUCTION = PhaseChange(
    start_step=81,
    step=163,
    end_step=317,
    kind="level",
    direction="rise",
    effect=0.4875,
    unit="probability",
    measure="natural_prefix_matching:L1H0",
    start_interval=(71.2, 92.4),
    step_interval=(151.0, 177.0),
    end_interval=(299.0, 341.0),
    tokens=np.array([3, 5, 9]),
    heads=((1, 0),),
    signs={"natural_prefix_matching": "present", "icl_score": "absent", "repeat_gain": "not measured"},
    induction=True,
    n_checkpoints_inside=2,
)
HIDDEN = PhaseChange(
    start_step=243,
    step=322,
    end_step=None,
    kind="hidden",
    direction="drop",
    effect=1.25,
    unit="nats",
    measure="mean_loss:text",
    tokens=np.array([12, 1]),
    q_value=0.0123,
    q_scope=f"times × tokens {HOSTILE}",
)

Make = Callable[..., UUID]


@pytest.fixture
def record(live: LiveServer, sqlite_database: Database, make_run: MakeRun) -> Make:
    """Makes a run with losses and scores at some steps, the changes given, and a scan that is done."""

    def make(steps: list[int] = STEPS, changes: tuple[PhaseChange, ...] = (), **content: object) -> UUID:
        tokens = np.arange(18, dtype=np.int32).reshape(2, 9) % 4
        pieces = (" plain", TOKEN, "\n", "\u202eturned")
        probes = ProbeSet({"text": Slice(tokens, Layout("text"))}, {"repeats": HOSTILE}, 4, pieces)
        run = make_run(**{"name": "learner", **content})
        with sqlite_database.transaction() as session:
            put_probe_set(session, probes)
            set_probe_set(session, run, probes.sha256)
            for step in steps:
                fall = np.where(np.arange(16) == 5, -1.0, 1.0) * min(step, 320) / 200
                put_losses(session, run, "text", step, (4 - fall).reshape(2, 8).astype(np.float32))
                put_measurements(session, run, step, _scores(step), source="job")
            store_scan(session, run, changes, steps, detector_version=7, ended=True, slice_name="text")
            job = {"kind": "scan", "run_id": run, "step": steps[-1], "parameters": {}, "priority": 0, "attempts": 1}
            session.add(Job(key=f"scan:{run}", state="done", **job))
        return run

    return make


def _scores(step: int) -> dict[str, StoredMeasurement]:
    """One head that rises from 0.05 to 0.55, an ICL score with its interval, and what zeroing that head does."""
    late = min(step, 320) / 320
    heads = np.array([[0.05, 0.04], [0.05 + 0.5 * late, 0.03]])
    icl = np.array(-0.4 * late)
    ablated = np.array([[0.3, -0.4, 0.02], [np.nan] * 3, [0.1, 2.0, 0.01], [1, 1, 1], [0, 0, 1]], np.float64)
    interval = np.full((2, *ablated.shape), np.nan)
    interval[:, 0, :2] = [[0.25, -0.45], [0.35, -0.35]]
    return {
        "natural_prefix_matching": StoredMeasurement(1, heads, 0.0435),
        "icl_score": StoredMeasurement(3, icl, 0.0, np.array([icl - 0.0125, icl + 0.0125])),
        "position_profile": StoredMeasurement(1, np.linspace(4, 3 - late, 8)),
        "position_slope": StoredMeasurement(1, np.linspace(-1 - late, -late, 4), 0.0),
        "ablation:L1H0": StoredMeasurement(1, ablated, 0.0, interval),
    }


def read(folder: Path, phasewatch: Call, run: UUID, *options: str) -> tuple[str, HtmlText]:
    out = folder / "out" / "report.html"
    answer = phasewatch("report", str(run), "--out", str(out), *options)
    assert (answer.status, answer.err) == (0, "")
    page = out.read_text(encoding="utf-8")
    return page, HtmlText(page)


def shown(live: LiveServer, run: UUID) -> str:
    """The text of a report without its pictures, which take most of the time."""
    with Client(live.url) as client:
        return HtmlText(page_of(read_run(client, str(run)), [])).shown


class TestVerdict:
    def test_a_change_from_step_to_step_in_these_heads_and_these_tokens(self, live: LiveServer, record: Make) -> None:
        seen = shown(live, record(changes=(HIDDEN, INDUCTION)))
        verdict = (
            "Verdict An induction change, from step 81 [71, 92] to step 317 [299, 341] (half way at step 163 [151, "
            "177]), in head L1H0 and in 3 tokens of the probe text."
        )
        assert seen.index(verdict) < seen.index("A hidden change") < seen.index("Curves") < seen.index("Signs of")

    def test_a_run_without_a_change_says_none_and_why(self, live: LiveServer, record: Make) -> None:
        seen = shown(live, record())
        assert "Verdict None: no phase change from step 0 to step 500. 10 checkpoints have losses" in seen
        assert "nothing moved quickly against the run's own pace" in seen
        assert "highest head, L1H0, ends at 0.550, +0.507 against chance (0.043)" in seen

    def test_three_checkpoints_are_too_few_to_tell(self, live: LiveServer, record: Make) -> None:
        seen = shown(live, record([0, 10, 20]))
        assert "Verdict None: 3 checkpoints with losses, too few to tell (at least 8)." in seen
        assert "does not mean that nothing changed" in seen

    def test_nothing_recorded(self, tmp_path: Path, phasewatch: Call, make_run: MakeRun) -> None:
        _, seen = read(tmp_path, phasewatch, make_run(name="empty"))
        assert "Verdict None: no losses are recorded." in seen.shown
        assert "Nothing to draw" in seen.shown
        assert "svg" not in seen.names

    def test_one_checkpoint_and_losses_that_are_not_finite(
        self, tmp_path: Path, phasewatch: Call, record: Make, sqlite_database: Database
    ) -> None:
        run = record([5])
        with sqlite_database.transaction() as session:
            put_losses(session, run, "text", 6, np.full((2, 8), np.nan, np.float32))
        _, seen = read(tmp_path, phasewatch, run)
        assert "16 losses are NaN or infinite" in seen.shown
        assert [attributes["aria-label"] for name, attributes in seen.tags if name == "svg"] == ["Mean loss"]

    def test_what_is_not_settled_is_said(self, live: LiveServer, record: Make, sqlite_database: Database) -> None:
        run = record(changes=(INDUCTION,))
        with sqlite_database.transaction() as session:
            [change] = list_phase_changes(session, run)
            review_phase_change(session, change.id, "dismissed", f"a bad probe {HOSTILE}")
            put_losses(session, run, "text", 600, np.ones((2, 8), np.float32))
        seen = shown(live, run)
        assert "Whoever reviewed it dismissed it." in seen
        assert "Note: a bad probe <script>" in seen
        assert "The last scan saw the run up to step 500" in seen
        assert "The run is running" in seen

    def test_a_change_that_did_not_last_is_counted(
        self, live: LiveServer, record: Make, sqlite_database: Database
    ) -> None:
        run = record(changes=(INDUCTION,))
        with sqlite_database.transaction() as session:
            store_scan(session, run, [], STEPS, detector_version=7, ended=True)
            edit_run(session, run, status="failed", failure="node lost")
        seen = shown(live, run)
        assert "Verdict None: no phase change" in seen
        assert "1 change reported on the way did not last" in seen
        assert "The run failed: node lost" in seen


class TestContent:
    def test_every_number_of_every_change(self, live: LiveServer, record: Make) -> None:
        seen = shown(live, record(changes=(HIDDEN, INDUCTION)))
        for words in (
            "start (10 %) 81 [71, 92] middle (50 %) 163 [151, 177] end (90 %) 317 [299, 341]",
            "size 0.4875 probability, 2 checkpoints inside",
            "natural prefix matching present icl score absent repeat gain not measured",
            "L1H0 0.097 → 0.550 Chance: natural prefix matching 0.0435.",
            "L1H0 full 320 75% [62%, 87%]; 1 matched: 5% not measured",
            "start (10 %) 243 no width fitted middle (50 %) 322 no width fitted end (90 %) not over",
            "false-discovery rate q = 0.012, controlled over times × tokens",
        ):
            assert words in seen, words

    def test_tokens_that_gained_and_lost_stand_in_their_text(self, live: LiveServer, record: Make) -> None:
        seen = shown(live, record(changes=(INDUCTION,)))
        gained, lost = seen.split("Tokens that gained most")[1].split("Tokens that lost most")
        assert "+1.450 3.85 2.40 0:4" in gained
        assert "-1.450 4.15 5.60 0:6" in lost
        assert "3 tokens move with it; of 3 with losses on both sides, 2 fell and 1 rose" in seen
        assert f"plain{TOKEN}" in gained

    def test_measures_before_and_after_with_interval_and_excess(self, live: LiveServer, record: Make) -> None:
        seen = shown(live, record(changes=(INDUCTION,)))
        assert "icl score nats 10 0 -0.0375 -0.4 -0.4 [-0.4125, -0.3875] -0.4" in seen
        assert "natural prefix matching, L1H0 share of attention 10 0.05 0.09688 0.55 0.55 – +0.5065" in seen

    def test_method_and_how_to_reproduce_it(self, record: Make, live: LiveServer) -> None:
        training = TrainingConfig(name='it\'s "quoted"', steps=500)
        run = record(changes=(INDUCTION,), training=training.model_dump(mode="json"))
        seen = shown(live, run)
        probe_set = live.get(f"/runs/{run}")["probe_set"]
        assert f"Probe set, SHA-256 {probe_set}: text (2 sequences of 9 tokens)" in seen
        assert f"Checkpoints with losses: 10, at steps {', '.join(map(str, STEPS))}." in seen
        assert "Detector version 7;" in seen
        formula = live.get("/measures")["items"]
        assert " ".join(next(one["formula"] for one in formula if one["name"] == "icl_score").split()) in seen
        assert f"phasewatch report {run}" in seen
        assert " ".join(training.to_toml().split()) in seen
        assert "model.sublayers aa" in seen

    def test_a_run_from_outside_shows_its_own_configuration(self, live: LiveServer, record: Make) -> None:
        seen = shown(live, record(config={"lr": 3e-4, "data": {"mix": [1, 2]}}))
        assert "lr 0.0003 data.mix [1, 2]" in seen
        assert "recorded from outside" in seen


class TestFile:
    def test_nothing_in_it_is_alive_and_nothing_is_asked_for(
        self, tmp_path: Path, phasewatch: Call, record: Make
    ) -> None:
        hostile = {"name": HOSTILE, "tags": (HOSTILE,), "config": {HOSTILE: {HOSTILE: HOSTILE}}}
        page, seen = read(tmp_path, phasewatch, record(changes=(HIDDEN, INDUCTION), **hostile))
        assert not seen.names & {"script", "a", "link", "iframe", "object", "form", "img", "base"}
        assert ("Content-Security-Policy", POLICY) in {
            (attributes.get("http-equiv"), attributes.get("content"))
            for name, attributes in seen.tags
            if name == "meta"
        }
        assert "default-src 'none'" in POLICY
        for name, attributes in seen.tags:
            for key, value in attributes.items():
                assert not key.startswith("on"), (name, key)
                if key in ("src", "href", "xlink:href"):
                    assert str(value).startswith(("#", "data:image/png;base64,")), value
        assert not re.search(r"\w://|@import|url\((?!#)", page)
        assert seen.shown.count(HOSTILE.replace("\u202e", "⟨U+202E⟩")) == 10
        assert "\u202e" not in page
        assert TOKEN not in page
        assert TOKEN in seen.shown

    def test_the_same_data_gives_the_same_bytes(
        self, tmp_path: Path, phasewatch: Call, record: Make, sqlite_database: Database
    ) -> None:
        run = record(changes=(HIDDEN, INDUCTION))
        with sqlite_database.transaction() as session:
            session.execute(delete(MeasurementRow))  # one picture shows it as well as four
        folders = [tmp_path / name for name in "ab"]
        first, second = (
            read(folder, phasewatch, run, "--png", str(folder), "--svg", str(folder))[0] for folder in folders
        )
        assert first == second
        for file in ("loss.png", "loss.svg"):
            assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()

    def test_curves_take_the_page_s_colours_and_say_chance(
        self, tmp_path: Path, phasewatch: Call, record: Make
    ) -> None:
        page, seen = read(tmp_path, phasewatch, record(changes=(INDUCTION,)))
        labels = [attributes["aria-label"] for name, attributes in seen.tags if name == "svg"]
        assert labels == [
            "Mean loss", "ICL score", "Natural prefix matching", "Loss by position and step",
            "Slope of the loss along the context",
        ]  # fmt: skip
        ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
        assert len(set(ids)) == len(ids)
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
        assert "currentColor" in page
        assert "#010203" not in page
        assert "prefers-color-scheme: dark" in page
        assert "@media print" in page
        assert "uniform attention over what came before: 0.0435" in seen.shown

    def test_pictures_as_files_are_fit_for_print(self, tmp_path: Path, phasewatch: Call, record: Make) -> None:
        png, svg = tmp_path / "png", tmp_path / "svg"
        read(tmp_path, phasewatch, record(changes=(INDUCTION,)), "--png", str(png), "--svg", str(svg))
        names = ["icl_score", "loss", "natural_prefix_matching", "position", "position_slope"]
        assert sorted(path.name for path in png.iterdir()) == [f"{name}.png" for name in names]
        assert sorted(path.name for path in svg.iterdir()) == [f"{name}.svg" for name in names]
        for name in names:
            with Image.open(png / f"{name}.png") as image:
                assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
                assert image.width >= 1_500
            drawn = ElementTree.fromstring((svg / f"{name}.svg").read_bytes())
            assert {child.tag.rpartition("}")[2] for child in drawn.iter()} <= SVG_NAMES
            assert "currentColor" not in (svg / f"{name}.svg").read_text()

    def test_without_a_name_it_is_called_after_the_run(
        self, tmp_path: Path, phasewatch: Call, record: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = record([0, 10])
        answer = phasewatch("report", "learner", "--json")
        assert answer.json == {"run": str(run), "paths": [f"report-{run}.html"]}
        assert (tmp_path / f"report-{run}.html").exists()

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path, phasewatch: Call, record: Make) -> None:
        (tmp_path / "file").write_text("")
        answer = phasewatch("report", str(record([0, 10])), "--out", str(tmp_path / "file" / "report.html"))
        assert answer.status == 1
        assert "name another place with --out" in answer.err

    def test_an_unknown_run(self, phasewatch: Call, live: LiveServer) -> None:
        assert phasewatch("report", "nobody").status == 1
