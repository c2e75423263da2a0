"""Runs that tests of the worker train, and what is kept of them; importable by the processes that are killed."""

from __future__ import annotations

import hashlib
import signal
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import list_checkpoints
from phasewatch.storage.database import Database
from phasewatch.storage.losses import list_loss_slices
from phasewatch.storage.probe_sets import list_slices
from phasewatch.storage.runs import get_run
from phasewatch.storage.series import load_series
from tests.trainer import small
from trainer.settings import Settings
from trainer.worker import Worker

LEASE_S = 1.0
Kept = dict[tuple[str, str, int], str]
"""(what, name, step) -> the SHA-256, or the value as text, of everything a run shows"""


def training(text: Path, **values: Any) -> dict[str, Any]:
    """The configuration of a small run on `text`, as the API stores it."""
    data = {"text": str(text), "vocabulary_size": 280}
    return small.config(**({"data": data} | values)).model_dump(mode="json")


def settings(database_url: str, artifacts_url: str, data: Path) -> Settings:
    """Settings of a worker whose lost runs are free after a second."""
    return Settings(
        database_url=database_url, artifacts_url=artifacts_url, data=data, trainer_lease_s=LEASE_S, trainer_poll_s=0.05
    )


def work(database_url: str, artifacts_url: str, data: str) -> None:
    """A worker's whole life: trains what waits, and leaves; SIGTERM makes it give its run back."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    database = Database(database_url)
    Worker(database, Artifacts(artifacts_url), settings(database_url, artifacts_url, Path(data))).work(stop, once=True)


def kept_of(database: Database, artifacts: Artifacts, run_id: UUID) -> Kept:
    """All that a run shows: losses, weights and metrics; tokens/s, which differs every time, left out."""
    kept: Kept = {}
    with database.reading() as session:
        for part in list_slices(session, str(get_run(session, run_id).probe_set_id)):
            for row in list_loss_slices(session, run_id, part.name):
                kept["losses", part.name, row.step] = row.sha256
        for checkpoint in list_checkpoints(session, run_id):
            content = artifacts.get(str(checkpoint.artifact_url), checkpoint.sha256)
            kept["weights", "", checkpoint.step] = hashlib.sha256(content).hexdigest()
        for name, (steps, values) in load_series(session, run_id).items():
            if name != "tokens_per_s":
                kept |= {("series", name, step): repr(value) for step, value in zip(steps, values, strict=True)}
    return kept
