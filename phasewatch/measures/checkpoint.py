"""Measures of one checkpoint by name, whatever they need: what a caller with a list of names and a model calls.

Apart from the families, each of which computes its own measures together; this knows which family answers for what a
measure needs, and nothing of any single measure but those whose names carry parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from phasewatch.errors import InvalidInput
from phasewatch.measures.ablation import ablation
from phasewatch.measures.bigrams import score_logits
from phasewatch.measures.circuits import score_circuits
from phasewatch.measures.copying import score_copying
from phasewatch.measures.evaluation import Model
from phasewatch.measures.evidence import MEASURE, N_MATCHED, AblationName, to_measurement
from phasewatch.measures.heads import score_heads
from phasewatch.measures.measurement import Measurement
from phasewatch.measures.patterns import PATTERNS, head_of, pattern_name
from phasewatch.measures.registry import Cost, Measure, Needs, get, select
from phasewatch.measures.repetition import score_repetition
from phasewatch.probes import ProbeSet

PARAMETRISED = {
    MEASURE: f"{MEASURE}:L1H0",
    "token_group": "token_group:closing",
    **{name: pattern_name(name, (1, 0)) for name in PATTERNS},
}
"""Measures whose names carry parameters after a colon, with an example."""

ABLATION_TOKENS = 1 << 17
"""Tokens of a slice that heads are silenced on: an ablation takes dozens of forward passes."""

Family = Callable[[Model, ProbeSet, list[str], int], dict[str, Any]]


def check_name(name: str) -> Measure:
    """The measure that a name asks for at a checkpoint.

    Raises NotFound naming what there is, InvalidInput where parameters are missing, wrong, or of no use, and for a
    measure of a whole run.
    """
    one = get(name)
    if one.scope == "run":
        raise InvalidInput(f"measure {name!r} is of all checkpoints of a run together; GET /runs/RUN/trajectory has it")
    if one.name in PARAMETRISED and (":" not in name or name.endswith(":")):
        raise InvalidInput(f"measure {one.name!r} needs its parameters in its name, such as {PARAMETRISED[one.name]}")
    if one.name not in PARAMETRISED and name != one.name:
        raise InvalidInput(f"measure {one.name!r} takes no parameters; {name!r} was asked for")
    if one.name == MEASURE:
        AblationName.parse(name)
    elif one.name in PATTERNS:
        head_of(name)
    return one


def plain_names(cost: Cost) -> list[str]:
    """The measures of a cost class that need no parameters and are of one checkpoint, by name."""
    found = select(cost=cost)
    return [one.name for one in found if one.scope == "checkpoint" and one.name not in PARAMETRISED]


def score_model(
    model: Model,
    probes: ProbeSet,
    names: Iterable[str],
    *,
    previous_token: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, Measurement]:
    """Those of the measures that need the model and can be computed for it on these probes.

    model and probes as for `score_heads`; names as `check_name` takes them, of any need but losses. previous_token
    (n_layers, n_heads): that score, where it is known already. Measures whose slice is absent, or whose family does not
    know the model's projections, are left out. Raises what their families raise.
    """
    wanted = {name: check_name(name) for name in names}
    found: dict[str, Measurement] = {}
    for needs in dict.fromkeys(one.needs for one in wanted.values()):
        of_family = [name for name, one in wanted.items() if one.needs == needs and one.name not in PARAMETRISED]
        if not of_family or needs == "losses":
            continue
        if needs == "weights":
            measured = _circuits(model, probes, of_family, previous_token, seed)
        else:
            measured = _FAMILIES[needs](model, probes, of_family, seed)
        found |= {name: measured[name] for name in of_family if name in measured}
    for name, one in wanted.items():
        if one.name == MEASURE:
            asked, few = AblationName.parse(name), thinned(probes)
            found[name] = to_measurement(
                ablation(model, few, asked.heads, mode=asked.mode, n_matched=N_MATCHED, seed=seed)
            )
        elif one.name in PATTERNS and one.slice in probes.slices:
            found[name] = PATTERNS[one.name](model, probes, head_of(name))
    return found


def thinned(probes: ProbeSet) -> ProbeSet:
    """The probe set with at most `ABLATION_TOKENS` a slice, in sequences that are evenly spread and always the same."""
    parts = {}
    for name, part in probes.slices.items():
        n_kept = min(part.n_sequences, max(1, ABLATION_TOKENS // part.n_tokens))
        kept = np.linspace(0, part.n_sequences - 1, n_kept).astype(int)
        parts[name] = replace(part, tokens=part.tokens[kept])
    return replace(probes, slices=parts)


def _circuits(
    model: Model, probes: ProbeSet, names: Sequence[str], previous_token: ArrayLike | None, seed: int
) -> dict[str, Measurement]:
    """The circuits, with the score of previous tokens that one of them is weighted with."""
    if previous_token is None and "qk_trace" in names:
        scores = score_heads(model, probes, names=["previous_token"], seed=seed)
        previous_token = scores["previous_token"].values if scores else None
    return score_circuits(model, previous_token=previous_token, seed=seed)


_FAMILIES: dict[Needs, Family] = {
    "attention": lambda model, probes, names, seed: score_heads(model, probes, names=names, seed=seed),
    "activations": lambda model, probes, names, seed: score_copying(model, probes, names=names, seed=seed),
    "logits": lambda model, probes, names, seed: score_logits(model, probes, names=names, seed=seed),
    "generation": lambda model, probes, names, seed: score_repetition(model, probes, seed=seed),
}
