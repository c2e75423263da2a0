"""Weights and resume states as bytes: safetensors with a line of JSON, never pickle.

Separate from the loop, which needs no file format. A checkpoint is input from outside: what is read here is checked for
what it is before anything is built from it, and reading it runs nothing. Each file describes itself: weights carry how
to build their model again, states carry the configuration they were made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from phasewatch.errors import InvalidInput, UnsupportedMedia
from phasewatch.training import TrainingConfig, describe
from phasewatch.transformer import Transformer, build_model
from trainer.loop import TrainerState
from trainer.random_state import NumpyState, PythonState, RandomState

STATE_KIND: Final = "phasewatch.trainer_state"
_METADATA: Final = "phasewatch"  # one entry: safetensors writes several in an order of its own, and bytes would differ
_LENGTH_BYTES: Final = 8
_PICKLES: Final = (b"\x80", b"PK\x03\x04")  # a pickle; torch.save's zip archive of one


class _StateHeader(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: str = Field(pattern=f"^{STATE_KIND}$")
    step: int = Field(ge=0)
    config: TrainingConfig
    corpus_sha256: str
    numpy: NumpyState
    python: PythonState


def save_weights(model: Transformer) -> bytes:
    """The model's weights and its spec; the same weights give the same bytes."""
    return _write(model.state_dict(), model.spec())


def load_weights(content: bytes) -> dict[str, Tensor]:
    """Weights by parameter name, on the CPU. Raises UnsupportedMedia for a pickle, InvalidInput for other bytes."""
    return _read(content)[0]


def load_model(content: bytes) -> Transformer:
    """The model that `save_weights` wrote. Raises as `load_weights`, and ModelNotRebuilt where its spec is no good."""
    weights, spec = _read(content)
    model = build_model(spec)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidInput(f"the weights do not fit the model they describe: {error}") from error
    return model


def save_state(state: TrainerState) -> bytes:
    """The state as one safetensors file."""
    tensors = {
        **{f"model/{name}": value for name, value in state.model.items()},
        **{f"optimizer/{name}": value for name, value in state.optimizer.items()},
        "random/torch": state.random.torch,
        **{f"random/cuda/{index:04d}": value for index, value in enumerate(state.random.cuda)},
    }
    header = {
        "kind": STATE_KIND,
        "step": state.step,
        "config": state.config.model_dump(mode="json"),
        "corpus_sha256": state.corpus_sha256,
        "numpy": state.random.numpy,
        "python": state.random.python,
    }
    return _write(tensors, header)


def load_state(content: bytes) -> TrainerState:
    """The state that `save_state` wrote. Raises UnsupportedMedia for a pickle, InvalidInput for anything else."""
    tensors, metadata = _read(content)
    try:
        header = _StateHeader.model_validate(metadata)
    except ValidationError as error:
        raise InvalidInput(f"not a {STATE_KIND} file: {describe(error)}") from error
    if "random/torch" not in tensors:
        raise InvalidInput(f"the {STATE_KIND} file of step {header.step} has no random state of torch")
    cuda = tuple(_below("random/cuda/", dict(sorted(tensors.items()))).values())
    return TrainerState(
        step=header.step,
        config=header.config,
        corpus_sha256=header.corpus_sha256,
        model=_below("model/", tensors),
        optimizer=_below("optimizer/", tensors),
        random=RandomState(tensors["random/torch"], cuda, header.numpy, header.python),
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> bytes:
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(on_cpu, {_METADATA: json.dumps(metadata, allow_nan=False)})


def _read(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `_write` made."""
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        if content.startswith(_PICKLES):
            raise UnsupportedMedia("a pickle, which is never read; save weights as safetensors") from error
        raise InvalidInput(f"{len(content)} bytes that are no safetensors file: {error}") from error
    header_length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + header_length])
    try:
        metadata = json.loads(header.get("__metadata__", {})[_METADATA])
    except (KeyError, ValueError) as error:
        raise InvalidInput("a safetensors file that does not say what it holds: written by another program") from error
    if not isinstance(metadata, dict):
        raise InvalidInput(f"a safetensors file whose description is a {type(metadata).__name__}, not an object")
    return tensors, metadata
