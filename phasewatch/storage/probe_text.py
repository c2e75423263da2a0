"""The text of a probe set: a stretch of its sequences, and where a string of characters stands in it.

Apart from probe_sets.py because it reads the pieces, which a vocabulary can have a hundred thousand of, and never more
sequences than are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from phasewatch.errors import InvalidInput
from phasewatch.storage.probe_sets import get_probe_set_row, get_slice_row, slice_tokens

UNKNOWN = "\ufffd"
"""Shown in the place of a token id that the pieces do not reach."""

IdArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Some sequences of a slice: tokens (n, n_tokens), and the text of each token id, where it is known."""

    tokens: IdArray
    pieces: Sequence[str] | None


@dataclass(frozen=True)
class Found:
    """Where a text stands: `n_tokens` tokens of a sequence from a position on; position 0 has no loss."""

    sequence: int
    position: int
    n_tokens: int


def load_stretch(
    session: Session, probe_set_id: str, slice_name: str, *, first: int = 0, count: int | None = None
) -> Stretch:
    """`count` sequences of a slice from `first` on, fewer where it ends; raises NotFound and InvalidInput."""
    part = get_slice_row(session, probe_set_id, slice_name)
    if first >= part.n_sequences:
        raise InvalidInput(f"slice {slice_name!r} has sequences 0 to {part.n_sequences - 1}; {first} was asked for")
    end = part.n_sequences if count is None else first + count
    return Stretch(slice_tokens(part)[first:end], get_probe_set_row(session, probe_set_id).pieces)


def spell(pieces: Sequence[str], tokens: IdArray) -> list[str]:
    """The text of each token id, (n,)."""
    return [pieces[token] if token < len(pieces) else UNKNOWN for token in tokens.tolist()]


def find_text(
    session: Session, probe_set_id: str, slice_name: str, text: str, *, after: tuple[int, int] | None, limit: int
) -> list[Found]:
    """Where the characters of `text` stand in a slice, by sequence and position; each stands alone, none overlap.

    after: (sequence, position) that the last page ended with. Raises NotFound, and InvalidInput where the probe set has
    no pieces to spell its tokens with.
    """
    part = get_slice_row(session, probe_set_id, slice_name)
    pieces = get_probe_set_row(session, probe_set_id).pieces
    if pieces is None:
        raise InvalidInput("the probe set has no pieces, so its text cannot be searched; look for token ids")
    first = 0 if after is None else after[0]
    found = _find(pieces, slice_tokens(part)[first:], first, text)
    return list(islice((one for one in found if after is None or (one.sequence, one.position) > after), limit))


def _find(pieces: Sequence[str], tokens: IdArray, first: int, text: str) -> Iterator[Found]:
    for sequence, ids in enumerate(tokens, start=first):
        spelled = spell(pieces, ids)
        whole = "".join(spelled)
        at = whole.find(text)
        if at < 0:
            continue
        ends = np.cumsum([len(one) for one in spelled])
        position = -1
        while at >= 0:
            begin, end = np.searchsorted(ends, [at, at + len(text) - 1], side="right").tolist()
            if begin != position:  # a token that holds it twice is named once
                yield Found(sequence, begin, end - begin + 1)
            position = begin
            at = whole.find(text, at + len(text))
