"""Folders of foreign trainers: what becomes a checkpoint, what is left and why, and that nothing outside is read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import safetensors.numpy
from sqlalchemy import select

from phasewatch.errors import InvalidInput
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import get_checkpoint, list_checkpoints
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob, claim_jobs, enqueue, get_job
from phasewatch.storage.retention import RetentionRules, apply_retention
from phasewatch.storage.schema import Job
from server.jobs import Work, attempt
from server.jobs.folder import folder_below, step_of
from tests.conftest import MakeRun
from tests.server.conftest import MakeClient, refused


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that the service allows, with one to watch in it."""
    (tmp_path / "root" / "mine").mkdir(parents=True)
    return tmp_path / "root"


def weights(seed: int) -> bytes:
    return safetensors.numpy.save({"w": np.full(10, seed, np.float32)})


def put(path: Path, content: bytes, age_s: float = 60.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def look(database: Database, artifacts: Artifacts, run: UUID, root: Path | None, folder: str = "mine") -> Job:
    """The job of one look at the folder, when it is over."""
    with database.transaction() as session:
        key = f"watch_folder:{time.monotonic_ns()}"
        enqueue(session, NewJob(key, "watch_folder", run, parameters={"folder": folder, "stable_s": 5.0}))
        (row,) = claim_jobs(session, "worker", 1, 60.0)
        work = Work.from_row(row, "worker", None if root is None else str(root))
    failure = attempt(work, database, artifacts)
    with database.reading() as session:
        job = get_job(session, row.id)
    job.error = None if failure is None else failure.error
    return job


def result(database: Database, artifacts: Artifacts, run: UUID, root: Path) -> tuple[list[int], dict[str, str]]:
    """(steps registered, file -> reason) of one look."""
    job = look(database, artifacts, run, root)
    assert job.result is not None, job.error
    return job.result["registered"], {one["file"]: one["reason"] for one in job.result["left"]}


def test_files_and_hugging_face_folders_become_checkpoints(
    database: Database, artifacts: Artifacts, make_run: MakeRun, root: Path
) -> None:
    run = make_run()
    put(root / "mine" / "step_100.safetensors", weights(1))
    put(root / "mine" / "checkpoint-200" / "model.safetensors", weights(2))
    put(root / "mine" / "checkpoint-200" / "config.json", json.dumps({"model_type": "gpt2"}).encode())
    assert result(database, artifacts, run, root) == ([100, 200], {})
    with database.reading() as session:
        first, second = list_checkpoints(session, run)
    assert (first.step, first.model) == (100, None)
    assert second.model == {"kind": "hugging_face", "config": {"model_type": "gpt2"}}
    assert artifacts.get(str(first.artifact_url), first.sha256) == weights(1)
    assert artifacts.get(str(second.artifact_url), second.sha256) == weights(2)
    put(root / "mine" / "step_300.safetensors", weights(3))
    assert result(database, artifacts, run, root) == ([300], {})
    assert result(database, artifacts, run, root) == ([], {})
    assert len(list(Path(artifacts.url).rglob("*.safetensors"))) == 3


def test_what_is_not_whole_or_not_at_rest_waits(
    sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun, root: Path
) -> None:
    run, content = make_run(), weights(1)
    path = put(root / "mine" / "step_1.safetensors", content[:-5])
    put(root / "mine" / "step_2.safetensors", content[:6])
    put(root / "mine" / "step_3.safetensors", content, age_s=0.0)
    registered, left = result(sqlite_database, artifacts, run, root)
    assert registered == []
    assert (
        left["step_1.safetensors"] == f"it has {len(content) - 5} bytes of the {len(content)} that its header promises"
    )
    assert "header is not whole yet" in left["step_2.safetensors"]
    assert "within the last 5 s" in left["step_3.safetensors"]
    put(path, content)
    assert result(sqlite_database, artifacts, run, root)[0] == [1]


def test_what_is_no_checkpoint_is_left_with_the_reason(
    sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun, root: Path
) -> None:
    run = make_run()
    put(root / "mine" / "pytorch_model.bin", b"\x80\x04pickle")
    put(root / "mine" / "step_5.pt", b"\x80\x04pickle")
    put(root / "mine" / "step_6.safetensors", b"\x80\x04pickle" * 10)
    put(root / "mine" / "final.safetensors", weights(1))
    put(root / "mine" / "a-7.safetensors", weights(7))
    put(root / "mine" / "b-7.safetensors", weights(8))
    put(root / "mine" / "checkpoint-9" / "model-00001-of-00002.safetensors", weights(9))
    put(root / "mine" / "checkpoint-10" / "model.safetensors", weights(10))
    put(root / "mine" / "checkpoint-10" / "config.json", b"[" * 100_000)
    registered, left = result(sqlite_database, artifacts, run, root)
    assert registered == [7]
    assert set(left) == {"step_6.safetensors", "final.safetensors", "b-7.safetensors", "model.safetensors"}
    assert "no step" in left["final.safetensors"]
    assert left["b-7.safetensors"] == "a-7.safetensors has the same step 7"
    assert "config.json" in left["model.safetensors"]
    with sqlite_database.reading() as session:
        assert artifacts.get(str(get_checkpoint(session, run, 7).artifact_url)) == weights(7)


def test_nothing_outside_the_root_is_read(
    sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun, root: Path, tmp_path: Path
) -> None:
    run = make_run()
    outside = put(tmp_path / "outside" / "step_1.safetensors", weights(1))
    put(tmp_path / "outside" / "config.json", b'{"secret": 1}')
    (root / "mine" / "step_1.safetensors").symlink_to(outside)
    (root / "mine" / "checkpoint-2").symlink_to(tmp_path / "outside")
    put(root / "mine" / "checkpoint-3" / "model.safetensors", weights(3))
    (root / "mine" / "checkpoint-3" / "config.json").symlink_to(tmp_path / "outside" / "config.json")
    (root / "away").symlink_to(tmp_path / "outside")
    registered, left = result(sqlite_database, artifacts, run, root)
    assert registered == [3]
    assert left == {"step_1.safetensors": "it is a link out of PHASEWATCH_WATCH_ROOT"}
    with sqlite_database.reading() as session:
        assert get_checkpoint(session, run, 3).model is None
    for folder in ("away", "../outside", str(tmp_path / "outside"), "mine/../../outside", "a\x00b"):
        with pytest.raises(InvalidInput, match=r"leaves PHASEWATCH_WATCH_ROOT|cannot be found"):
            folder_below(str(root), folder)
        assert look(sqlite_database, artifacts, run, root, folder).error is not None
    assert "that is not set" in str(look(sqlite_database, artifacts, run, None).error)


def test_weights_that_retention_removed_do_not_come_back(
    sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun, root: Path
) -> None:
    run = make_run()
    for step in (1, 2):
        put(root / "mine" / f"step_{step}.safetensors", weights(step))
    assert result(sqlite_database, artifacts, run, root)[0] == [1, 2]
    assert apply_retention(sqlite_database, artifacts, run, RetentionRules(keep_last=1)).n_weights == 1
    assert result(sqlite_database, artifacts, run, root) == ([], {})


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("step_1000.safetensors", 1000),
        ("run2-step0042.safetensors", 42),
        ("checkpoint-500/model.safetensors", 500),
        ("checkpoint-500/pytorch_model.safetensors", 500),
        ("global_step7/weights.safetensors", 7),
        ("best/model.safetensors", None),
        ("final.safetensors", None),
        ("9999999999999999999999.safetensors", None),
    ],
)
def test_the_step_is_read_off_the_name(path: str, step: int | None) -> None:
    assert step_of(Path(path)) == step


