"""What the tokens of a change have in common: the token before them, or their own, oftener than chance gives.

Separate because it tests nothing: it describes tokens that were found already. Tokens of one document move together, so
counts come without p-values, and a context must be met in several documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from phasewatch.errors import InvalidInput

Kind = Literal["previous", "own"]

LEAST_MOVED = 5
LEAST_RATIO = 2.0
LEAST_DOCUMENTS = 2

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """Tokens whose previous token, or own, has one id: n_moved of n_tokens moved; `expected`, were moving unrelated."""

    kind: Kind
    token_id: int
    n_tokens: int
    n_moved: int
    expected: float


def shared_contexts(tokens: npt.ArrayLike, moved: npt.ArrayLike, *, most: int = 5) -> list[Context]:
    """Contexts that tokens which moved have oftener than chance gives, the most telling first, `most` of each kind.

    tokens (n_sequences, n) ids; moved: flat indices into the n_sequences × (n − 1) losses. Of each context at least
    five tokens moved, twice as many as expected, in two documents. Ranked by the log likelihood ratio of the counts.
    """
    ids, chosen = np.asarray(tokens, np.int64), np.unique(np.asarray(moved, np.int64))
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise InvalidInput(f"tokens have shape {ids.shape}, must be (n_sequences, n): whole sequences")
    n_losses = ids.shape[0] * (ids.shape[1] - 1)
    if chosen.size and (chosen[0] < 0 or chosen[-1] >= n_losses):
        raise InvalidInput(f"moved tokens must lie in 0 … {n_losses - 1}, not {chosen[0]} … {chosen[-1]}")
    documents = chosen // (ids.shape[1] - 1)
    previous = _of_kind("previous", ids[:, :-1].ravel(), chosen, documents)
    return [*previous[:most], *_of_kind("own", ids[:, 1:].ravel(), chosen, documents)[:most]]


def _of_kind(kind: Kind, of_losses: IntArray, moved: IntArray, documents: IntArray) -> list[Context]:
    size = int(of_losses.max()) + 1
    n_all, n_moved = np.bincount(of_losses, minlength=size), np.bincount(of_losses[moved], minlength=size)
    expected = n_all * (moved.size / of_losses.size)
    pairs = np.unique(np.stack([of_losses[moved], documents]), axis=1)
    n_documents = np.bincount(pairs[0], minlength=size)
    telling = (n_moved >= LEAST_MOVED) & (n_moved >= LEAST_RATIO * expected) & (n_documents >= LEAST_DOCUMENTS)
    candidates = np.flatnonzero(telling)
    counts, means = n_moved[candidates], expected[candidates]
    order = np.argsort(-(counts * np.log(counts / means) - (counts - means)), kind="stable")
    return [
        Context(kind, int(token), int(n_all[token]), int(n_moved[token]), float(expected[token]))
        for token in candidates[order]
    ]
