"""Changes of a loss matrix (checkpoints × tokens): those of its mean, and those only some of its tokens show.

Separate from single series because tokens can be told apart here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phasewatch.detection.phase_change import Changes
from phasewatch.detection.prepare import check_matrix, check_steps, mean_losses
from phasewatch.detection.series import find_series_changes
from phasewatch.errors import InvalidInput


def find_phase_changes(
    losses: npt.ArrayLike,
    steps: npt.ArrayLike,
    *,
    documents: npt.ArrayLike | None = None,
    tokens: npt.ArrayLike | None = None,
    fdr: float = 0.05,
    name: str = "text",
    first_descent: bool = False,
) -> Changes:
    """Phase changes of the losses of one slice.

    losses     (n_steps, n_tokens) in nats; a loss that is not finite is left out of its checkpoint's mean
    steps      (n_steps,) optimizer steps, increasing
    documents  (n_tokens,) the document of each loss
    tokens     (n_tokens,) the token id each loss is of, or (n_sequences, n_positions + 1) whole sequences
    fdr        false-discovery rate for changes that only some tokens show
    name       of the slice, for `measure`
    first_descent  as in find_series_changes, for the mean
    """
    at = check_steps(steps)
    matrix = check_matrix(losses, at, f"losses of {name}")
    if not 0 < fdr < 1:
        raise InvalidInput(f"fdr is {fdr}, must lie between 0 and 1")
    if documents is not None and np.shape(documents) != matrix.shape[1:]:
        raise InvalidInput(f"documents have shape {np.shape(documents)}, must be ({matrix.shape[1]},): one a loss")
    return find_series_changes(mean_losses(matrix), at, name=f"mean_loss:{name}", first_descent=first_descent)
