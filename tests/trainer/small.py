"""A text and a run small enough for a test: a hundred updates take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from phasewatch.training import TrainingConfig
from trainer.data import Corpus, Document, encode_corpus

WORDS = "if else return value self name list item for in range print open close read write file path data".split()


def documents(n_documents: int = 30, n_words: int = 150) -> list[Document]:
    """Documents of random words, some of them repeated line by line; the same every time."""
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 6)) for _ in range(40)]
    return [
        Document(f"{index:02d}.txt", "\n".join(rng.choice(lines, n_words // 6)).encode() + b"\n")
        for index in range(n_documents)
    ]


def write_folder(folder: Path, **size: int) -> Path:
    """The documents as files of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents(**size):
        (folder / document.name).write_bytes(document.content)
    return folder


def corpus() -> Corpus:
    return encode_corpus(documents(), 280)


def config(**values: Any) -> TrainingConfig:
    """Twelve updates of a two-layer model, recorded at steps 0, 5, 10 and 12."""
    small = {
        "name": "small",
        "seed": 7,
        "model": {"d_model": 8, "n_heads": 2, "context": 16},
        "data": {"vocabulary_size": 280},
        "optimizer": {"warmup_steps": 3},
        "batch_size": 4,
        "steps": 12,
        "recording": {"schedule": {"log": 0, "every": 5, "windows": []}, "probe_sequences": 4},
        "device": "cpu",
    }
    return TrainingConfig.model_validate(small | values)
