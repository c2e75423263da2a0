"""Optimizers: the first update as AdamW's formula gives it, learning rates, and state by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from phasewatch.errors import InvalidInput
from phasewatch.training import ModelConfig, OptimizerConfig
from phasewatch.transformer import Transformer
from trainer.optimizers import build_optimizer, learning_rate, load_optimizer_state, optimizer_state

CONFIG = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, warmup_steps=4)


def make(seed: int = 0) -> Transformer:
    return Transformer(ModelConfig(d_model=8, context=8, smeared_keys=True), 9, seed=seed)


def set_gradients(model: Transformer, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.empty_like(weight).normal_(generator=generator)
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_the_first_update_is_adamws_with_no_decay_of_biases_and_smear_weights() -> None:
    model = make()
    before = set_gradients(model, 1)
    build_optimizer(model, CONFIG).step()
    for name, weight in model.named_parameters():
        decay = 0.0 if name.split(".")[-1] in ("relative_bias", "smear") else 0.5
        assert weight.grad is not None
        gradient = weight.grad.double()
        expected = before[name].double() * (1 - 0.1 * decay) - 0.1 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(weight.detach().double(), expected, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("constant", 0, 0.25),
        ("constant", 3, 1.0),
        ("constant", 99, 1.0),
        ("linear", 4, 1.0),
        ("linear", 52, 0.5),
        ("linear", 99, 1 / 96),
        ("cosine", 1, 0.5),
        ("cosine", 28, (1 + math.cos(math.pi / 4)) / 2),
        ("cosine", 52, 0.5),
    ],
)
def test_the_rate_warms_up_and_follows_its_schedule(schedule: Any, step: int, factor: float) -> None:
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=4, schedule=schedule)
    assert learning_rate(config, step, 100) == pytest.approx(0.1 * factor)


def test_a_run_shorter_than_its_warm_up_or_without_one_has_rates_too() -> None:
    rates = [learning_rate(OptimizerConfig(schedule="linear", warmup_steps=10), step, 5) for step in range(5)]
    np.testing.assert_allclose(rates, [0.001, 0.002, 0.003, 0.004, 0.005])
    assert learning_rate(OptimizerConfig(warmup_steps=0), 0, 5) == 0.01


def test_an_optimizer_goes_on_from_its_state_bit_for_bit() -> None:
    model, copy = make(), make(seed=1)
    optimizer, second = build_optimizer(model, CONFIG), build_optimizer(copy, CONFIG)
    assert optimizer_state(optimizer, model) == {}
    for seed in range(3):
        set_gradients(model, seed)
        optimizer.step()
    copy.load_state_dict(model.state_dict())
    load_optimizer_state(second, copy, optimizer_state(optimizer, model))
    for one, its_optimizer in ((model, optimizer), (copy, second)):
        set_gradients(one, 9)
        its_optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


def test_a_state_is_a_copy() -> None:
    model = make()
    optimizer = build_optimizer(model, CONFIG)
    set_gradients(model, 0)
    optimizer.step()
    state = optimizer_state(optimizer, model)
    kept = {key: value.clone() for key, value in state.items()}
    optimizer.step()
    assert all(torch.equal(state[key], kept[key]) for key in kept)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"other/exp_avg": torch.zeros(9, 8)}, "'other/exp_avg' of shape .* belongs to no parameter"),
        ({"embedding/exp_avg": torch.zeros(9, 7)}, r"'embedding/exp_avg' of shape \(9, 7\)"),
        ({"embedding/exp_avg": torch.zeros(9, 8)}, "lacks 10 parameters"),
    ],
)
def test_a_state_that_does_not_fit_is_named(state: dict[str, torch.Tensor], message: str) -> None:
    model = make()
    with pytest.raises(InvalidInput, match=message):
        load_optimizer_state(build_optimizer(model, CONFIG), model, state)
