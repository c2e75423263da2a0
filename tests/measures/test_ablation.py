"""Ablation: silencing equals weights set to zero, preserved patterns equal a plain second pass, matched heads match."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasewatch.attention import AttentionTap, Edit
from phasewatch.errors import AttentionNotSeen, InvalidInput
from phasewatch.measures import ablation, token_losses
from phasewatch.measures.ablation import matched_sets
from phasewatch.measures.losses import icl_score, repeat_gain
from phasewatch.probes import ProbeSet
from tests.attention_models import N_HEADS, N_IDS, N_LAYERS, WIDTH, Attending

TEXT = np.random.default_rng(0).integers(0, N_IDS, (6, 40))
PROBES = ProbeSet.from_tokens(TEXT, vocab_size=N_IDS, n_repeats=5)
TOKENS = torch.tensor(TEXT)
WAYS = ("causal", "boolean mask", "grouped queries", "written out", "multihead", "multihead with weights")
HEADS = [(0, 1), (1, 3)]


class Mixing(Attending):
    """Attends in any way, then mixes its heads, so that a head can also be silenced by its weights or by hand."""

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.mixing = nn.ModuleList(nn.Linear(N_HEADS * WIDTH, N_HEADS * WIDTH, bias=False) for _ in range(N_LAYERS))
        for layer in self.mixing:
            nn.init.normal_(layer.weight, std=0.3)  # type: ignore[arg-type]  # heads that matter

    def attend(self, layer: int, stream: Tensor) -> Tensor:
        if self.way.startswith("multihead"):
            return super().attend(layer, stream)
        return self.mixing[layer](super().attend(layer, stream))  # type: ignore[no-any-return]

    def silence(self, layer: int, head: int) -> None:
        """Zeroes the weights that read the head's output."""
        columns = slice(head * WIDTH, (head + 1) * WIDTH)
        names = {True: f"multihead.{layer}.out_proj.weight", False: f"mixing.{layer}.weight"}
        with torch.no_grad():
            self.get_parameter(names[self.way.startswith("multihead")])[:, columns] = 0


