"""Every registered measure against its formula in MEASURES.md, written out in plain float64 on a random model.

A measure that is registered without a formula here fails the first test.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from phasewatch.measures import (
    ablation,
    attention_pattern,
    circuits,
    loss_slope,
    natural_attention_pattern,
    registry,
    score_circuits,
    score_copying,
    score_heads,
    score_logits,
    score_losses,
    score_repetition,
    token_losses,
    trajectory,
)
from phasewatch.measures.groups import TokenGroup, token_group
from phasewatch.measures.projections import find_weights
from phasewatch.probes import ProbeSet, Slice
from phasewatch.training import ModelConfig
from phasewatch.transformer import Transformer
from tests.measures.plain_scores import PLAIN, plain_score
from tests.plain_transformer import Array, array, plain_logits, plain_norm

V, L, H, D, K = 60, 2, 3, 24, 8
TEXT = np.minimum(np.random.default_rng(0).zipf(1.4, (5, 41)), V) - 1
PROBES = ProbeSet.from_tokens(TEXT, vocab_size=V, n_repeats=4)
GROUP = TokenGroup(positions=(7, 30))
SILENCED = (1, 2)
TOKENS_SEEN = np.array([0, 100, 300, 1000, 5000])
HISTORY = np.random.default_rng(1).gamma(2, 1, (5, 40))  # losses of a run: (checkpoints, tokens)


@cache
def model(silenced: tuple[int, int] | None = None) -> Transformer:
    """Two layers with weights far from uniform attention, on request with a head whose output is multiplied by zero."""
    settings = {"sublayers": "aa", "d_model": D, "n_heads": H, "context": 42, "positions": ["relative", "none"]}
    made = Transformer(ModelConfig.model_validate(settings), V, seed=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) / 3)
        if silenced is not None:
            made.attention_layers()[silenced[0]].output[:, silenced[1] * K : (silenced[1] + 1) * K] = 0
    return made


@dataclass(frozen=True)
class Plain:
    """A model's computations on a slice: logits (B, T, V), patterns (L, B, H, T, T), losses (B, T − 1)."""

    part: Slice
    logits: Array
    patterns: Array
    losses: Array

    @property
    def rows(self) -> list[list[int]]:
        """The tokens of each sequence."""
        rows: list[list[int]] = self.part.tokens.tolist()
        return rows


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


@cache
def plain(name: str, silenced: tuple[int, int] | None = None) -> Plain:
    part = PROBES.slices[name]
    computed = [plain_logits(model(silenced), row) for row in part.tokens.astype(np.int64)]
    logits = np.stack([one for one, _ in computed])
    patterns = np.stack([np.stack(of_layers) for _, of_layers in computed], 1)
    of_next = np.take_along_axis(log_softmax(logits)[:, :-1], part.tokens[:, 1:, None].astype(np.int64), 2)
    return Plain(part, logits, patterns, -of_next[..., 0])


# Section 2. losses[j] is the loss of token j + 1.


def early_and_late(losses: Array) -> tuple[float, float]:
    n = losses.shape[1] + 1
    early = [losses[:, i - 1] for i in range(1, n) if 5 * n <= 100 * i < 15 * n]
    late = [losses[:, i - 1] for i in range(1, n) if 100 * i >= 90 * n]
    return float(np.mean(early)), float(np.mean(late))


def icl_score(losses: Array) -> float:
    early, late = early_and_late(losses)
    return late - early


def repeat_gain(losses: Array, part: Slice) -> float:
    length = part.layout.copy_length
    of_copy = [losses[:, copy * length + 1 : (copy + 1) * length] for copy in range(part.layout.n_copies)]
    return float(np.mean(of_copy[0]) - np.mean(of_copy[1:]))


