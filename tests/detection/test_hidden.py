"""Changes of a few tokens: found when planted into made-up and into real noise, and not otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.detection import find_phase_changes
from phasewatch.detection.phase_change import PhaseChange
from phasewatch.detection.scoring import ranked_precision, score_changes, score_tokens
from phasewatch.detection.synthetic import Planted, make_run, plant
from tests.detection.recorded import load_losses, load_run

N = 6_000


def hidden(changes: list[PhaseChange]) -> list[PhaseChange]:
    return [change for change in changes if change.kind == "hidden"]


@pytest.mark.parametrize(("seed", "decay"), [(0, "power"), (1, "exponential"), (2, "mixed")])
def test_a_small_group_is_found_once_with_its_tokens(seed: int, decay: str) -> None:
    rng = np.random.default_rng(seed)
    truth = Planted(rng.choice(N, 60, replace=False), int(rng.integers(500, 3_000)), 0.4, -1.0)
    run = make_run(seed, n_tokens=N, n_steps=100, decay=decay, planted=[truth])
    found = find_phase_changes(run.losses, run.steps, documents=run.documents)
    score = score_changes(found, [truth])
    assert (score.n_found, score.n_false) == (1, 0)
    assert score.location_errors[0] < 0.05
    assert score.token_precisions[0] > 0.5
    assert score.token_recalls[0] > 0.5
    change = found[0]
    assert (change.kind, change.direction, change.unit) == ("hidden", "drop", "nats")
    assert change.effect == pytest.approx(1.0, rel=0.3)
    assert change.q_value is not None
    assert change.q_value < 0.05
    assert "times, reaches, heights and kinds" in change.q_scope


@pytest.mark.parametrize("seed", range(6))
def test_nothing_planted_gives_nothing_hidden(seed: int) -> None:
    families = ["power", "exponential", "mixed"]
    run = make_run(
        100 + seed,
        n_tokens=N,
        n_steps=100,
        decay=families[seed % 3],
        common_noise=0.05,
        persistence=0.5,
        tail=[None, 4.0][seed % 2],
        warm_up=[0, 200][seed // 3],
    )
    assert hidden(find_phase_changes(run.losses, run.steps, documents=run.documents)) == []


@pytest.mark.parametrize("name", ["L1_bpe512_s0", "L2_allpos_bpe512_s0", "mix_recall1pct_L1_s0"])
@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_real_controls_have_nothing_hidden_at_any_time_while_they_grow(name: str, share: float) -> None:
    run = load_losses(name)
    n = round(share * len(run.steps))
    assert not hidden(find_phase_changes(run.losses[:n], run.steps[:n], tokens=run.token_ids))


def test_a_sub_task_that_the_mean_hides_is_found_with_its_tokens() -> None:
    run = load_losses("mix_recall1pct_L2_s0")
    (change,) = hidden(find_phase_changes(run.losses, run.steps, tokens=run.token_ids))
    assert change.direction == "drop"
    assert change.step == pytest.approx(792, rel=0.12)
    assert change.tokens is not None
    precision, recall = score_tokens(change.tokens, np.flatnonzero(run.is_sub))
    assert precision >= 0.75
    assert recall >= 0.7
    assert ranked_precision(change.tokens, run.is_sub) >= 0.85
    assert len(change.tokens) * precision == pytest.approx(run.is_sub[change.tokens].sum())


@pytest.mark.parametrize("name", ["L1_bpe512_s0", "mix_recall1pct_L1_s0"])
@pytest.mark.parametrize("step", [330, 900])
def test_tokens_of_one_target_are_found_in_real_noise(name: str, step: int) -> None:
    run = load_losses(name)
    targets = run.token_ids[:, 1:].ravel()
    often = np.flatnonzero(np.bincount(targets) >= 100)
    tokens = np.flatnonzero(targets == often[step % len(often)])[:100]
    truth = Planted(tokens, step, 0.25, -2.5)
    changed = plant(run.losses, run.steps, tokens, step, 0.25, 2.5)
    score = score_changes(hidden(find_phase_changes(changed, run.steps, tokens=run.token_ids)), [truth])
    assert (score.n_found, score.n_false) == (1, 0)


@pytest.mark.parametrize("seed", [2, 8])
def test_tokens_of_one_target_are_found_where_the_run_still_falls(seed: int) -> None:
    """Beside all tokens they are few witnesses; beside what their target does at other times they are many."""
    run, rng = load_losses("L1_bpe512_s0"), np.random.default_rng(seed)
    targets = run.token_ids[:, 1:].ravel()
    target = rng.choice(np.flatnonzero(np.bincount(targets) >= 160))
    tokens = rng.choice(np.flatnonzero(targets == target), 160, replace=False)
    truth = Planted(tokens, 400, 0.45, -2.5)
    changed = plant(run.losses, run.steps, tokens, truth.step, truth.width, 2.5)
    found = hidden(find_phase_changes(changed, run.steps, tokens=run.token_ids))
    score = score_changes(found, [truth])
    assert (score.n_found, score.n_false) == (1, 0)
    assert score.token_precisions[0] > 0.75
    assert score.token_recalls[0] > 0.6
    assert (targets[found[0].tokens] == target).mean() > 0.9


def test_a_change_that_is_not_over_is_told_once_it_is() -> None:
    rng = np.random.default_rng(3)
    truth = Planted(rng.choice(N, 60, replace=False), 3_000, 0.6, -1.0)
    run = make_run(3, n_tokens=N, n_steps=100, planted=[truth])
    for n in range(84, 101, 4):
        found = hidden(find_phase_changes(run.losses[:n], run.steps[:n], documents=run.documents))
        assert all(change.end_step is not None and change.end_step <= run.steps[n - 1] for change in found)
        if run.steps[n - 1] < 0.9 * truth.end_step:
            assert not found
    assert score_changes(found, [truth]).n_found == 1


@pytest.mark.parametrize("step", [420, 835])
def test_planted_into_real_noise_it_is_found(step: int) -> None:
    run = load_run("L2_allpos_bpe512_s0")
    tokens = np.random.default_rng(step).choice(run.losses.shape[1], 160, replace=False)
    truth = Planted(tokens, step, 0.25, -2.5)
    changed = plant(run.losses, run.steps, tokens, step, 0.25, 2.5)
    score = score_changes(hidden(find_phase_changes(changed, run.steps, tokens=run.token_ids)), [truth])
    assert score.n_found == 1
    assert score.token_precisions[0] > 0.7


def test_many_tokens_of_one_document_are_one_witness() -> None:
    """Sixty tokens of a single document that fall together are not sixty pieces of evidence."""
    truth = Planted(np.arange(60), 1_000, 0.4, -1.0)
    run = make_run(5, n_tokens=N, n_steps=100, planted=[truth])
    assert len(find_phase_changes(run.losses, run.steps)) == 1
    assert find_phase_changes(run.losses, run.steps, documents=run.documents) == []


def test_a_bad_checkpoint_is_no_hidden_change() -> None:
    run = make_run(6, n_tokens=N, n_steps=100)
    losses = run.losses.copy()
    rng = np.random.default_rng(6)
    losses[70, rng.choice(N, 1_200, replace=False)] -= 1.5
    assert hidden(find_phase_changes(losses, run.steps, documents=run.documents)) == []


def test_what_is_not_looked_for_is_said() -> None:
    run = load_losses("L1_bpe512_s0")
    (note,) = find_phase_changes(run.losses, run.steps, tokens=run.token_ids).notes
    assert note.startswith("losses of text: the first descent is quick: no hidden changes are looked for before step 5")
    assert "only those of 0.2 % of the tokens" in note
    (note,) = find_phase_changes(run.losses[:, :100], run.steps).notes
    assert note == "losses of text: 64 usable checkpoints of 100 tokens, hidden changes need at least 20 and 120"


def test_losses_that_are_not_finite_are_left_out_and_said() -> None:
    truth = Planted(np.arange(0, N, 100), 1_000, 0.4, -1.0)
    run = make_run(7, n_tokens=N, n_steps=100, planted=[truth])
    losses = run.losses.copy()
    losses[20, :50] = np.nan
    losses[30, 7] = np.inf
    found = find_phase_changes(losses, run.steps)
    assert score_changes(found, [truth]).n_found == 1
    assert found.notes == [f"losses of text: 51 of {losses.size} values are not finite and were left out"]


def test_induction_tokens_count_with_the_induction_change() -> None:
    run = load_run("L1_smear_bpe512_s0")
    alone = find_phase_changes(run.losses, run.steps, tokens=run.token_ids)
    assert [change for change in alone if change.tokens is not None and change.step == pytest.approx(150, rel=0.15)]
    assert [change.kind for change in run.changes() if change.induction] == ["level"]
    assert not hidden(run.changes())
