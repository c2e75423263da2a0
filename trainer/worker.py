"""The training worker: claims queued runs, trains them, and writes what they give to database and artifacts folder.

One recording is one transaction: losses, metrics and checkpoint of a step are there together or not at all. Weights lie
in the artifacts folder before the row that names them, so a checkpoint that can be seen can be read. A run whose worker
was lost is resumed by the next from its last complete checkpoint, in a new segment that hides whatever came after it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from typing import TypeVar
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from phasewatch.errors import InvalidInput, NotFound, Unavailable
from phasewatch.ids import new_id
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import (
    NewCheckpoint,
    drop_older_states,
    put_checkpoint,
    resumable_checkpoints,
    state_name,
    weights_name,
)
from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import claim_run, get_run, open_segment, release_run, set_probe_set
from phasewatch.storage.schema import Checkpoint, Run, RunStatus
from phasewatch.storage.series import load_series, put_series
from phasewatch.training import TrainingConfig, describe
from trainer.checkpointing import load_state, save_state, save_weights
from trainer.data import load_corpus
from trainer.lease import Lease, LeaseLost
from trainer.loop import Recording, Trainer, TrainerState
from trainer.progress import training_progress
from trainer.settings import Settings

logger = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = (0.5, 1.0, 2.0, 5.0)  # waits while database or artifacts folder are away; the last one repeats
AWAY = (OperationalError, InterfaceError, Unavailable)


class Stopped(Exception):
    """The worker was told to stop while the database was away."""


class Worker:
    """Trains one run after the other; `owner` names it in the leases it holds."""

    def __init__(self, database: Database, artifacts: Artifacts, settings: Settings) -> None:
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{new_id().hex[-6:]}"
        self._database, self._artifacts, self._settings = database, artifacts, settings
        self._stop = threading.Event()

    def work(self, stop: threading.Event, *, once: bool = False) -> None:
        """Claims and trains runs until `stop` is set, or with `once` until none waits."""
        self._stop = stop
        while not stop.is_set():
            try:
                run = self._claim()
            except AWAY as error:
                logger.warning("the database does not answer, next try in %.0f s: %s", RETRY_S[-1], error)
                stop.wait(RETRY_S[-1])
                continue
            if run is not None:
                self._train(run)
            elif once:
                return
            else:
                stop.wait(self._settings.trainer_poll_s)

    def _claim(self) -> Run | None:
        with self._database.transaction() as session:
            return claim_run(session, self.owner, self._settings.trainer_lease_s)

    def _train(self, run: Run) -> None:
        """One run, whatever becomes of it; it is given back in the end unless another worker has it by then."""
        logger.info("run %s (%s): claimed by %s", run.id, run.name, self.owner)
        with Lease(self._database, run.id, self.owner, self._settings.trainer_lease_s) as lease:
            try:
                status, failure = self._train_under(lease, run)
            except (LeaseLost, Stopped, NotFound) as error:  # NotFound: the run was deleted meanwhile
                logger.warning("run %s: left as it is: %s", run.id, error)
                return
            except Exception as error:  # whatever a run's settings bring about is the run's failure, not the worker's
                logger.exception("run %s: failed", run.id)
                status, failure = "failed", f"{type(error).__name__}: {error}"
            self._persist(lambda session: release_run(session, run.id, self.owner, status, failure))
        logger.info("run %s (%s): %s", run.id, run.name, status or lease.reason)

    def _train_under(self, lease: Lease, run: Run) -> tuple[RunStatus | None, str | None]:
        """The status the run is given back in (None: the one it was set to meanwhile) and the failure."""
        try:
            config = TrainingConfig.model_validate(run.training)
        except ValidationError as error:
            return "failed", f"its training configuration: {describe(error)}"
        corpus = load_corpus(config.data, self._settings.data / "corpora")
        segment, state = self._begin(lease, run.id)
        trainer = Trainer(config, corpus, resume=state)
        self._persist(lambda session: self._put_probes(session, lease, trainer))
        with training_progress(config, first_step=trainer.step) as on_step:
            finished = trainer.run(
                partial(self._record, lease, segment, keep_weights=config.recording.weights),
                on_step=on_step,
                should_stop=lambda: self._stop.is_set() or lease.ending.is_set(),
            )
        if finished:
            return "completed", None
        return (None if lease.ending.is_set() else "queued"), None

    def _begin(self, lease: Lease, run_id: UUID) -> tuple[int, TrainerState | None]:
        """The segment to write to, and the state to go on from: a resume opens a segment of its own."""
        with self._database.reading() as session:
            checkpoints = resumable_checkpoints(session, run_id)
            fresh = get_run(session, run_id).last_step is None
        state = next(filter(None, map(self._load_state, checkpoints)), None)
        if state is not None:
            logger.info("run %s: goes on from step %d", run_id, state.step)
            return self._persist(partial(_open_after, lease=lease, state=state)), state
        return 0 if fresh else self._persist(partial(_open_at, lease=lease, from_step=0)), None

    def _load_state(self, checkpoint: Checkpoint) -> TrainerState | None:
        """None where the state cannot be read: an older one will do."""
        try:
            return load_state(self._artifacts.get(str(checkpoint.state_url), checkpoint.state_sha256))
        except (NotFound, Unavailable, InvalidInput) as error:
            logger.warning("no resume from step %d: %s", checkpoint.step, error)
            return None

    def _put_probes(self, session: Session, lease: Lease, trainer: Trainer) -> None:
        lease.check(session)
        put_probe_set(session, trainer.probes)
        set_probe_set(session, lease.run_id, trainer.probes.sha256)

    def _record(self, lease: Lease, segment: int, recording: Recording, *, keep_weights: bool) -> None:
        """Files first, then the rows that name them, in one transaction under the lease."""
        new = self._retrying(lambda: self._put_files(lease.run_id, segment, recording, keep_weights))

        def put_rows(session: Session) -> list[str]:
            lease.check(session)
            for name, losses in recording.losses.items():
                put_losses(session, lease.run_id, name, recording.step, losses, segment=segment)
            put_series(session, lease.run_id, recording.series, segment=segment)
            put_checkpoint(session, lease.run_id, new, segment=segment)
            return drop_older_states(session, lease.run_id)

        for name in self._persist(put_rows):
            self._artifacts.delete(name)

    def _put_files(self, run_id: UUID, segment: int, recording: Recording, keep_weights: bool) -> NewCheckpoint:
        step, model, put = recording.step, recording.model, self._artifacts.put
        weights = put(weights_name(run_id, segment, step), save_weights(model)) if keep_weights else None
        state = put(state_name(run_id, segment, step), save_state(recording.state()))
        return NewCheckpoint(step, recording.tokens_seen, model.spec(), weights, state)

    def _persist(self, write: Callable[[Session], T]) -> T:
        """One transaction, repeated while the database is away."""

        def attempt() -> T:
            with self._database.transaction() as session:
                return write(session)

        return self._retrying(attempt)

    def _retrying(self, attempt: Callable[[], T]) -> T:
        """Repeats `attempt` while database or artifacts folder are away; raises Stopped when the worker is to stop."""
        for wait_s in chain(RETRY_S, repeat(RETRY_S[-1])):
            try:
                return attempt()
            except AWAY as error:
                logger.warning("database or artifacts folder away, next try in %.1f s: %s", wait_s, error)
                if self._stop.wait(wait_s):
                    raise Stopped("the worker was told to stop while the database was away") from error
        raise AssertionError("unreachable: the waits never end")


def _open_after(session: Session, lease: Lease, state: TrainerState) -> int:
    """The segment of a run that goes on from `state`.

    A recorded step stays visible. One at which the run merely stopped does not: an unbroken run has no checkpoint
    there; the metrics of its update are taken along.
    """
    due = state.config.recording.schedule.due(state.step, state.config.steps)
    metrics = {} if due else _metrics_at(session, lease.run_id, state.step)
    segment = _open_at(session, lease, state.step + 1 if due else state.step)
    put_series(session, lease.run_id, {state.step: metrics} if metrics else {}, segment=segment)
    return segment


def _open_at(session: Session, lease: Lease, from_step: int) -> int:
    lease.check(session)
    return open_segment(session, lease.run_id, from_step).number


def _metrics_at(session: Session, run_id: UUID, step: int) -> dict[str, float]:
    series = load_series(session, run_id)
    return {name: values[steps.index(step)] for name, (steps, values) in series.items() if step in steps}