def monitor(run: UUID, **parameters: Any) -> dict[str, Any]:
    return {
        "name": "f", "kind": "watch_folder", "selector": {"run": str(run)}, "trigger": {"every_s": 10},
        "parameters": {"folder": "mine", **parameters},
    }  # fmt: skip


def test_a_folder_is_watched_by_a_monitor(
    database: Database, make_client: MakeClient, make_run: MakeRun, root: Path
) -> None:
    client, run = make_client(database, watch_root=str(root)), make_run()
    made = client.post("/api/v1/monitors", json=monitor(run))
    assert made.status_code == 201, made.text
    assert made.json()["parameters"] == {"folder": "mine", "stable_s": 10}
    path = f"/api/v1/monitors/{made.json()['id']}"
    (job,) = client.post(f"{path}/fire").json()["jobs"]
    assert client.get(f"/api/v1/jobs/{job}").json()["run"] == str(run)
    assert client.post(f"{path}/fire").json()["jobs"] == []  # the first look is not over
    for folder in ("../x", "/etc", "a/../../b", ".hidden", "a//b", ""):
        refused(client.post("/api/v1/monitors", json=monitor(run, folder=folder)), 422, "folder")
        refused(client.patch(path, json={"parameters": {"folder": folder}}), 422, "folder")
    tagged = monitor(run) | {"selector": {"all": True}}
    refused(client.post("/api/v1/monitors", json=tagged), 422, "selector")
    with database.reading() as session:
        assert len(session.scalars(select(Job)).all()) == 1


def test_without_a_root_no_folder_is_watched(sqlite_database: Database, make_client: MakeClient, run: UUID) -> None:
    refused(make_client(sqlite_database).post("/api/v1/monitors", json=monitor(run)), 422, "PHASEWATCH_WATCH_ROOT")
