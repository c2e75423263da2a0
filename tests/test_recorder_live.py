"""The recorder against the real API: what it says arrived is what the API gives back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phasewatch.measures import score_heads, token_losses
from phasewatch.probes import ProbeSet
from phasewatch.recorder import Recorder
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.live_server import LiveServer
from tests.test_recorder import TEXT, VOCAB, TinyModel

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60.0  # on a machine that is busy with other things


@pytest.fixture
def live(
    sqlite_database: Database, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveServer]:
    monkeypatch.chdir(tmp_path)  # the spool lies there
    server = LiveServer(sqlite_database, artifacts)
    yield server
    server.stop()


def watching(live: LiveServer, **more: Any) -> Recorder:
    return Recorder(live.url, run="tiny", flush_timeout=PATIENCE_S, **more)


def series(live: LiveServer, run_id: str, name: str) -> list[tuple[int, float]]:
    [found] = live.get(f"/runs/{run_id}/series", name=name)["items"]
    return list(zip(found["steps"], found["values"], strict=True))


def test_everything_recorded_comes_back_through_the_api(live: LiveServer) -> None:
    model, probes = TinyModel(), ProbeSet.from_tokens(TEXT, vocab_size=VOCAB)
    with watching(live, config={"lr": 0.1}, tags=["test"], strict=True) as recorder:
        recorder.probe(TEXT)
        for step in range(3):
            recorder.log(step, {"loss": 3.0 - step, "odd": float("nan")})
            recorder.record(step, model, weights=True)
    run = live.get(f"/runs/{recorder.run_id}")
    assert (run["name"], run["status"], run["last_step"], run["config"]) == ("tiny", "completed", 2, {"lr": 0.1})
    assert run["probe_set"] == probes.sha256
    assert series(live, recorder.run_id, "loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert series(live, recorder.run_id, "odd") == [(0, None), (1, None), (2, None)]
    for name, part in probes.slices.items():
        stored = live.get(f"/runs/{recorder.run_id}/losses/{name}/1")
        np.testing.assert_allclose(
            np.reshape(stored["values"], stored["shape"]), token_losses(model, part.tokens), rtol=2e-4
        )
    for name, scores in score_heads(model, probes).items():
        stored = live.get(f"/runs/{recorder.run_id}/measures/{name}")
        assert stored["steps"] == [0, 1, 2]
        np.testing.assert_array_equal(stored["values"][2], scores.values)
        assert stored["chance"] == scores.chance
    checkpoints = live.get(f"/runs/{recorder.run_id}/checkpoints")["items"]
    assert [(item["step"], item["has_weights"]) for item in checkpoints] == [(0, True), (1, True), (2, True)]


def test_what_is_recorded_while_the_server_is_away_arrives_once_and_in_order(live: LiveServer) -> None:
    losses = np.arange(36, dtype=np.float32).reshape(3, 12)
    with watching(live) as recorder:
        recorder.probe(TEXT)
        recorder.log(0, {"loss": 0.0})
        assert recorder.flush(PATIENCE_S)
        live.stop()
        for step in range(1, 200):
            recorder.log(step, {"loss": float(step)})
            if step % 50 == 0:
                recorder.record_losses(step, losses)
        assert not recorder.flush(0.3)
        live.start()
        assert recorder.flush(PATIENCE_S)
        live.stop()
        recorder.log(200, {"loss": 200.0})
        threading.Timer(0.3, live.start).start()  # back while the recorder closes
    assert (recorder.failed, recorder.dropped, recorder.pending) == (0, 0, 0)
    assert series(live, recorder.run_id, "loss") == [(step, float(step)) for step in range(201)]
    stored = live.get(f"/runs/{recorder.run_id}/losses/text")["items"]
    assert [(item["step"], item["n_values"]) for item in stored] == [(50, 36), (100, 36), (150, 36)]
    assert live.get(f"/runs/{recorder.run_id}")["status"] == "completed"


def test_a_resumed_run_shows_its_new_history(live: LiveServer) -> None:
    first = watching(live, strict=True)
    for step in range(6):
        first.log(step, {"loss": float(step)})
    first.close("RuntimeError: node lost")
    assert live.get(f"/runs/{first.run_id}")["failure"] == "RuntimeError: node lost"
    with watching(live, run_id=first.run_id, resume_from=4, strict=True) as second:
        for step in range(4, 8):
            second.log(step, {"loss": 100.0 + step})
        assert second.flush()
        assert live.get(f"/runs/{first.run_id}")["status"] == "running"
    assert series(live, first.run_id, "loss") == [
        *((step, float(step)) for step in range(4)),
        *((step, 100.0 + step) for step in range(4, 8)),
    ]
    assert live.get(f"/runs/{first.run_id}")["status"] == "completed"


def test_other_values_for_a_recorded_step_are_counted_and_change_nothing(live: LiveServer) -> None:
    with watching(live, strict=True) as first:
        first.log(1, {"loss": 1.0})
    with watching(live, run_id=first.run_id) as second:
        second.log(1, {"loss": 9.0})
        second.log(2, {"loss": 2.0})
    assert second.failed == 1
    assert series(live, first.run_id, "loss") == [(1, 1.0), (2, 2.0)]


def test_token_is_sent_and_a_wrong_one_said(
    sqlite_database: Database, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveServer(sqlite_database, artifacts, token="right")
    try:
        with watching(live, token="right", strict=True, spool=None) as recorder:
            recorder.log(0, {"loss": 1.0})
        assert series(live, recorder.run_id, "loss") == [(0, 1.0)]
        with watching(live, token="wrong", spool=None) as refused:
            refused.log(0, {"loss": 1.0})
        assert refused.failed == 3
        assert "give a token that may do this" in caplog.text
    finally:
        live.stop()


def test_a_script_that_never_closes_its_recorder_still_sends(live: LiveServer) -> None:
    script = """
        import sys
        from phasewatch import Recorder
        recorder = Recorder(sys.argv[1], run="forgotten")
        for step in range(50):
            recorder.log(step, {"loss": float(step)})
        print(recorder.run_id)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), live.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    run_id = done.stdout.strip()
    assert series(live, run_id, "loss") == [(step, float(step)) for step in range(50)]
    assert live.get(f"/runs/{run_id}")["status"] == "running"
    assert "was never closed" in done.stderr


def test_a_loop_that_is_not_ours_is_watched(live: LiveServer, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "recorder_loop.py"), "--url", live.url, "--steps", "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [run] = live.get("/runs")["items"]
    assert done.stdout.strip().endswith(f"{live.url}/runs/{run['id']}")
    assert (run["name"], run["status"]) == ("periodic", "completed")
    for name in ("prefix_matching", "natural_prefix_matching", "previous_token"):
        scores = live.get(f"/runs/{run['id']}/measures/{name}")
        assert scores["shape"] == [2, 4]
        assert scores["steps"] == live.get(f"/runs/{run['id']}/measures/prefix_matching")["steps"]
        assert np.isfinite(scores["values"]).all()
        # Attention of a model at its beginning is nearly even, so close to chance
        np.testing.assert_allclose(scores["values"][0], scores["chance"], atol=0.03)
    assert len(series(live, run["id"], "loss")) == 6
