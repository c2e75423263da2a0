"""The tokens that move with a phase change, in their text and with their losses on both sides of it.

Apart from phase_changes.py because it reads three other things: the probe set, its pieces, and the loss store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from phasewatch.probes import DRAWN, TEXT
from phasewatch.storage.losses import list_loss_slices, loss_history
from phasewatch.storage.phase_changes import change_tokens, get_phase_change
from phasewatch.storage.probe_sets import get_probe_set_row, get_run_slice, list_slices, slice_tokens
from phasewatch.storage.probe_text import spell
from phasewatch.storage.runs import get_run
from phasewatch.storage.schema import PhaseChangeRow, SliceRow

Order = Literal["certain", "gained", "lost"]
Means = npt.NDArray[np.float64]

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


def moved_tokens(
    session: Session, change_id: UUID, *, order: Order = "certain", first: int = 0, limit: int = 50
) -> list[MovedToken]:
    """Tokens of a change in an order, from the `first` on; raises NotFound.

    order: those that move with it, the most certain first; or those whose loss fell most (gained) or rose most (lost)
    across it, among these or, where it names none, among all tokens of the run. Losses are means over the five visible
    checkpoints nearest before its start, and after its end.
    """
    row = get_phase_change(session, change_id)
    part = changed_slice(session, row)
    if part is None:
        return []
    tokens = change_tokens(row).astype(np.int64)
    if order != "certain":
        tokens = _by_gain(session, row, part, tokens if row.tokens is not None else None, order)
    tokens = tokens[first : first + limit]
    if not tokens.size:
        return []
    ids, pieces = slice_tokens(part), get_probe_set_row(session, part.probe_set_id).pieces
    before, after = (_listed(side) for side in losses_around(session, row, part, tokens))
    found = []
    for index, token in enumerate(tokens.tolist()):
        sequence, position = token // (part.n_tokens - 1), token % (part.n_tokens - 1) + 1
        around = (ids[sequence, :position], ids[sequence, position : position + 1], ids[sequence, position + 1 :])
        left, text, right = (None, None, None) if pieces is None else _texts(pieces, *around)
        token_id = int(ids[sequence, position])
        found.append(MovedToken(token, sequence, position, token_id, text, left, right, before[index], after[index]))
    return found


def changed_slice(session: Session, row: PhaseChangeRow) -> SliceRow | None:
    """The slice that a change's tokens belong to; for one that names none the run's main slice, None without any."""
    if row.slice is not None:
        return get_run_slice(session, row.run_id, row.slice)
    probe_set_id = get_run(session, row.run_id).probe_set_id
    parts = [] if probe_set_id is None else list_slices(session, probe_set_id)
    return next((part for part in sorted(parts, key=lambda one: one.name != TEXT) if part.name not in DRAWN), None)


def _by_gain(
    session: Session, row: PhaseChangeRow, part: SliceRow, tokens: npt.NDArray[np.int64] | None, order: Order
) -> npt.NDArray[np.int64]:
    """Those of the tokens (None: all) whose loss fell, or rose, by how much."""
    before, after = losses_around(session, row, part, tokens)
    gain = before - after if order == "gained" else after - before
    moved = np.flatnonzero(gain > 0)  # NaN is neither
    ordered = moved[np.argsort(-gain[moved], kind="stable")]
    return ordered if tokens is None else tokens[ordered]


def _texts(
    pieces: list[str], left: npt.NDArray[np.int32], own: npt.NDArray[np.int32], right: npt.NDArray[np.int32]
) -> tuple[str, str, str]:
    def joined(ids: npt.NDArray[np.int32]) -> str:
        return "".join(spell(pieces, ids))

    return joined(left[-CONTEXT_TOKENS:]), joined(own), joined(right[:CONTEXT_TOKENS])


def losses_around(
    session: Session, row: PhaseChangeRow, part: SliceRow, tokens: npt.NDArray[np.int64] | None
) -> tuple[Means, Means]:
    """Mean loss in nats of each token (None: all) before the change's start and after its end, NaN where there is none.

    After its middle, where it is not over. One checkpoint is in memory at a time.
    """
    steps = [header.step for header in list_loss_slices(session, row.run_id, part.name)]
    end = row.step if row.end_step is None else row.end_step
    before = [step for step in steps if step < row.start_step][-CHECKPOINTS:]
    after = [step for step in steps if step > end][:CHECKPOINTS]
    size = part.n_sequences * (part.n_tokens - 1) if tokens is None else tokens.size

    def mean(side: Sequence[int]) -> Means:
        sums, counts = np.zeros(size), np.zeros(size)
        for step in side:
            values = loss_history(session, row.run_id, part.name, tokens=tokens, steps=[step]).values[0]
            finite = np.isfinite(values)
            sums += np.where(finite, values, 0)
            counts += finite
        with np.errstate(invalid="ignore"):
            found: Means = sums / counts
        return found

    return mean(before), mean(after)


def _listed(means: Means) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in means]
