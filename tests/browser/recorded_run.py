"""A small run that learned induction, with everything that the pages show: written in a second, the same every time."""

from __future__ import annotations

import math
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.checkpoints import NewCheckpoint, put_checkpoint
from phasewatch.storage.losses import put_losses
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import NewRun, create_run, set_probe_set
from phasewatch.storage.series import put_series

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, *range(100, 701, 25)]
N_SEQUENCES, N_TOKENS = 8, 33
TOKENS_A_STEP = 2_048
WORDS = ("self", ".", "value", "(", ")", " = ", "return", " ", "\n", "def", "name", ":", "if", "None", "in", "<b>&")
N_COPYING = 20

INDUCTION = PhaseChange(
    start_step=170,
    step=275,
    end_step=400,
    start_interval=(150.0, 190.0),
    step_interval=(260.0, 290.0),
    end_interval=(370.0, 440.0),
    kind="level",
    direction="rise",
    effect=0.5,
    unit="probability",
    measure="natural_prefix_matching:L1H0",
    heads=((1, 0),),
    induction=True,
    signs={"repeat_gain": "present", "previous_token": "present", "icl_score": "absent"},
    n_checkpoints_inside=9,
)
EARLY = PhaseChange(
    start_step=8,
    step=20,
    end_step=64,
    kind="level",
    direction="drop",
    effect=2.0,
    unit="nats",
    measure="mean_loss:text",
    n_checkpoints_inside=3,
)


def copying_tokens() -> npt.NDArray[np.int64]:
    """Flat indices of the losses that fall with the induction heads, none of them early in its sequence."""
    rng = np.random.default_rng(7)
    rows, columns = rng.integers(0, N_SEQUENCES, N_COPYING), rng.integers(8, N_TOKENS - 1, N_COPYING)
    return np.unique(rows * (N_TOKENS - 1) + columns)


HIDDEN = PhaseChange(
    start_step=180,
    step=270,
    end_step=390,
    kind="hidden",
    direction="drop",
    effect=1.8,
    unit="nats",
    measure="token_losses:text",
    tokens=copying_tokens(),
    q_value=0.01,
    n_checkpoints_inside=8,
)
CHANGES = [EARLY, HIDDEN, INDUCTION]


def probe_set() -> ProbeSet:
    """The slice `text`, 8 × 33 tokens whose text is known."""
    tokens = np.random.default_rng(0).integers(0, len(WORDS), (N_SEQUENCES, N_TOKENS), dtype=np.int32)
    return ProbeSet(slices={"text": Slice(tokens, Layout("text"))}, vocab_size=len(WORDS), pieces=WORDS)


def share_after(step: int) -> float:
    """How much of the induction change is over at a step."""
    return 1 / (1 + math.exp(-(step - INDUCTION.step) / 40))


def losses_at(step: int) -> npt.NDArray[np.float32]:
    """Losses (8, 32) in nats: all fall at the early change, some with the induction heads."""
    level = 4.0 if step < EARLY.step else 2.5
    values = np.random.default_rng(step).gamma(40, level / 40, (N_SEQUENCES, N_TOKENS - 1))
    values.reshape(-1)[copying_tokens()] -= 1.8 * share_after(step)
    return np.maximum(values, 0.01).astype(np.float32)


def training_loss(step: int) -> float:
    """The loss on a training batch; not a number at step 4."""
    return math.nan if step == 4 else 6.2 - math.log1p(step) / 3


def icl_score(step: int) -> float:
    """Nats, late minus early loss."""
    return -0.4 * share_after(step)


def record_step(session: Session, run: UUID, step: int) -> None:
    """Records one step: checkpoint, losses, a training loss, head scores, ICL score, loss by position."""
    late = share_after(step)
    heads = np.array([[0.05, 0.04], [0.05 + 0.5 * late, 0.03]])
    icl, losses = np.array(icl_score(step)), losses_at(step)
    put_checkpoint(session, run, NewCheckpoint(step, tokens_seen=step * TOKENS_A_STEP))
    put_losses(session, run, "text", step, losses)
    put_series(session, run, {step: {"loss": training_loss(step), "learning_rate": 0.01}})
    measurements = {
        "natural_prefix_matching": StoredMeasurement(1, heads, 0.04),
        "previous_token": StoredMeasurement(1, heads[::-1], 0.02),
        "icl_score": StoredMeasurement(1, icl, None, np.array([icl - 0.05, icl + 0.05])),
        "position_profile": StoredMeasurement(1, losses.mean(0, dtype=np.float64), None),
    }
    put_measurements(session, run, step, measurements, source="recorder")


def record_run(session: Session, name: str = "two layers") -> UUID:
    """The whole run with its changes; its id."""
    run = create_run(session, NewRun(name, tags=("demo",), config={"layers": 2}))[0].id
    probes = probe_set()
    put_probe_set(session, probes)
    set_probe_set(session, run, probes.sha256)
    for step in STEPS:
        record_step(session, run, step)
    store_scan(session, run, CHANGES, STEPS, detector_version=2, ended=True, slice_name="text")
    return run
