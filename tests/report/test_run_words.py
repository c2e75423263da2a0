"""A change in a sentence, whatever kind it is."""

from __future__ import annotations

from typing import Any

import pytest

from phasewatch.report.run_words import change_sentence

CHANGE: dict[str, Any] = {
    "kind": "level", "induction": False, "state": "confirmed", "review": None, "measure": "mean_loss:text",
    "start_step": 100, "step": 200, "end_step": 300, "start_interval": None, "step_interval": [180.4, 220.6],
    "end_interval": None, "heads": [], "n_tokens": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "A change of level, from step 100 to step 300 (half way at step 200 [180, 221]), in mean_loss:text."),
        ({"kind": "slope"}, "A change of trend, turning at step 200 [180, 221], in mean_loss:text."),
        ({"kind": "spike"}, "A spike of one checkpoint, at step 200 [180, 221], in mean_loss:text."),
        (
            {"kind": "hidden", "measure": "token_group:after self.", "n_tokens": 1_200, "end_step": None},
            "A hidden change (of some tokens, which the mean does not show), from step 100, not over at the last "
            "checkpoint (half way at step 200 [180, 221]), in 1,200 tokens of the probe text (after self.).",
        ),
        (
            {"kind": "divergence", "heads": [(0, head) for head in range(14)], "state": "provisional"},
            "A divergence, from step 100 to step 300 (half way at step 200 [180, 221]), in heads "
            + ", ".join(f"L0H{head}" for head in range(12))
            + " and 2 more. It is provisional: later checkpoints may confirm it or withdraw it.",
        ),
        (
            {"start_interval": (None, 120.4), "end_interval": (250.0, None)},
            "A change of level, from step 100 […, 120] to step 300 [250, …] (half way at step 200 [180, 221]), in "
            "mean_loss:text.",
        ),
    ],
    ids=["level", "slope", "spike", "group", "heads", "open"],
)
def test_a_change_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    assert change_sentence(CHANGE | fields) == sentence
