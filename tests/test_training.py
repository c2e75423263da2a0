"""TrainingConfig: defaults that train the demo, bounds with clear messages, TOML there and back."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from phasewatch.errors import InvalidInput
from phasewatch.training import ModelConfig, TrainingConfig, describe


def test_the_demos_control_needs_a_name_and_its_sublayers() -> None:
    control = TrainingConfig.model_validate({"name": "x", "model": {"sublayers": "a"}})
    assert control.model.positions == ("relative",)
    assert (control.model.d_model, control.model.n_heads, control.model.context) == (64, 2, 128)
    assert (control.batch_size, control.steps, control.threads, control.device) == (16, 700, 1, "auto")
    assert (control.data.text, control.data.vocabulary_size, control.recording.probe_sequences) == ("stdlib", 512, 128)
    assert control.optimizer.learning_rate == 0.01


@pytest.mark.parametrize(
    ("sublayers", "positions"),
    [("aa", ("relative", "none")), ("afaf", ("relative", "none")), ("aaa", ("relative", "none", "none")), ("ff", ())],
)
def test_positions_left_out_are_relative_in_the_first_attention_sublayer(sublayers: str, positions: tuple[str]) -> None:
    assert ModelConfig(sublayers=sublayers).positions == positions


def test_positions_of_a_wrong_length_name_both_numbers() -> None:
    with pytest.raises(ValidationError, match=r"positions has 2 entries but sublayers 'a' has 1"):
        ModelConfig(sublayers="a", positions=("relative", "none"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"d_model": 65, "n_heads": 2}}, "d_model 65 is not divisible by n_heads 2"),
        ({"model": {"d_model": 6, "n_heads": 2, "positions": ["rotary", "none"]}}, "even head width"),
        ({"model": {"sublayers": "ax"}}, "model.sublayers"),
        ({"model": {"sublayers": "f" * 512, "d_model": 65_536, "n_heads": 1}}, "more than 20,000,000,000"),
        ({"steps": 0}, "steps: .*greater than or equal to 1, given 0"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas.1"),
        ({"optimiser": {}}, "optimiser: Extra inputs are not permitted"),
        ({"data": {"vocabulary_size": 255}}, "data.vocabulary_size"),
        ({"recording": {"schedule": {"windows": [[9, 3, 1]]}}}, "ends before it starts"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainingConfig.model_validate(values)
    with pytest.raises(InvalidInput, match=message):
        raise InvalidInput(describe(caught.value))


CUSTOM = {
    "name": 'tail "risk" \\ \x7f ünïcode',
    "seed": 2**62,
    "model": {"sublayers": "afa", "positions": ["rotary", "queries_keys"], "smeared_keys": True},
    "optimizer": {"learning_rate": 3e-05, "schedule": "cosine", "clip": 0},
    "recording": {"schedule": {"log": 5, "every": 100, "windows": [[10, 20, 2], [30, 40, 1]]}, "weights": False},
}


@pytest.mark.parametrize("values", [{}, CUSTOM, {"recording": {"schedule": {"log": 0, "every": 7}}}])
def test_a_configuration_survives_toml(values: dict[str, Any]) -> None:
    config = TrainingConfig.model_validate(values)
    assert TrainingConfig.from_toml(config.to_toml()) == config


def test_toml_written_by_hand_is_read() -> None:
    config = TrainingConfig.from_toml('name = "by hand"\n[model]\nsublayers = "a"\n[data]\ntext = "books/"\n')
    assert (config.name, config.model.sublayers, config.data.text) == ("by hand", "a", "books/")


@pytest.mark.parametrize(
    ("text", "message"),
    [("steps = ", "not TOML: .*"), ("steps = -1\nbatch_size = 0", "batch_size: .*given 0; steps: .*given -1")],
)
def test_bad_toml_says_where(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TrainingConfig.from_toml(text)


def test_configurations_are_values() -> None:
    assert TrainingConfig() == TrainingConfig()
    assert len({TrainingConfig(), TrainingConfig(), TrainingConfig(seed=1)}) == 2
    with pytest.raises(ValidationError, match="frozen"):
        TrainingConfig().steps = 3  # type: ignore[misc]
