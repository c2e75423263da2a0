"""The loop: what is recorded and when, and that an interrupted run is, bit for bit, the unbroken one."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from phasewatch.errors import InvalidInput
from phasewatch.training import TrainingConfig
from phasewatch.transformer import Transformer
from tests.trainer import small
from trainer.checkpointing import load_state, save_state
from trainer.data import Corpus
from trainer.loop import Losses, Recording, Series, Trainer, TrainerState, pick_device
from trainer.optimizers import build_optimizer
from trainer.random_state import seed_everything


@dataclass
class Kept:
    """What a worker would keep of a run: everything copied, the state of the newest recording alone."""

    losses: dict[int, dict[str, Losses]] = field(default_factory=dict)
    weights: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    series: Series = field(default_factory=dict)
    tokens_seen: dict[int, int] = field(default_factory=dict)
    state: bytes = b""

    def __call__(self, recording: Recording) -> None:
        self.state = save_state(recording.state())
        assert not self.series.keys() & recording.series.keys()
        self.series |= recording.series
        self.tokens_seen[recording.step] = recording.tokens_seen
        if recording.due:
            assert recording.step not in self.losses
            self.losses[recording.step] = dict(recording.losses)
            self.weights[recording.step] = {name: w.clone() for name, w in recording.model.state_dict().items()}
        else:
            assert not recording.losses

    def metrics(self) -> Series:
        """The series without the one that depends on the clock."""
        return {
            step: {name: value for name, value in named.items() if name != "tokens_per_s"}
            for step, named in self.series.items()
        }


def after(n_updates: int) -> Callable[[], bool]:
    """A `should_stop` that lets this many updates through."""
    left = iter([False] * n_updates)
    return lambda: next(left, True)


def unbroken(config: TrainingConfig | None = None) -> Kept:
    kept = Kept()
    assert Trainer(config or small.config(), small.corpus()).run(kept)
    return kept


def assert_same(kept: Kept, expected: Kept) -> None:
    assert list(kept.losses) == list(expected.losses)
    for step, losses in expected.losses.items():
        assert kept.losses[step].keys() == losses.keys()
        assert all(np.array_equal(kept.losses[step][name], losses[name]) for name in losses)
        assert all(torch.equal(kept.weights[step][name], w) for name, w in expected.weights[step].items())
    assert kept.metrics() == expected.metrics()


class TestRecording:
    def test_due_steps_are_recorded_with_the_losses_of_every_slice(self) -> None:
        kept = unbroken()
        assert list(kept.losses) == [0, 5, 10, 12]
        assert kept.tokens_seen == {step: step * 4 * 16 for step in (0, 5, 10, 12)}
        for losses in kept.losses.values():
            assert {"text", "repeats"} <= losses.keys()
            assert losses["text"].shape == (4, 15)
            assert losses["text"].dtype == np.float32

    def test_the_losses_of_step_0_are_those_of_the_model_before_any_update(self) -> None:
        config, corpus = small.config(), small.corpus()
        tokens = torch.tensor(corpus.probe_set(4, 16).slices["text"].tokens).long()
        logits = Transformer(config.model, len(corpus.vocabulary), seed=config.seed)(tokens[:, :-1])
        expected = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        np.testing.assert_allclose(unbroken().losses[0]["text"], expected.detach().numpy(), atol=1e-6)

    def test_every_update_has_its_metrics(self) -> None:
        kept = unbroken()
        assert list(kept.series) == list(range(1, 13))
        rates = [named["learning_rate"] for named in kept.series.values()]
        np.testing.assert_allclose(rates, [0.01 / 3, 0.02 / 3] + [0.01] * 10)
        assert [step for step, named in kept.series.items() if "tokens_per_s" in named] == [5, 10, 12]
        assert all(named["grad_norm"] > 0 for named in kept.series.values())

    def test_the_first_update_is_written_out_here_once_more(self) -> None:
        config = small.config(optimizer={"clip": 0.05, "warmup_steps": 0}, steps=1)
        corpus = small.corpus()
        model = Transformer(config.model, len(corpus.vocabulary), seed=config.seed)
        batch = torch.from_numpy(corpus.batch(config.seed, 0, 4, 16))
        loss = F.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.sqrt(sum(((w.grad**2).sum() for w in model.parameters() if w.grad is not None), torch.zeros(())))
        for weight in model.parameters():
            assert weight.grad is not None
            weight.grad *= 0.05 / norm
        build_optimizer(model, config.optimizer).step()
        kept = unbroken(config)
        assert kept.series[1]["loss"] == pytest.approx(loss.item(), abs=1e-6)
        assert kept.series[1]["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(kept.weights[1][name], weight, atol=1e-6, rtol=1e-4)

    def test_training_learns(self) -> None:
        series = unbroken(small.config(steps=80)).series
        assert series[80]["loss"] < series[1]["loss"] - 1

    def test_a_diverged_run_goes_on_being_recorded(self) -> None:
        trainer, kept = Trainer(small.config(), small.corpus()), Kept()
        with torch.no_grad():
            trainer.model.unembedding[0, 0] = torch.nan
        assert trainer.run(kept)
        assert list(kept.losses) == [0, 5, 10, 12]
        assert np.isnan(kept.losses[12]["text"]).all()
        assert np.isnan(kept.series[12]["loss"])

    def test_every_step_is_reported_with_its_loss(self) -> None:
        kept, reported = Kept(), dict[int, float]()
        trainer = Trainer(small.config(), small.corpus())
        trainer.run(kept, on_step=lambda step, loss: reported.update({step: loss.item()}))
        assert reported == {step: named["loss"] for step, named in kept.series.items()}

    def test_an_error_of_the_recorder_reaches_the_caller(self) -> None:
        def refuse(recording: Recording) -> None:
            raise ConnectionError("database away")

        with pytest.raises(ConnectionError):
            Trainer(small.config(), small.corpus()).run(refuse)


class TestResuming:
    @pytest.mark.parametrize("stops", [[0], [1], [4], [5], [6], [11], [12], [2, 3, 1], [1] * 12], ids=str)
    def test_an_interrupted_run_is_the_unbroken_one(self, stops: list[int]) -> None:
        kept, state = Kept(), None
        for n_updates in stops:
            trainer = Trainer(small.config(), small.corpus(), resume=state)
            trainer.run(kept, should_stop=after(n_updates))
            state = load_state(kept.state)
        assert Trainer(small.config(), small.corpus(), resume=state).run(kept)
        assert_same(kept, unbroken())

    def test_a_lost_worker_costs_what_came_after_its_last_recording(self) -> None:
        kept, states = Kept(), {}

        def die_after_step_5(recording: Recording) -> None:
            if recording.step > 5:
                raise KeyboardInterrupt
            kept(recording)
            states[recording.step] = kept.state

        with pytest.raises(KeyboardInterrupt):
            Trainer(small.config(), small.corpus()).run(die_after_step_5)
        Trainer(small.config(), small.corpus(), resume=load_state(states[5])).run(kept)
        assert_same(kept, unbroken())

    def test_a_trainer_that_was_stopped_goes_on_itself(self) -> None:
        trainer, kept = Trainer(small.config(), small.corpus()), Kept()
        assert not trainer.run(kept, should_stop=after(7))
        assert trainer.step == 7
        assert trainer.run(kept)
        assert_same(kept, unbroken())

    def test_shared_generators_go_on_where_they_were(self) -> None:
        drawn: dict[int, list[float]] = {}

        def draw(step: int, _: torch.Tensor) -> None:
            drawn[step] = [torch.rand(()).item(), float(np.random.random()), random.random()]

        Trainer(small.config(), small.corpus()).run(Kept(), on_step=draw)
        whole, kept = dict(drawn), Kept()
        drawn.clear()
        Trainer(small.config(), small.corpus()).run(kept, on_step=draw, should_stop=after(7))
        seed_everything(99)
        Trainer(small.config(), small.corpus(), resume=load_state(kept.state)).run(kept, on_step=draw)
        assert drawn == whole
        assert len({tuple(numbers) for numbers in whole.values()}) == 12

    def test_a_finished_run_has_nothing_left(self) -> None:
        kept = unbroken()
        again = Kept()
        assert Trainer(small.config(), small.corpus(), resume=load_state(kept.state)).run(again)
        assert not again.losses


class TestChecks:
    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"seed": 8}, "seed"),
            ({"optimizer": {"warmup_steps": 4}}, "optimizer"),
            ({"steps": 13, "batch_size": 5}, "batch_size, steps"),
        ],
    )
    def test_the_state_of_another_run_is_refused(self, values: dict[str, Any], named: str) -> None:
        state = load_state(unbroken().state)
        with pytest.raises(InvalidInput, match=f"state at step 12 is of a run with another {named}"):
            Trainer(small.config(**values), small.corpus(), resume=state)

    def test_another_name_is_the_same_run(self) -> None:
        assert Trainer(small.config(name="renamed"), small.corpus(), resume=load_state(unbroken().state)).step == 12

    def test_a_run_does_not_go_on_with_other_text(self) -> None:
        state, corpus = load_state(unbroken().state), small.corpus()
        other = Corpus(corpus.vocabulary, corpus.train[1:], corpus.held_out)
        with pytest.raises(InvalidInput, match="text 'stdlib' is not what the run was trained on up to step 12"):
            Trainer(small.config(), other, resume=state)

    def test_weights_that_do_not_fit_are_refused(self) -> None:
        state = load_state(unbroken().state)
        broken = TrainerState(12, state.config, state.corpus_sha256, {}, state.optimizer, state.random)
        with pytest.raises(InvalidInput, match="does not fit the model"):
            Trainer(small.config(), small.corpus(), resume=broken)

    def test_devices(self) -> None:
        assert pick_device("cpu").type == "cpu"
        assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")

    def test_cuda_where_there_is_none_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(InvalidInput, match="use auto or cpu"):
            pick_device("cuda")

    def test_threads_are_as_asked_for_and_as_before_afterwards(self) -> None:
        before, seen = torch.get_num_threads(), set[int]()
        trainer = Trainer(small.config(threads=2, steps=1), small.corpus())
        trainer.run(lambda _: seen.add(torch.get_num_threads()))
        assert seen == {2}
        assert torch.get_num_threads() == before


def test_the_loop_needs_numpy_pydantic_and_torch_alone() -> None:
    script = """
import sys
for name in ("sqlalchemy", "alembic", "fsspec", "safetensors", "rich", "typer", "httpx", "zstandard", "scipy"):
    sys.modules[name] = None
import trainer.loop
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_interrupted_run_on_cuda_is_the_unbroken_one() -> None:
    config = small.config(device="cuda")
    kept = Kept()
    Trainer(config, small.corpus()).run(kept, should_stop=after(7))
    Trainer(config, small.corpus(), resume=load_state(kept.state)).run(kept)
    assert_same(kept, unbroken(config))
