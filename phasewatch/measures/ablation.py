"""Ablation (MEASURES.md section 5): what a model loses when heads are silenced, against others of the same layers.

Apart from the head scores, because a score is a signature and this is a cause. It runs through the same tap, so any
model whose attention is seen can be ablated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from phasewatch.attention import AttentionCall, AttentionTap, Edit
from phasewatch.errors import InvalidInput
from phasewatch.measures.evaluation import Model, batches_of, evaluating, original, sequence_losses
from phasewatch.measures.losses import score_losses
from phasewatch.measures.measurement import Floats, Measurement, bootstrap_mean
from phasewatch.measures.registry import measure
from phasewatch.probes import ProbeSet

Head = tuple[int, int]  # layer and head, both from 0, layers in the order of a forward pass
Mode = Literal["full", "pattern_preserving"]
Losses = dict[str, NDArray[np.float32]]

SLICES = ("text", "repeats")
SCORES = ("icl_score", "repeat_gain")
# Beyond this many sets of matched heads they are drawn; up to it they are listed, and drawn from without repetition.
_LISTED_SETS = 10_000


@dataclass(frozen=True, eq=False)
class Ablation:
    """What changed when `heads` were silenced, in nats: `icl_score`, `repeat_gain`, and `mean_loss` of the text.

    baseline: the whole model's values, with baseline_interval, (2,) each, over sequences. change: silenced minus whole,
    with an interval over sequences, paired. matched: the change for each set of random heads of the same layers,
    (n_sets,), which can be empty.
    """

    heads: tuple[Head, ...]
    mode: Mode
    baseline: Mapping[str, float]
    change: Mapping[str, Measurement]
    matched_heads: tuple[tuple[Head, ...], ...]
    matched: Mapping[str, Floats]
    baseline_interval: Mapping[str, Floats]

    def share_lost(self, name: str) -> float:
        """The share of a score that silencing took away: 1 all of it, 0 nothing, negative where it grew."""
        return -float(self.change[name].values) / self.baseline[name]

    def matched_share_lost(self, name: str) -> Floats:
        """The same for each set of matched heads, (n_sets,)."""
        return -self.matched[name] / self.baseline[name]


@measure(
    "ablation",
    section="5",
    needs="attention",
    cost="flagged",
    shape=("effects and heads", "change, whole model, matched sets"),
    unit="nats",
    chance=0.0,
    formula=(
        "score of the losses with the heads' outputs zeroed − score of the whole model; for `icl_score`, "
        "`repeat_gain` and mean loss"
    ),
    source="[O]",
    traps=(
        "Always read against the matched random heads of the same layers: zeroing any head moves the loss.",
        "Full ablation also changes what later heads attend to; pattern-preserving ablation keeps every pattern.",
    ),
)
def ablation(
    model: Model,
    probes: ProbeSet,
    heads: Sequence[Head],
    *,
    mode: Mode = "full",
    n_matched: int = 3,
    batch_size: int = 16,
    seed: int = 0,
) -> Ablation:
    """Change of `icl_score`, `repeat_gain` and mean loss when a set of heads is zeroed, against matched random heads.

    mode: "full" lets later layers attend anew; "pattern_preserving" forces every pattern of the whole model, so that
    only what is moved along it changes [O]. n_matched: sets of as many other heads of the same layers; fewer where
    there are fewer. Effects whose slice is absent are left out. Raises InvalidInput for heads that the model lacks, and
    AttentionNotSeen.
    """
    model, chosen = original(model), tuple(sorted(set(heads)))
    tokens = {name: probes.slices[name].tokens for name in SLICES if name in probes.slices}
    whole: Losses = {}
    for name, of_slice in tokens.items():
        whole[name], n_heads = _run(model, of_slice, (), mode, batch_size)
        check_heads(chosen, n_heads)
    if not whole:
        raise InvalidInput(f"ablation is measured on the slices {' and '.join(SLICES)}; the probe set has neither")

    def change(silenced: Sequence[Head]) -> dict[str, Measurement]:
        after = {name: _run(model, of_slice, silenced, mode, batch_size)[0] for name, of_slice in tokens.items()}
        return _effects({name: after[name].astype(np.float64) - whole[name] for name in whole}, probes, seed)

    matched_heads = matched_sets(chosen, n_heads, n_matched, seed)
    found, matched = change(chosen), [change(silenced) for silenced in matched_heads]
    scores = _effects(whole, probes, seed)
    baseline = {name: float(one.values) for name, one in scores.items()}
    intervals = {name: one.interval for name, one in scores.items() if one.interval is not None}
    by_name = {name: np.array([float(one[name].values) for one in matched]) for name in found}
    return Ablation(chosen, mode, baseline, found, matched_heads, by_name, intervals)


def matched_sets(
    heads: Sequence[Head], n_heads: Sequence[int], n_sets: int, seed: int = 0
) -> tuple[tuple[Head, ...], ...]:
    """Up to n_sets different sets of other heads, as many in each layer as `heads` has there.

    n_heads: of each layer. Empty where a layer has too few others.
    """
    layers = sorted({layer for layer, _ in heads})
    others = {layer: [h for h in range(n_heads[layer]) if (layer, h) not in heads] for layer in layers}
    wanted = {layer: sum(at == layer for at, _ in heads) for layer in layers}
    rng = np.random.default_rng(seed)
    n_possible = prod(comb(len(others[layer]), wanted[layer]) for layer in layers)
    if n_possible <= _LISTED_SETS:
        choices = product(*(combinations(others[layer], wanted[layer]) for layer in layers))
        listed = [_joined(layers, choice) for choice in choices]
        return tuple(listed[i] for i in rng.permutation(len(listed))[:n_sets])
    drawn: dict[tuple[Head, ...], None] = {}
    while len(drawn) < n_sets:
        choice = [sorted(rng.choice(others[layer], wanted[layer], replace=False).tolist()) for layer in layers]
        drawn[_joined(layers, choice)] = None
    return tuple(drawn)


def _joined(layers: Sequence[int], choice: Sequence[Sequence[int]]) -> tuple[Head, ...]:
    return tuple((layer, head) for layer, chosen in zip(layers, choice, strict=True) for head in chosen)


def _run(
    model: Model, tokens: NDArray[np.int32], silenced: Sequence[Head], mode: Mode, batch_size: int
) -> tuple[NDArray[np.float32], list[int]]:
    """Losses (n_sequences, n_positions) with heads silenced, and the number of heads of each layer."""
    zeroed: dict[int, list[int]] = {}
    for layer, head in silenced:
        zeroed.setdefault(layer, []).append(head)
    losses, n_heads = [], list[int]()
    with evaluating(model):
        for batch in batches_of(model, tokens, batch_size):
            patterns = _patterns(model, batch) if silenced and mode == "pattern_preserving" else None
            with AttentionTap(batch.shape, lambda call: None, edit=Edit(zeroed, patterns)) as tap:
                losses.append(sequence_losses(model(batch), batch))
            tap.check_seen()
            n_heads = tap.n_heads
    return np.concatenate(losses), n_heads


def _patterns(model: Model, tokens: Tensor) -> list[AttentionCall]:
    """Every layer's attention over tokens (B, T), as the whole model computes it."""
    with AttentionTap(tokens.shape) as recording:
        model(tokens)
    return recording.calls


def _effects(losses: Mapping[str, NDArray[np.floating]], probes: ProbeSet, seed: int) -> dict[str, Measurement]:
    """The scores of losses, or of their change: all of them are linear in the losses."""
    scores = score_losses(losses, probes, seed=seed)
    found = {name: scores[name] for name in SCORES if name in scores}
    if "text" in losses:
        mean, interval = bootstrap_mean(losses["text"].mean(1), seed=seed)
        found["mean_loss"] = Measurement(mean, interval=interval)
    return found


def check_heads(heads: Sequence[Head], n_heads: Sequence[int]) -> None:
    """Raises InvalidInput where there are none, or the model lacks one."""
    if not heads:
        raise InvalidInput("name at least one (layer, head) to ablate")
    for layer, head in heads:
        if not (0 <= layer < len(n_heads) and 0 <= head < n_heads[layer]):
            raise InvalidInput(f"the model has no head {head} in layer {layer}: its layers have {list(n_heads)} heads")