@torch.no_grad()
def plain_preserved(model: Mixing, heads: list[tuple[int, int]]) -> Tensor:
    """Logits with heads silenced and every pattern that of the whole model, attention written out."""
    patterns, stream = model.patterns(TOKENS).float(), model.embed(TOKENS)
    for layer in range(N_LAYERS):
        value = model.heads(layer, stream)[2].repeat_interleave(N_HEADS // model.n_key_heads, 1)
        mixed = patterns[layer] @ value
        for at, head in heads:
            if at == layer:
                mixed[:, head] = 0
        stream = stream + model.mixing[layer](mixed.transpose(1, 2).flatten(2))
    return model.unembed(stream)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", WAYS)
def test_silencing_equals_zero_weights(way: str) -> None:
    model = Mixing(way).eval()
    with AttentionTap(TOKENS.shape, lambda call: None, edit=Edit({0: [1], 1: [3]})):
        silenced = model(TOKENS)
    for head in HEADS:
        model.silence(*head)
    torch.testing.assert_close(silenced, model(TOKENS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["causal", "boolean mask", "grouped queries", "written out", "wide values"])
def test_preserved_patterns_equal_a_plain_second_pass(way: str) -> None:
    model = Mixing(way).eval()
    with AttentionTap(TOKENS.shape) as recording:
        whole = model(TOKENS)
    with AttentionTap(TOKENS.shape, edit=Edit({0: [1], 1: [3]}, recording.calls)):
        preserved = model(TOKENS)
    torch.testing.assert_close(preserved, plain_preserved(model, HEADS), atol=1e-4, rtol=1e-4)
    with AttentionTap(TOKENS.shape, edit=Edit({0: [1], 1: [3]})):
        assert (model(TOKENS) - preserved).abs().max() > 1e-3  # patterns do move when they may
    with AttentionTap(TOKENS.shape, edit=Edit({}, recording.calls)):
        torch.testing.assert_close(model(TOKENS), whole)


class TestRecordedPatterns:
    def test_they_must_be_of_the_same_tokens(self) -> None:
        model = Attending("causal").eval()
        with AttentionTap(TOKENS.shape) as recording:
            model(TOKENS)
        with (
            pytest.raises(InvalidInput, match="no recorded pattern of 2 × 40 tokens"),
            AttentionTap((2, 40), edit=Edit({}, recording.calls)),
        ):
            model(TOKENS[:2])

    @pytest.mark.parametrize("ways", [("causal", "written out"), ("written out", "causal")], ids=str)
    def test_they_must_be_of_the_same_kind(self, ways: tuple[str, str]) -> None:
        with AttentionTap(TOKENS.shape) as recording:
            Attending(ways[0]).eval()(TOKENS)
        with (
            pytest.raises(InvalidInput, match="record this model's own"),
            AttentionTap(TOKENS.shape, edit=Edit({}, recording.calls)),
        ):
            Attending(ways[1]).eval()(TOKENS)


class TestAblation:
    @pytest.mark.parametrize("way", ["causal", "written out"])
    def test_changes_are_those_of_the_losses(self, way: str) -> None:
        model = Mixing(way)
        found = ablation(model, PROBES, HEADS)
        whole = {name: token_losses(model, PROBES.slices[name].tokens) for name in ("text", "repeats")}
        for head in HEADS:
            model.silence(*head)
        after = {name: token_losses(model, PROBES.slices[name].tokens) for name in ("text", "repeats")}
        before, later = icl_score(whole["text"].astype(float)), icl_score(after["text"].astype(float))
        assert before is not None
        assert later is not None
        part = PROBES.slices["repeats"]
        gains = [float(repeat_gain(losses["repeats"].astype(float), part).values) for losses in (whole, after)]
        assert found.change["icl_score"].values == pytest.approx(later.values - before.values, abs=1e-5)
        assert found.change["repeat_gain"].values == pytest.approx(gains[1] - gains[0], abs=1e-5)
        assert found.change["mean_loss"].values == pytest.approx(after["text"].mean() - whole["text"].mean(), abs=1e-5)
        assert found.baseline["repeat_gain"] == pytest.approx(gains[0], abs=1e-6)
        assert found.share_lost("repeat_gain") == pytest.approx(1 - gains[1] / gains[0], abs=1e-3)

    def test_matched_heads_are_ablated_like_the_others(self) -> None:
        model = Mixing("causal")
        found = ablation(model, PROBES, HEADS, n_matched=2, seed=1)
        assert len(found.matched_heads) == 2
        for i, heads in enumerate(found.matched_heads):
            alone = ablation(model, PROBES, heads, n_matched=0)
            for name, change in alone.change.items():
                assert found.matched[name][i] == pytest.approx(float(change.values), abs=1e-6)
        assert found.matched_share_lost("icl_score").shape == (2,)

    def test_a_head_that_does_nothing_costs_nothing(self) -> None:
        model = Mixing("causal")
        model.silence(0, 1)
        found = ablation(model, PROBES, [(0, 1)], n_matched=1)
        assert all(abs(change.values) < 1e-6 for change in found.change.values())
        assert abs(found.matched["mean_loss"][0]) > 1e-4

    def test_preserving_patterns_is_a_different_question(self) -> None:
        model = Mixing("causal")
        full, preserving = (
            ablation(model, PROBES, [(0, 1)], n_matched=0, mode=mode) for mode in ("full", "pattern_preserving")
        )
        assert full.change["mean_loss"].values != pytest.approx(float(preserving.change["mean_loss"].values), abs=1e-4)
        with torch.no_grad():
            expected = F.cross_entropy(
                plain_preserved(model.eval(), [(0, 1)])[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()
            )
        change = expected - preserving.baseline["mean_loss"]
        assert preserving.change["mean_loss"].values == pytest.approx(float(change), abs=1e-4)

    def test_intervals_are_of_the_paired_change(self) -> None:
        change = ablation(Mixing("causal"), PROBES, HEADS, n_matched=0).change["mean_loss"]
        assert change.interval is not None
        assert change.interval[0] < change.values < change.interval[1]

    def test_effects_of_absent_slices_are_left_out(self) -> None:
        found = ablation(Mixing("causal"), ProbeSet.from_tokens(TEXT), HEADS, n_matched=1)
        assert set(found.change) == set(found.baseline) == set(found.matched) == {"icl_score", "mean_loss"}

    @pytest.mark.parametrize(
        ("heads", "message"),
        [
            ([], "at least one"),
            ([(2, 0)], "no head 0 in layer 2"),
            ([(0, 4)], r"\[4, 4\] heads"),
            ([(-1, 0)], "layer -1"),
        ],
        ids=str,
    )
    def test_heads_that_the_model_lacks_are_refused(self, heads: list[tuple[int, int]], message: str) -> None:
        with pytest.raises(InvalidInput, match=message):
            ablation(Mixing("causal"), PROBES, heads)

    def test_what_cannot_be_measured_is_refused(self) -> None:
        with pytest.raises(AttentionNotSeen):
            ablation(nn.Embedding(N_IDS, N_IDS), PROBES, HEADS)
        with pytest.raises(InvalidInput, match="the probe set has neither"):
            ablation(Mixing("causal"), ProbeSet().with_slice("code", TEXT), HEADS)


class TestMatchedSets:
    def test_they_have_as_many_other_heads_in_each_layer(self) -> None:
        heads = ((0, 1), (2, 0), (2, 5))
        sets = matched_sets(heads, [4, 4, 8], 5)
        assert len(set(sets)) == 5
        for found in sets:
            assert [layer for layer, _ in found] == [0, 2, 2]
            assert not set(found) & set(heads)

    def test_there_are_no_more_than_there_are_others(self) -> None:
        assert sorted(matched_sets([(0, 0)], [3], 9)) == [((0, 1),), ((0, 2),)]
        assert matched_sets([(0, 0)], [1], 9) == ()

    def test_many_possible_sets_are_drawn(self) -> None:
        heads = [(0, h) for h in range(8)]
        sets = matched_sets(heads, [32], 20, seed=3)
        assert len(set(sets)) == 20
        assert all(len(found) == 8 and not set(found) & set(heads) for found in sets)
        assert sets == matched_sets(heads, [32], 20, seed=3) != matched_sets(heads, [32], 20, seed=4)
