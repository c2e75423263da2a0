"""A head's attention over one sequence, every entry of it: what a picture of the head is drawn from.

Apart from attention.py, whose scores boil a pattern down to one number. A pattern grows with the square of the tokens,
so it is kept of few heads, at the checkpoints around a change, and of one short sequence. Its name carries the head:
`attention_pattern:L1H0`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from phasewatch.attention import AttentionCall, AttentionTap
from phasewatch.errors import InvalidInput
from phasewatch.measures.ablation import Head, check_heads
from phasewatch.measures.evaluation import Model, batches_of, evaluating, original
from phasewatch.measures.evidence import label
from phasewatch.measures.measurement import Measurement
from phasewatch.measures.registry import measure
from phasewatch.probes import ProbeSet

MOST_TOKENS = 128
"""Of the sequence that is looked at; the rest of a longer one is cut off before the model sees it."""

_NAME = re.compile(r"(\w+):L(\d{1,4})H(\d{1,4})")

_pattern = partial(
    measure,
    section="3",
    needs="attention",
    cost="flagged",
    shape=("queries", "keys"),
    unit="share of attention",
    source="[O]",
)


@_pattern(
    "attention_pattern",
    slice="repeats",
    formula="A[i, k] over the first sequence of `repeats`, its first 128 tokens",
    traps=(
        "Under uniform attention A[i, k] is 1/(i + 1): the first rows are bright in every head.",
        "One sequence is a picture, not a score: `prefix_matching` averages over all of them.",
    ),
)
def attention_pattern(model: Model, probes: ProbeSet, head: Head) -> Measurement:
    """A head's attention from every query to every key of one sequence of repeats; rows sum to 1.

    Values (n_tokens, n_tokens). Raises InvalidInput for a head that the model lacks, and AttentionNotSeen.
    """
    return _of_first_sequence(model, probes, "repeats", head)


@_pattern(
    "natural_attention_pattern",
    slice="text",
    formula="A[i, k] over the first sequence of `text`, its first 128 tokens",
    traps=(
        "Under uniform attention A[i, k] is 1/(i + 1): the first rows are bright in every head.",
        "A model that is not causal sees the sequence end where it was cut.",
    ),
)
def natural_attention_pattern(model: Model, probes: ProbeSet, head: Head) -> Measurement:
    """A head's attention from every query to every key of one sequence of real text; rows sum to 1.

    Values (n_tokens, n_tokens). Raises InvalidInput for a head that the model lacks, and AttentionNotSeen.
    """
    return _of_first_sequence(model, probes, "text", head)


PATTERNS: dict[str, Callable[[Model, ProbeSet, Head], Measurement]] = {
    "attention_pattern": attention_pattern,
    "natural_attention_pattern": natural_attention_pattern,
}


def pattern_name(measure_name: str, head: Head) -> str:
    """Under which name the pattern of a head is kept: attention_pattern:L1H0."""
    return f"{measure_name}:{label([head])}"


def head_of(name: str) -> Head:
    """The head whose pattern a name asks for; raises InvalidInput for a name written in any other way."""
    match = _NAME.fullmatch(name)
    head = (int(match[2]), int(match[3])) if match else (0, 0)
    if match is None or pattern_name(match[1], head) != name:
        raise InvalidInput(f"{name!r} names no head's pattern; write attention_pattern:L1H0")
    return head


def _of_first_sequence(model: Model, probes: ProbeSet, slice_name: str, head: Head) -> Measurement:
    if slice_name not in probes.slices:
        raise InvalidInput(f"this pattern is of the slice {slice_name}, which the probe set lacks")
    model, (layer, number) = original(model), head
    found: list[Tensor] = []

    def keep(call: AttentionCall) -> None:
        if call.layer == layer and number < call.shape[1]:
            found.append(call.rows(0, call.shape[2])[0, number].double().cpu())

    with evaluating(model):
        tokens = next(batches_of(model, probes.slices[slice_name].tokens[:1, :MOST_TOKENS], 1))
        with AttentionTap(tokens.shape, keep) as tap:
            model(tokens)
        tap.check_seen()
    check_heads([head], tap.n_heads)
    return Measurement(np.asarray(found[0]))
