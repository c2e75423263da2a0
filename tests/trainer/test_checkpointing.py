"""Checkpoint files: what goes in comes out, the same bytes every time, and what is no checkpoint is refused unread."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle

import pytest
import safetensors.torch
import torch

from phasewatch.errors import InvalidInput, ModelNotRebuilt, UnsupportedMedia
from phasewatch.training import ModelConfig
from phasewatch.transformer import Transformer
from tests.trainer import small
from trainer.checkpointing import load_model, load_state, load_weights, save_state, save_weights
from trainer.loop import Recording, Trainer, TrainerState

MODEL = Transformer(ModelConfig(sublayers="afa", d_model=8, context=8, smeared_keys=True), 9, seed=5)


def trained() -> TrainerState:
    states: list[TrainerState] = []

    def keep(recording: Recording) -> None:
        states.append(recording.state())

    Trainer(small.config(), small.corpus()).run(keep)
    return states[-1]


def with_metadata(metadata: dict[str, str], tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    return safetensors.torch.save(tensors or {"x": torch.zeros(2)}, metadata)


def test_weights_survive_and_are_plain_safetensors() -> None:
    content = save_weights(MODEL)
    for weights in (load_weights(content), safetensors.torch.load(content)):
        assert weights.keys() == MODEL.state_dict().keys()
        assert all(torch.equal(weights[name], value) for name, value in MODEL.state_dict().items())


def test_a_model_is_rebuilt_from_its_weights_file_alone() -> None:
    tokens = torch.arange(8)[None]
    assert torch.equal(load_model(save_weights(MODEL))(tokens), MODEL(tokens))


def test_the_same_weights_give_the_same_bytes() -> None:
    assert len({save_weights(MODEL) for _ in range(5)}) == 1


def test_a_state_survives() -> None:
    state = trained()
    read = load_state(save_state(state))
    assert (read.step, read.config, read.corpus_sha256) == (state.step, state.config, state.corpus_sha256)
    for mine, theirs in ((state.model, read.model), (state.optimizer, read.optimizer)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(state.random.torch, read.random.torch)
    assert (state.random.numpy, state.random.python) == (read.random.numpy, read.random.python)


def test_the_random_states_of_many_devices_keep_their_order() -> None:
    state = trained()
    cuda = tuple(torch.full((4,), index, dtype=torch.uint8) for index in range(12))
    many = dataclasses.replace(state, random=dataclasses.replace(state.random, cuda=cuda))
    assert [int(device[0]) for device in load_state(save_state(many)).random.cuda] == list(range(12))


def pickled() -> bytes:
    return pickle.dumps(MODEL.state_dict())


def torch_saved() -> bytes:
    file = io.BytesIO()
    torch.save(MODEL.state_dict(), file)
    return file.getvalue()


@pytest.mark.parametrize("load", [load_weights, load_model, load_state])
@pytest.mark.parametrize("make", [pickled, torch_saved])
def test_a_pickle_is_never_read(load: object, make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make()  # type: ignore[operator]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "loads"), (pickle, "load"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    with pytest.raises(UnsupportedMedia, match="pickle"):
        load(content)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes that are no safetensors file"),
        (b"hello, world, this is text", "no safetensors file"),
        (save_weights(MODEL)[:-1], "no safetensors file"),
        (safetensors.torch.save({"x": torch.zeros(2)}), "does not say what it holds"),
        (with_metadata({"phasewatch": "{"}), "does not say what it holds"),
        (with_metadata({"phasewatch": "[1]"}), "a list, not an object"),
    ],
    ids=["empty", "text", "cut", "no metadata", "no JSON", "a list"],
)
def test_other_bytes_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load_weights(content)


def test_weights_of_another_model_than_they_say_are_refused() -> None:
    other = {**MODEL.state_dict(), "embedding": torch.zeros(3, 8)}
    with pytest.raises(InvalidInput, match="embedding"):
        load_model(with_metadata({"phasewatch": json.dumps(MODEL.spec())}, other))


def test_weights_are_no_state_and_a_state_no_model() -> None:
    with pytest.raises(InvalidInput, match=r"not a phasewatch\.trainer_state file: .*kind"):
        load_state(save_weights(MODEL))
    with pytest.raises(ModelNotRebuilt, match=r"phasewatch\.trainer_state"):
        load_model(save_state(trained()))


def test_a_state_without_its_random_state_is_refused() -> None:
    content = save_state(trained())
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors = {name: value for name, value in load_weights(content).items() if name != "random/torch"}
    with pytest.raises(InvalidInput, match="step 12 has no random state"):
        load_state(with_metadata(metadata, tensors))
