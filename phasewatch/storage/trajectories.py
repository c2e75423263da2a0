"""The path of one run through its losses, computed when it is read: another checkpoint gives other components.

Apart from measurements.py, which keeps values of single checkpoints; this is of all of them together, in a basis of its
own, whose name says what it was made of.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from phasewatch.errors import InvalidInput
from phasewatch.measures.measurement import Floats
from phasewatch.measures.trajectory import N_COMPONENTS, Trajectory, loss_slope, trajectory
from phasewatch.storage.checkpoints import list_checkpoints
from phasewatch.storage.codecs import BLOCK_TOKENS
from phasewatch.storage.losses import IntArray, list_loss_slices, loss_history
from phasewatch.storage.probe_sets import get_run_slice
from phasewatch.storage.schema import LossSlice

MAX_STEPS = 400  # more are thinned out evenly
MAX_VALUES = MAX_STEPS * BLOCK_TOKENS  # a block of each


@dataclass(frozen=True, eq=False)
class RunTrajectory:
    """A run's path: `path` is None where `reason` says why there is none.

    steps (n_steps,); slope (n_steps − 1,) is d mean loss / d ln(tokens seen) in nats, None where it is not known how
    many tokens were seen; n_tokens of n_all tokens of the slice were looked at. basis: changes with what it is made of.
    """

    steps: IntArray
    path: Trajectory | None
    slope: Floats | None
    n_tokens: int
    n_all: int
    basis: str
    reason: str | None


def load_trajectory(session: Session, run_id: UUID, slice_name: str) -> RunTrajectory:
    """The path of a run through the losses of a slice; raises NotFound.

    Of a large run evenly spread checkpoints and groups of sequences are looked at, the same ones every time.
    """
    part = get_run_slice(session, run_id, slice_name)
    headers = list_loss_slices(session, run_id, slice_name)
    kept = [headers[i] for i in spread(len(headers), MAX_STEPS)]
    n_positions = part.n_tokens - 1
    sequences = _sequences(part.n_sequences, n_positions, MAX_VALUES // (max(len(kept), 1) * n_positions))
    tokens = (sequences[:, None] * n_positions + np.arange(n_positions)).ravel()
    steps = np.array([header.step for header in kept], np.int64)
    made_of = json.dumps([str(run_id), part.id, [header.sha256 for header in kept], sequences.tolist()])
    basis = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    path, reason = None, None
    if len(kept) <= N_COMPONENTS:
        reason = f"{N_COMPONENTS} components need more than {N_COMPONENTS} checkpoints; there are {len(kept)}"
    else:
        try:
            path = trajectory(loss_history(session, run_id, slice_name, tokens=tokens, steps=steps).values)
        except InvalidInput as error:
            reason = str(error)
    slope = _slope(session, run_id, kept)
    return RunTrajectory(steps, path, slope, len(tokens), part.n_sequences * n_positions, basis, reason)


def _sequences(n: int, n_positions: int, at_most: int) -> IntArray:
    """At most `at_most` (but at least one) of n sequences: evenly spread groups, each of neighbours that fill a block.

    A value costs its whole block, so that sequences one by one would read all of a large slice at every checkpoint.
    """
    if n <= at_most:
        return np.arange(n)
    n_groups = max(1, at_most * n_positions // BLOCK_TOKENS)
    size = max(1, at_most // n_groups)
    firsts = spread(n - size + 1, n_groups)
    return np.unique(firsts[:, None] + np.arange(size))


def spread(n: int, at_most: int) -> IntArray:
    """Indices of at most `at_most` (but at least one) of n things, evenly spread and always the same."""
    if n <= at_most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, max(at_most, 1)).astype(np.int64))


def _slope(session: Session, run_id: UUID, headers: list[LossSlice]) -> Floats | None:
    """Slopes between neighbouring checkpoints, None unless all of them say how many tokens were seen, ever more."""
    seen = {row.step: row.tokens_seen for row in list_checkpoints(session, run_id)}
    tokens = [seen.get(header.step) for header in headers]
    known = np.array([np.nan if one is None else one for one in tokens], np.float64)
    if len(known) < 2 or not (np.diff(known) > 0).all():  # NaN, too, is not more
        return None
    means = [np.nan if header.mean_nats is None else header.mean_nats for header in headers]
    return loss_slope(means, known)
