"""TrainingConfig: the description of a run that the API accepts, a TOML file holds and the trainer obeys.

Separate from the trainer because the server validates it and the command reads it, and neither may import torch. Every
field has a default, and the defaults train the demo: `{"name": "x", "model": {"sublayers": "a"}}` is its control.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phasewatch.errors import InvalidInput
from phasewatch.schedules import Schedule

FEED_FORWARD_RATIO: Final = 4  # hidden units of a feed-forward sublayer per unit of d_model
RELATIVE_OFFSETS: Final = 16  # distances (0 … 15) that a relative-position bias knows; farther ones share a zero
MAX_PARAMETERS: Final = 20_000_000_000

Position = Literal["none", "relative", "rotary", "learned", "queries_keys"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    """A table of the configuration: unknown names are errors, values never change once made."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(_Section):
    """The reference transformer, a decoder whose sublayers and positions are chosen one by one."""

    sublayers: str = Field(
        default="aa", pattern="^[af]+$", max_length=512, description="a: attention, f: feed-forward; input to output"
    )
    d_model: int = Field(default=64, ge=1, le=65_536, description="width of the residual stream")
    n_heads: int = Field(default=2, ge=1, le=1_024, description="attention heads of each attention sublayer")
    positions: tuple[Position, ...] = Field(
        default=("relative", "none"),
        description="how each attention sublayer knows positions; by default relative in the first and none above it",
    )
    smeared_keys: bool = Field(default=False, description="each key mixed with the previous token's, one weight a head")
    context: int = Field(default=128, ge=2, le=1_048_576, description="tokens the model sees at once")

    @model_validator(mode="before")
    @classmethod
    def _fit_default_positions(cls, data: object) -> object:
        if isinstance(data, Mapping) and "positions" not in data:
            n_attention = str(data.get("sublayers", "aa")).count("a")
            return {**data, "positions": ("relative", *["none"] * (n_attention - 1)) if n_attention else ()}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        n_attention = self.sublayers.count("a")
        if len(self.positions) != n_attention:
            raise ValueError(
                f"positions has {len(self.positions)} entries but sublayers {self.sublayers!r} has {n_attention} "
                "attention sublayers; give one entry for each, or leave positions out"
            )
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        if "rotary" in self.positions and (self.d_model // self.n_heads) % 2:
            raise ValueError(
                f"rotary positions need an even head width, but d_model {self.d_model} / n_heads {self.n_heads} "
                f"= {self.d_model // self.n_heads}"
            )
        if self.n_parameters(0) > MAX_PARAMETERS:
            raise ValueError(f"the model has {self.n_parameters(0):,} parameters, more than {MAX_PARAMETERS:,}")
        return self

    def n_parameters(self, vocabulary_size: int) -> int:
        """Trainable values of the model, both embeddings included."""
        n_tables = self.positions.count("learned") + self.positions.count("queries_keys")
        tables = n_tables * self.context * self.d_model
        biases = self.positions.count("relative") * self.n_heads * RELATIVE_OFFSETS
        smears = len(self.positions) * self.n_heads if self.smeared_keys else 0
        attention = self.sublayers.count("a") * 4 * self.d_model**2
        feed_forward = self.sublayers.count("f") * 2 * FEED_FORWARD_RATIO * self.d_model**2
        return 2 * vocabulary_size * self.d_model + attention + feed_forward + tables + biases + smears


class DataConfig(_Section):
    """The text a run is trained on and how it is cut into tokens."""

    text: str = Field(
        default="stdlib",
        min_length=1,
        max_length=4_096,
        description="stdlib (the sources of Python's standard library) or the path of a text file or folder",
    )
    vocabulary: Literal["pieces"] = "pieces"
    vocabulary_size: int = Field(default=512, ge=256, le=65_536, description="256 bytes and the most valuable pieces")


class OptimizerConfig(_Section):
    """AdamW and its learning rate; a step's rate is warm-up times schedule."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=0.01, gt=0, le=100)
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    epsilon: float = Field(default=1e-8, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0, le=100, description="not on position biases and smear weights")
    warmup_steps: int = Field(default=20, ge=0, le=1_000_000_000)
    clip: float = Field(default=1.0, ge=0, description="largest norm of the whole gradient; 0 for no limit")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="after the warm-up; linear and cosine end at zero with the last step"
    )


class RecordingConfig(_Section):
    """What is kept of a run, and at which steps."""

    schedule: Schedule = Field(default_factory=Schedule)
    probe_sequences: int = Field(default=128, ge=1, le=1_000_000, description="held-out windows evaluated every time")
    weights: bool = Field(default=True, description="keep the weights of every recorded step")


class TrainingConfig(_Section):
    """A whole run: two equal configurations train to the same values on the same hardware."""

    name: str = Field(default="run", min_length=1, max_length=200)
    seed: int = Field(default=0, ge=0, lt=2**63)
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    batch_size: int = Field(default=16, ge=1, le=1_048_576, description="sequences of a step")
    steps: int = Field(default=700, ge=1, le=1_000_000_000, description="optimizer steps of the whole run")
    recording: RecordingConfig = Field(default_factory=RecordingConfig)
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one")
    threads: int = Field(default=1, ge=1, le=1_024, description="CPU threads; more are slower for a model this small")

    @property
    def n_parameters(self) -> int:
        """Trainable values of the run's model."""
        return self.model.n_parameters(self.data.vocabulary_size)

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The configuration in a TOML document. Raises InvalidInput naming every wrong field, or the line of a slip."""
        try:
            return cls.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InvalidInput(f"training config is not TOML: {error}") from error
        except ValidationError as error:
            raise InvalidInput(f"training config: {describe(error)}") from error

    def to_toml(self) -> str:
        """A TOML document that `from_toml` reads back to an equal configuration.

        TOML has no null; here null is the default of every field that may be null, so leaving it out says the same.
        """
        return "\n".join(_toml_lines(self.model_dump(mode="json", exclude_none=True), ())) + "\n"


def describe(error: ValidationError) -> str:
    """A validation error on one line: `model.d_model: Input should be …, given 0; …`."""
    return "; ".join(
        ".".join(map(str, item["loc"])) + (": " if item["loc"] else "") + item["msg"] + _given(item["input"])
        for item in error.errors(include_url=False)
    )


def _given(value: object) -> str:
    return f", given {value!r}" if isinstance(value, str | int | float) and len(repr(value)) <= 80 else ""


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            inner = (*path, key)
            lines += ["", f"[{'.'.join(map(_toml_key, inner))}]", *_toml_lines(value, inner)]
    return lines


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _toml_value(key)


def _toml_value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    # JSON's strings, numbers and truth values are TOML's, but for one control character
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
