"""The tokens that move with a phase change, in their text and with their losses on both sides of it.

Apart from phase_changes.py because it reads three other things: the probe set, its pieces, and the loss store.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from phasewatch.storage.codecs import unpack
from phasewatch.storage.losses import list_loss_slices, loss_history
from phasewatch.storage.phase_changes import change_tokens, get_phase_change
from phasewatch.storage.probe_sets import get_probe_set_row, get_run_slice
from phasewatch.storage.schema import PhaseChangeRow

CONTEXT_TOKENS = 12
CHECKPOINTS = 5
"""How many checkpoints on either side of a change a token's loss is averaged over."""


@dataclass(frozen=True)
class MovedToken:
    """A token that moves with a change. Losses in nats; texts are None where the probe set has no pieces."""

    token: int  # flat index into the loss slice
    sequence: int
    position: int  # in its sequence; 0 is the first token, which has no loss
    token_id: int
    text: str | None
    before: str | None
    after: str | None
    loss_before: float | None
    loss_after: float | None


def moved_tokens(session: Session, change_id: UUID, *, first: int = 0, limit: int = 50) -> list[MovedToken]:
    """Tokens that move with a change, the most certain first, from the `first` on; raises NotFound.

    Losses are means over the five visible checkpoints nearest before its start, and after its end.
    """
    row = get_phase_change(session, change_id)
    tokens = change_tokens(row)[first : first + limit].astype(np.int64)
    if row.slice is None or not tokens.size:
        return []
    part = get_run_slice(session, row.run_id, row.slice)
    ids = unpack(part.tokens, "<i4", (part.n_sequences, part.n_tokens))
    pieces = get_probe_set_row(session, part.probe_set_id).pieces
    before, after = _losses_around(session, row, tokens)
    found = []
    for index, token in enumerate(tokens.tolist()):
        sequence, position = token // (part.n_tokens - 1), token % (part.n_tokens - 1) + 1
        around = (ids[sequence, :position], ids[sequence, position : position + 1], ids[sequence, position + 1 :])
        left, text, right = (None, None, None) if pieces is None else _texts(pieces, *around)
        token_id = int(ids[sequence, position])
        found.append(MovedToken(token, sequence, position, token_id, text, left, right, before[index], after[index]))
    return found


def _texts(
    pieces: list[str], left: npt.NDArray[np.int32], own: npt.NDArray[np.int32], right: npt.NDArray[np.int32]
) -> tuple[str, str, str]:
    def spell(ids: npt.NDArray[np.int32]) -> str:
        return "".join(pieces[token] if token < len(pieces) else "\ufffd" for token in ids.tolist())

    return spell(left[-CONTEXT_TOKENS:]), spell(own), spell(right[:CONTEXT_TOKENS])


def _losses_around(
    session: Session, row: PhaseChangeRow, tokens: npt.NDArray[np.int64]
) -> tuple[list[float | None], list[float | None]]:
    """Mean loss of each token before the change's start and after its end (or its middle, where it is not over)."""
    steps = [header.step for header in list_loss_slices(session, row.run_id, str(row.slice))]
    end = row.step if row.end_step is None else row.end_step
    sides = [step for step in steps if step < row.start_step][-CHECKPOINTS:], [step for step in steps if step > end]
    first, last = (
        _means(loss_history(session, row.run_id, str(row.slice), tokens=tokens, steps=side[:CHECKPOINTS]).values)
        for side in sides
    )
    return first, last


def _means(values: npt.NDArray[np.float32]) -> list[float | None]:
    """Mean of the finite values of each column, None where there is none."""
    finite = np.isfinite(values)
    counts = finite.sum(0)
    sums = np.where(finite, values, 0).sum(0, dtype=np.float64)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
