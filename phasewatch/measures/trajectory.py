"""The path of a run through the space of its losses (MEASURES.md section 2): slopes, components, turns.

Apart from losses.py, because these need all checkpoints of a run and not one. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from phasewatch.errors import InvalidInput
from phasewatch.measures.measurement import Floats
from phasewatch.measures.registry import measure

N_COMPONENTS = 3


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A run's checkpoints in the components of their loss matrix.

    coordinates (n_steps, n_components), in nats · √n_tokens; directions (n_components, n_tokens), orthonormal, 0 for
    tokens that were left out; explained (n_components,), shares of the variance; angle (n_steps,) in radians between
    the movement into and out of a checkpoint, and curvature (n_steps,), 1 / radius of the circle through it and its
    neighbours, both NaN at the ends and where a checkpoint did not move.
    """

    coordinates: Floats
    directions: Floats
    explained: Floats
    angle: Floats
    curvature: Floats


@measure(
    "loss_slope",
    section="2",
    needs="losses",
    cost="on_request",
    scope="run",
    shape=("gaps between checkpoints",),
    unit="nats",
    formula="(L_{k+1} − L_k) / (ln T_{k+1} − ln T_k), L mean loss, T tokens seen",
    source="[O]",
    traps=("Not defined before the first token was seen.",),
)
def loss_slope(mean_losses: ArrayLike, tokens_seen: ArrayLike) -> Floats:
    """d mean loss / d ln(tokens seen) between neighbouring checkpoints, (n_steps − 1,), in nats.

    Both arguments (n_steps,). NaN before the first token was seen.
    """
    losses, tokens = np.asarray(mean_losses, dtype=np.float64), np.asarray(tokens_seen, dtype=np.float64)
    if losses.shape != tokens.shape or losses.ndim != 1 or (np.diff(tokens) <= 0).any():
        raise InvalidInput(
            f"mean losses {losses.shape} and increasing tokens seen {tokens.shape} must be one-dimensional"
        )
    log_tokens = np.log(np.where(tokens > 0, tokens, np.nan))
    slopes: Floats = np.diff(losses) / np.diff(log_tokens)
    return slopes


@measure(
    "trajectory",
    section="2",
    needs="losses",
    cost="on_request",
    scope="run",
    shape=("checkpoints", "components"),
    unit="nats · √tokens",
    formula=(
        "losses − each token's mean over checkpoints = U S Vᵀ; coordinates U S, first 3 components; "
        "angle between steps into and out of a checkpoint; curvature = 1 / radius of the circle through "
        "it and its neighbours"
    ),
    source="[O], [H]",
    traps=("The components belong to one matrix: another run or more checkpoints give others.",),
)
def trajectory(losses: ArrayLike, n_components: int = N_COMPONENTS) -> Trajectory:
    """The singular value decomposition of the centred loss matrix (n_steps, n_tokens), after [O] and [H].

    Each token's mean over checkpoints is taken out; tokens with a loss that is not finite are left out. A component's
    sign is such that its last checkpoint lies at or above zero. The components are of this matrix alone: more
    checkpoints, or another run beside it, give others.
    """
    matrix = np.asarray(losses, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) <= n_components:
        raise InvalidInput(
            f"{n_components} components need (n_steps > {n_components}, n_tokens) losses, not {matrix.shape}"
        )
    finite = np.asarray(np.isfinite(matrix).all(0))
    if finite.sum() < n_components:
        raise InvalidInput(f"{finite.sum()} of {len(finite)} tokens have finite losses, fewer than {n_components}")
    centred = matrix if finite.all() else matrix[:, finite]
    centred = centred - centred.mean(0)
    left, sizes, right, total = _decomposed(centred, n_components)
    coordinates = left * sizes
    directions = np.zeros((n_components, matrix.shape[1]))
    directions[:, finite] = right
    explained = sizes**2 / total if total > 0 else np.zeros(n_components)
    return Trajectory(coordinates, directions, explained, *_turns(coordinates))


def _decomposed(centred: Floats, n_components: int) -> tuple[Floats, Floats, Floats, float]:
    """Left vectors (n_steps, k), singular values (k,), right vectors (k, n_tokens) and the sum of squares.

    By the Gram matrix, which is small.
    """
    gram = centred @ centred.T
    values, vectors = np.linalg.eigh(gram)
    left, sizes = vectors[:, ::-1][:, :n_components], np.sqrt(np.maximum(values[::-1][:n_components], 0))
    left = left * np.where(left[-1] < 0, -1.0, 1.0)
    right = left.T @ centred
    return left, sizes, right / np.where(sizes > 0, sizes, 1)[:, None], float(np.trace(gram))


def _turns(points: Floats) -> tuple[Floats, Floats]:
    """Turning angle and curvature at each point of a path (n_steps, k), NaN at both ends."""
    angle, curvature = np.full((2, len(points)), np.nan)
    into, out = points[1:-1] - points[:-2], points[2:] - points[1:-1]
    lengths = np.linalg.norm(into, axis=1), np.linalg.norm(out, axis=1), np.linalg.norm(into + out, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (into * out).sum(1) / (lengths[0] * lengths[1])
        angle[1:-1] = np.arccos(np.clip(cosine, -1, 1))
        # Of the circle through three points: 4 · area / (a · b · c), where area = a · b · sin(angle) / 2.
        curvature[1:-1] = 2 * np.sin(angle[1:-1]) / lengths[2]
    return angle, curvature
