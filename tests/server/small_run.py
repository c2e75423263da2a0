"""A run small enough to be scored in milliseconds: probe tokens, models, and what a trainer would store of them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import numpy as np
import safetensors.torch

from phasewatch.probes import ProbeSet
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import NewCheckpoint, put_checkpoint, weights_name
from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import NewRun, create_run, get_run, set_probe_set, set_status
from phasewatch.training import ModelConfig
from phasewatch.transformer import Transformer

VOCABULARY = 40
CONFIG = ModelConfig(d_model=8, n_heads=2, context=32)


def small_probes(seed: int = 0) -> ProbeSet:
    """Slices text (6 × 24), repeats and random over a vocabulary of 40."""
    text = np.random.default_rng(seed).integers(0, VOCABULARY, (6, 24))
    return ProbeSet.from_tokens(text, vocab_size=VOCABULARY, n_repeats=4, copy_length=6, n_copies=3)


def small_model(seed: int) -> Transformer:
    """Two attention layers of two heads with random weights."""
    return Transformer(CONFIG, VOCABULARY, seed=seed)


@dataclass(frozen=True)
class SmallRun:
    """A run in a database, and the two ways of adding a step to it."""

    database: Database
    artifacts: Artifacts
    probes: ProbeSet
    run_id: UUID

    @classmethod
    def create(cls, database: Database, artifacts: Artifacts, *, tags: tuple[str, ...] = ()) -> SmallRun:
        probes = small_probes()
        with database.transaction() as session:
            run, _ = create_run(session, NewRun("small", tags=tags))
            put_probe_set(session, probes)
            set_probe_set(session, run.id, probes.sha256)
        return cls(database, artifacts, probes, run.id)

    def record_losses(self, step: int, seed: int | None = None, *slices: str) -> None:
        """Random losses, as a recorder sends them; of all slices unless some are named."""
        random = np.random.default_rng(step if seed is None else seed)
        with self.database.transaction() as session:
            for name in slices or self.probes.slices:
                part = self.probes.slices[name]
                put_losses(
                    session, self.run_id, name, step, random.gamma(2.0, 1.5, (part.n_sequences, part.n_positions))
                )

    def record_weights(self, step: int, seed: int | None = None, *, spec: dict[str, object] | None = None) -> None:
        """A checkpoint with its weights."""
        model = small_model(step if seed is None else seed)
        content = safetensors.torch.save(model.state_dict())
        with self.database.transaction() as session:
            weights = self.artifacts.put(weights_name(self.run_id, 0, step), content)
            new = NewCheckpoint(step, model=model.spec() if spec is None else spec, weights=weights)
            put_checkpoint(session, self.run_id, new)

    def record(self, step: int, seed: int | None = None) -> None:
        """Losses and weights, as the trainer writes them."""
        self.record_losses(step, seed)
        self.record_weights(step, seed)

    def end(self) -> None:
        """The run is over."""
        with self.database.transaction() as session:
            set_status(session, get_run(session, self.run_id, lock=True), "completed")
