"""What the page of a change shows beyond the recorded run: patterns of its head, an ablation, a token group."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from phasewatch.measures.ablation import Ablation
from phasewatch.measures.evidence import to_measurement
from phasewatch.measures.measurement import Measurement
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import list_phase_changes
from tests.browser.recorded_run import N_TOKENS

BACK = 9  # tokens back to where the head attends
BEFORE, DURING, AFTER = 150, 275, 400
STRENGTH = {BEFORE: 0.0, DURING: 0.5, AFTER: 0.9}


def pattern(step: int) -> npt.NDArray[np.float64]:
    """A[i, k]: uniform attention, and a share of it on the token `BACK` before the query."""
    uniform = np.tril(np.ones((N_TOKENS, N_TOKENS))) / np.arange(1, N_TOKENS + 1)[:, None]
    stripe = np.zeros((N_TOKENS, N_TOKENS))
    stripe[np.arange(N_TOKENS), np.maximum(np.arange(N_TOKENS) - BACK, 0)] = 1
    return (1 - STRENGTH[step]) * uniform + STRENGTH[step] * stripe


def ablation() -> Ablation:
    """Zeroing L1H0 takes away 80 % of the ICL score and 90 % of the repeat gain, one matched head 5 %."""
    change = {"icl_score": (0.32, 0.28, 0.36), "repeat_gain": (-1.62, -1.7, -1.5)}
    return Ablation(
        heads=((1, 0),),
        mode="full",
        baseline={"icl_score": -0.4, "repeat_gain": 1.8},
        change={name: Measurement(np.array(v), interval=np.array([lo, hi])) for name, (v, lo, hi) in change.items()},
        matched_heads=(((1, 1),),),
        matched={"icl_score": np.array([0.02]), "repeat_gain": np.array([-0.09])},
        baseline_interval={"icl_score": np.array([-0.45, -0.35]), "repeat_gain": np.array([1.6, 2.0])},
    )


def record_patterns(session: Session, run: UUID) -> None:
    """The pattern of L1H0 over the first sequence of the text, before, during and after the induction change."""
    for step in STRENGTH:
        found = {"natural_attention_pattern:L1H0": StoredMeasurement(1, pattern(step))}
        put_measurements(session, run, step, found)


def record_ablation(session: Session, run: UUID) -> None:
    """The ablation of L1H0 at the checkpoint after the change."""
    found = to_measurement(ablation())
    put_measurements(session, run, AFTER, {"ablation:L1H0": StoredMeasurement(1, found.values, 0.0, found.interval)})


def changes_of(session: Session, run: UUID) -> dict[str, str]:
    """The ids of the run's changes: induction, and the others by kind."""
    found = list_phase_changes(session, run)
    return {"induction" if change.induction else change.kind: str(change.id) for change in found}
