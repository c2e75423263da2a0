"""Changes of a loss matrix (checkpoints × tokens): those of its mean, and those only some of its tokens show.

Separate from single series because tokens can be told apart here; it puts the two detectors' answers together, so that
one effect counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phasewatch.detection.groups import find_group_changes
from phasewatch.detection.hidden import MIN_CHECKPOINTS, find_hidden_changes
from phasewatch.detection.loss_source import LossBlocks, LossSource, as_source
from phasewatch.detection.phase_change import Changes, IntArray, PhaseChange
from phasewatch.detection.prepare import check_steps
from phasewatch.detection.series import find_series_changes
from phasewatch.detection.stage import MIN_TOKENS
from phasewatch.detection.token_scan import Whitener
from phasewatch.errors import InvalidInput

_SHARED = 0.4  # of the time two changes span together, to be one effect


def find_phase_changes(
    losses: npt.ArrayLike | LossSource,
    steps: npt.ArrayLike,
    *,
    documents: npt.ArrayLike | None = None,
    tokens: npt.ArrayLike | None = None,
    fdr: float = 0.05,
    name: str = "text",
    first_descent: bool = False,
    hidden: bool = True,
    groups: Mapping[str, npt.ArrayLike] | None = None,
) -> Changes:
    """Phase changes of the losses of one slice: broad ones of the mean, and `hidden` ones of some tokens.

    losses     (n_steps, n_tokens) in nats, an array or anything that gives columns (LossSource), which is read block by
               block; a loss that is not finite is left out
    steps      (n_steps,) optimizer steps, increasing
    documents  (n_tokens,) the document of each loss: tokens of one document are not independent witnesses
    tokens     (n_tokens,) the token id each loss is of, or (n_sequences, n_positions + 1) whole sequences, which also
               give the documents; tokens with the same (previous, target) are not independent witnesses either
    fdr        false-discovery rate for hidden changes
    name       of the slice, for `measure`
    first_descent  as in find_series_changes, for the mean
    hidden     whether to look for hidden changes
    groups     name -> (n_tokens,) bool, to be tested by name as well; `groups.named_groups` makes the usual ones

    Raises InvalidInput for wrong shapes; too few checkpoints give an empty list whose `notes` say so.
    """
    at = check_steps(steps)
    if not 0 < fdr < 1:
        raise InvalidInput(f"fdr is {fdr}, must lie between 0 and 1")
    blocks = LossBlocks(as_source(losses, at, f"losses of {name}"))
    kin = _kin(blocks.n_tokens, documents, tokens)
    broad = find_series_changes(blocks.mean, at, name=f"mean_loss:{name}", first_descent=first_descent)
    if blocks.n_bad:
        broad.notes.append(f"losses of {name}: {blocks.n_bad} of {blocks.size} values are not finite and were left out")
    if not hidden:
        return broad
    if (n := int(blocks.usable.sum())) < MIN_CHECKPOINTS or blocks.n_tokens < 10 * MIN_TOKENS:
        needed = f"hidden changes need at least {MIN_CHECKPOINTS} and {10 * MIN_TOKENS}"
        broad.notes.append(f"losses of {name}: {n} usable checkpoints of {blocks.n_tokens} tokens, {needed}")
        return broad
    at = at[blocks.usable]
    whitener = Whitener(blocks.sample, at)
    found = find_hidden_changes(blocks, at, whitener, name=name, fdr=fdr, owners=kin.owners, kinds=kin.kinds)
    answer = _together(broad, found)
    if not groups:
        return answer
    named = find_group_changes(blocks, at, groups, whitener, fdr=fdr, documents=kin.documents)
    return Changes(sorted([*answer, *named], key=lambda change: change.step), answer.notes + named.notes)


def _together(broad: Changes, hidden: Changes) -> Changes:
    """Both, but a hidden change at the time of a broad one gives it its tokens instead of counting again."""
    answer = list(broad)
    for change in hidden:
        same = [i for i, other in enumerate(answer) if _is_one_effect(change, other)]
        if not same:
            answer.append(change)
        elif answer[same[0]].tokens is None:
            answer[same[0]] = answer[same[0]].evolve(tokens=change.tokens)
    return Changes(sorted(answer, key=lambda change: change.step), broad.notes + hidden.notes)


def _is_one_effect(change: PhaseChange, other: PhaseChange) -> bool:
    return other.kind == "level" and other.direction == change.direction and change.shared_time(other) >= _SHARED


class _Kin(NamedTuple):
    """What tokens have in common: `documents` (n_tokens,), and more labels (n_tokens,) by what they are for."""

    documents: IntArray | None
    owners: tuple[IntArray, ...]  # tokens with the same are not independent witnesses
    kinds: tuple[IntArray, ...]  # tokens with the same are looked at by themselves as well


def _kin(n_tokens: int, documents: npt.ArrayLike | None, tokens: npt.ArrayLike | None) -> _Kin:
    owner = None if documents is None else np.asarray(documents, dtype=np.int64)
    if owner is not None and owner.shape != (n_tokens,):
        raise InvalidInput(f"documents have shape {owner.shape}, must be ({n_tokens},): one a loss")
    if tokens is None:
        return _Kin(owner, () if owner is None else (owner,), ())
    ids = np.asarray(tokens, dtype=np.int64)
    if ids.ndim == 2 and ids.shape[0] * (ids.shape[1] - 1) == n_tokens:
        if owner is None:
            owner = np.repeat(np.arange(ids.shape[0]), ids.shape[1] - 1)
        previous, target = ids[:, :-1].ravel(), ids[:, 1:].ravel()
        pairs = previous * (int(ids.max(initial=0)) + 1) + target
        return _Kin(owner, (owner, pairs), (target, previous))
    if ids.shape != (n_tokens,):
        shapes = f"({n_tokens},), or (n_sequences, n_positions + 1) with {n_tokens} losses"
        raise InvalidInput(f"tokens have shape {ids.shape}, must be {shapes}")
    return _Kin(owner, () if owner is None else (owner,), (ids,))