def position_slope(losses: Array) -> list[float]:
    profile = losses.mean(0)
    return [(profile[2 * i - 1] - profile[i - 1]) / math.log(2) for i in range(1, len(profile) // 2 + 1)]


def induction_predictable(losses: Array, rows: list[list[int]]) -> float:
    count = Counter(pair for row in rows for pair in itertools.pairwise(row))
    kinds: dict[int, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for row, of_row in zip(rows, losses, strict=True):
        stood: set[tuple[int, ...]] = set()
        for i in range(2, len(row)):
            trigram = tuple(row[i - 2 : i + 1])
            kinds[int(math.log2(count[row[i - 1], row[i]]))][trigram in stood].append(of_row[i - 1])
            stood.add(trigram)
    gaps = [(np.mean(first) - np.mean(again), len(again)) for first, again in kinds.values() if first and again]
    return float(sum(gap * n for gap, n in gaps) / sum(n for _, n in gaps))


def plain_trajectory() -> Array:
    left, sizes, _ = np.linalg.svd(HISTORY - HISTORY.mean(0), full_matrices=False)
    coordinates = (left * sizes)[:, :3]
    found: Array = coordinates * np.where(coordinates[-1] < 0, -1, 1)
    return found


# Section 4.


def head_matrices() -> list[list[tuple[Array, Array, Array, Array]]]:
    """Query, key, value (D, K) and output (K, D) of each head of each layer."""
    found = []
    for layer in model().attention_layers():
        weights = [array(part) for part in layer.head_weights()]
        found.append([(weights[0][h], weights[1][h], weights[2][h], weights[3][h]) for h in range(H)])
    return found


def copying(transform: Callable[[float], float]) -> Array:
    """transform: a position's score from its share a / S."""
    values = values_of(plain("random"))
    unembedding, of = array(model().unembedding), plain("random")
    found = np.zeros((L, H))
    for layer, head in itertools.product(range(L), range(H)):
        for b, row in enumerate(of.rows):
            logits = values[layer, b, head] @ head_matrices()[layer][head][3] @ unembedding.T  # (T, V)
            raised = np.maximum(logits - logits.mean(1, keepdims=True), 0)
            for i, k in itertools.product(range(len(row)), range(len(row))):
                together = sum(raised[k, token] for token in set(row))
                share = raised[k, row[k]] / together if together > 0 else 0.0
                found[layer, head] += of.patterns[layer, b, head, i, k] * transform(share) / len(row)
    return found / len(of.rows)


def values_of(of: Plain) -> Array:
    """What each layer's heads make of the stream at each position, (L, B, H, T, K)."""
    found = np.zeros((L, len(of.rows), H, len(of.rows[0]), K))
    for b, row in enumerate(of.rows):
        stream = plain_norm(array(model().embedding)[row])
        for layer, heads in enumerate(head_matrices()):
            normed, added = plain_norm(stream), np.zeros_like(stream)
            for h, (_, _, value, output) in enumerate(heads):
                found[layer, b, h] = normed @ value
                added += of.patterns[layer, b, h] @ found[layer, b, h] @ output
            stream = stream + added
    return found


def bigram_divergence(of: Plain) -> float:
    counts = np.zeros((V, V))
    for row in of.rows:
        for before, after in itertools.pairwise(row):
            counts[before, after] += 1
    found = []
    for b, row in enumerate(of.rows):
        for i in range(len(row) - 1):
            bigram = counts[row[i]] / counts[row[i]].sum()
            log_bigram = np.log(np.where(bigram > 0, bigram, 1))
            found.append((bigram * (log_bigram - log_softmax(of.logits)[b, i])).sum())
    return float(np.mean(found))


def positive_share(matrix: Array) -> float:
    values = np.linalg.eigvals(matrix)
    return float(values.real.sum() / np.abs(values).sum())


def by_head(score: Callable[[Array, Array, Array, Array], float]) -> Array:
    return np.array([[score(*head) for head in layer] for layer in head_matrices()])


def embeddings() -> tuple[Array, Array]:
    """The embedding as it enters the stream and the unembedding, both (V, D)."""
    return plain_norm(array(model().embedding)), array(model().unembedding)


def compositions(reads: str) -> tuple[Array, Array]:
    """Excess over the rotations and z-score, (L, H, L, H): by whole D × D matrices, for row vectors."""
    frames = circuits._random_frames(D, K, 0).numpy()
    weights = find_weights(model())
    assert weights is not None
    excess, z_score = np.full((2, L, H, L, H), np.nan)
    for h, g in itertools.product(range(H), range(H)):
        query, key, value, output = head_matrices()[1][h]
        written = head_matrices()[0][g][2] @ head_matrices()[0][g][3]
        matrix = {"key": (query @ key.T).T, "query": query @ key.T, "value": value @ output}[reads]

        def ratio(written: Array, matrix: Array = matrix) -> float:
            norms = np.linalg.norm(matrix) * np.linalg.norm(written)
            return float(np.linalg.norm(written @ matrix) / norms)

        # The rotations are the measure's own: each takes the directions that the earlier head writes to a frame's.
        directions = torch.linalg.qr(circuits._writing(weights.layers[0])[g].mT).Q.double().numpy()
        turned = [ratio(written @ directions @ frame.T) for frame in frames]
        excess[1, h, 0, g] = ratio(written) - np.mean(turned)
        z_score[1, h, 0, g] = excess[1, h, 0, g] / np.std(turned, ddof=1)
    return excess, z_score


def qk_trace() -> Array:
    embedding, _ = embeddings()
    previous = plain_score("previous_token", plain("text").patterns, plain("text").part)
    found = np.zeros((L, H))
    for h, g in itertools.product(range(H), range(H)):
        query, key, _, _ = head_matrices()[1][h]
        _, _, value, output = head_matrices()[0][g]
        scores = embedding @ query @ (embedding @ value @ output @ key).T  # (V, V)
        found[1, h] += previous[0, g] * np.trace(scores)
    return found


# Section 5.


def ablated() -> list[float]:
    """Change of ICL score, repeat gain and mean loss with a head's output multiplied by zero."""
    text, repeats = ([plain(name, silenced) for silenced in (SILENCED, None)] for name in ("text", "repeats"))
    icl = [icl_score(of.losses) for of in text]
    gain = [repeat_gain(of.losses, of.part) for of in repeats]
    mean = [float(of.losses.mean()) for of in text]
    return [icl[0] - icl[1], gain[0] - gain[1], mean[0] - mean[1]]


@cache
def written() -> list[list[int]]:
    """Greedy continuations of the first 32 tokens, to the context of 42."""
    found = []
    for row in plain("text").rows:
        tokens = row[:32]
        while len(tokens) < 42:
            tokens = [*tokens, int(plain_logits(model(), np.array(tokens))[0][-1].argmax())]
        found.append(tokens[32:])
    return found


def loops(row: list[int]) -> bool:
    phrases = [(row[len(row) - n :], n) for n in range(2, len(row))]
    return any(row[len(row) - 3 * n :] == phrase * 3 for phrase, n in phrases if 3 * n <= len(row))


def distinct_grams(row: list[int]) -> float:
    grams = [tuple(row[i : i + 5]) for i in range(len(row) - 4)]
    return len(set(grams)) / len(grams)


@cache
def prompted() -> Array:
    """Probabilities of tokens 2 … 10 of each text while they stand there for the first time … the fourth, (4, B, 9)."""
    found = []
    for row in plain("text").rows:
        tokens = row[:10] * 4
        probabilities = np.exp(log_softmax(plain_logits(model(), np.array(tokens))[0]))
        found.append([[probabilities[10 * r + j - 1, tokens[j]] for j in range(1, 10)] for r in range(4)])
    return np.array(found).swapaxes(0, 1)


def of_text(formula: Callable[[Array], object]) -> Callable[[], object]:
    return lambda: formula(plain("text").losses)


REFERENCES: dict[str, Callable[[], object]] = {
    "icl_score": of_text(icl_score),
    "icl_early_loss": of_text(lambda losses: early_and_late(losses)[0]),
    "icl_late_loss": of_text(lambda losses: early_and_late(losses)[1]),
    "repeat_gain": lambda: repeat_gain(plain("repeats").losses, plain("repeats").part),
    "position_profile": of_text(lambda losses: losses.mean(0)),
    "position_slope": of_text(position_slope),
    "induction_predictable": of_text(lambda losses: induction_predictable(losses, plain("text").rows)),
    "token_group": of_text(lambda losses: losses[:, 6:30].mean()),
    "loss_slope": lambda: np.diff(HISTORY.mean(1))[1:] / np.diff(np.log(TOKENS_SEEN[1:])),
    "trajectory": plain_trajectory,
    **{
        name: partial(lambda name, of: plain_score(name, plain(of).patterns, plain(of).part), name, of)
        for name, (of, _) in PLAIN.items()
    },
    "copying": lambda: copying(lambda share: 2 * share - 1),
    "copying_olsson": lambda: copying(lambda share: 4 * share / (1 + share) - 1),
    "bigram_divergence": lambda: bigram_divergence(plain("text")),
    "ov_copying_eigenvalues": lambda: by_head(
        lambda q, k, v, o: positive_share(embeddings()[0] @ v @ o @ embeddings()[1].T)
    ),
    "qk_matching_eigenvalues": lambda: by_head(
        lambda q, k, v, o: positive_share(embeddings()[0] @ q @ k.T @ embeddings()[0].T)
    ),
    "k_composition": lambda: compositions("key")[0],
    "q_composition": lambda: compositions("query")[0],
    "v_composition": lambda: compositions("value")[0],
    "k_composition_z": lambda: compositions("key")[1],
    "q_composition_z": lambda: compositions("query")[1],
    "v_composition_z": lambda: compositions("value")[1],
    "qk_trace": qk_trace,
    "attention_pattern": lambda: plain("repeats").patterns[SILENCED[0], 0, SILENCED[1]],
    "natural_attention_pattern": lambda: plain("text").patterns[SILENCED[0], 0, SILENCED[1]],
    "ablation": ablated,
    "natural_loops": lambda: np.mean([loops(row) for row in written()]),
    "natural_distinct_grams": lambda: np.mean([distinct_grams(row) for row in written()]),
    "prompted_loops": lambda: prompted()[3].mean(),
    "prompted_rise": lambda: (prompted()[3] > prompted()[0]).mean(),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, NDArray[np.float64]]:
    """Every measure of the random model, as users get them."""
    losses = {name: token_losses(model(), part.tokens) for name, part in PROBES.slices.items()}
    heads = score_heads(model(), PROBES)
    found = (
        score_losses(losses, PROBES)
        | heads
        | score_copying(model(), PROBES)
        | score_logits(model(), PROBES)
        | score_circuits(model(), previous_token=heads["previous_token"].values)
        | score_repetition(model(), PROBES)
    )
    text = PROBES.slices["text"]
    group = token_group(losses["text"].astype(np.float64), GROUP.members(text))
    assert group is not None
    silenced = ablation(model(), PROBES, [SILENCED]).change
    return {name: one.values for name, one in found.items()} | {
        "token_group": group.values,
        "attention_pattern": attention_pattern(model(), PROBES, SILENCED).values,
        "natural_attention_pattern": natural_attention_pattern(model(), PROBES, SILENCED).values,
        "ablation": np.array([silenced[name].values for name in ("icl_score", "repeat_gain", "mean_loss")]),
        "loss_slope": loss_slope(HISTORY.mean(1), TOKENS_SEEN)[1:],
        "trajectory": trajectory(HISTORY).coordinates,
    }


def test_every_registered_measure_has_a_formula_here() -> None:
    assert set(REFERENCES) == {one.name for one in registry.select()}


@pytest.mark.parametrize("name", [one.name for one in registry.select()])
def test_a_measure_is_what_its_formula_says(measured: dict[str, NDArray[np.float64]], name: str) -> None:
    expected = np.asarray(REFERENCES[name](), dtype=np.float64)
    assert expected.shape == measured[name].shape
    scale = np.nanmax(np.abs(expected)) if name.endswith("_z") or name == "qk_trace" else 1.0
    np.testing.assert_allclose(measured[name] / scale, expected / scale, atol=1e-5, rtol=0)


def test_the_random_model_is_no_special_case(measured: dict[str, NDArray[np.float64]]) -> None:
    """Its heads are neither uniform nor alike, so that a formula that ignores them would be seen."""
    assert np.ptp(measured["attention_entropy"]) > 0.1
    assert np.ptp(measured["copying"]) > 0.05
    assert abs(measured["ablation"]).min() > 1e-3
