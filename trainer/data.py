"""Text to tokens: where a run's documents come from, which are held out, which batch belongs to which step.

Separate from the loop, which sees token ids alone. Everything here is a function of the text, the settings and the
step: two runs on the same text share their held-out windows whatever their model or seed, and the batch of step 1,000
can be had without drawing the 999 before it, so a resume needs no state of the data but the step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from phasewatch.errors import InvalidInput
from phasewatch.probes import ProbeSet
from phasewatch.training import DataConfig
from trainer.vocabulary import Tokens, Vocabulary

HELD_OUT_SHARE: Final = 0.04  # of the documents
LEARN_FROM_BYTES: Final = 4_000_000  # of text that the vocabulary is learnt from; more changes little and takes longer
CACHE_VERSION: Final = 1
# Folders of the standard library that are not its sources: packages of others, tests, and tables made by machine.
_NOT_SOURCES: Final = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One file's text; its name decides whether it is held out."""

    name: str
    content: bytes


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as tokens: `train` (n_tokens,) end to end, and one array for each held-out document."""

    vocabulary: Vocabulary
    train: Tokens
    held_out: tuple[Tokens, ...]

    @property
    def sha256(self) -> str:
        """Content hash of all tokens, by which a resumed run knows that it goes on with the same text."""
        digest = hashlib.sha256(json.dumps(self.vocabulary.merges).encode())
        for tokens in (self.train, *self.held_out):
            digest.update(len(tokens).to_bytes(8, "little"))
            digest.update(tokens.astype("<u2", copy=False).tobytes())
        return digest.hexdigest()

    def batch(self, seed: int, step: int, batch_size: int, context: int) -> npt.NDArray[np.int64]:
        """The windows (batch_size, context + 1) that the update after `step` learns from, uniform over the text.

        Raises InvalidInput where the text is shorter than one window.
        """
        n_starts = len(self.train) - context
        if n_starts < 1:
            raise InvalidInput(f"the training text has {len(self.train)} tokens, a window needs {context + 1}")
        starts = np.random.default_rng([seed, step]).integers(0, n_starts, batch_size)
        windows: npt.NDArray[np.int64] = self.train[starts[:, None] + np.arange(context + 1)].astype(np.int64)
        return windows

    def probe_set(self, n_sequences: int, context: int) -> ProbeSet:
        """The probe set of every run on this text: `n_sequences` held-out windows, and the random slices.

        Each document gives one window before any gives a second. Raises InvalidInput where there are too few.
        """
        rng = np.random.default_rng(0)
        per_document = [self._windows(tokens, context, rng) for tokens in self.held_out]
        rounds = range(max(map(len, per_document), default=0))
        windows = [windows[turn] for turn in rounds for windows in per_document if turn < len(windows)]
        if len(windows) < n_sequences:
            raise InvalidInput(
                f"the held-out text gives {len(windows)} windows of {context} tokens, not {n_sequences}; "
                "ask for fewer probe_sequences, a shorter context, or give more text"
            )
        return ProbeSet.from_tokens(
            np.stack(windows[:n_sequences]).astype(np.int32),
            vocab_size=len(self.vocabulary),
            pieces=self.vocabulary.texts,
        )

    @staticmethod
    def _windows(tokens: Tokens, context: int, rng: np.random.Generator) -> list[Tokens]:
        """The document's windows that do not overlap, in random order."""
        starts = rng.permutation(len(tokens) // context) * context
        return [tokens[start : start + context] for start in starts]


def load_corpus(config: DataConfig, cache_dir: Path | None = None) -> Corpus:
    """The corpus that the configuration names; from `cache_dir` where the same text was encoded there before.

    Raises InvalidInput where the path does not exist or holds no text.
    """
    documents = read_documents(config.text)
    if cache_dir is None:
        return encode_corpus(documents, config.vocabulary_size)
    path = cache_dir / f"corpus-{_fingerprint(documents, config)}.npz"
    cached = _read_corpus(path)
    if cached is not None:
        return cached
    corpus = encode_corpus(documents, config.vocabulary_size)
    try:
        _write_corpus(corpus, path)
    except OSError as error:  # a full disk costs the next run three seconds, not this one its life
        logger.warning("corpus not kept in %s: %s", cache_dir, error)
    return corpus


def read_documents(text: str) -> list[Document]:
    """The documents of `stdlib`, of a folder (its files, hidden ones left out) or of one file, ordered by name.

    One file is two documents: its last lines, about 4 %, are there to be held out. Files with a zero byte are no text.
    """
    if text == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        sources = (path for path in root.rglob("*.py") if not _NOT_SOURCES & set(path.relative_to(root).parts))
        return _of_folder(root, sources)
    path = Path(text).expanduser()
    if path.is_dir():
        return _of_folder(path, path.rglob("*"))
    if not path.is_file():
        raise InvalidInput(f"text {text!r} is neither 'stdlib' nor a file or folder that exists here")
    content = path.read_bytes()
    cut = content.find(b"\n", int(len(content) * (1 - HELD_OUT_SHARE))) + 1
    if not 0 < cut < len(content):
        raise InvalidInput(f"text {text!r} has {len(content)} bytes and no line to cut it at; give more text")
    return [Document(path.name, content[:cut]), Document(f"{path.name} (end)", content[cut:])]


def split(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """(training, held-out) documents; held out are 4 % of the bytes, or else the smallest document.

    The hash of its name decides when a document has its turn, so that a few more files hardly move the others. Raises
    InvalidInput with fewer than two documents.
    """
    if len(documents) < 2:
        raise InvalidInput(f"{len(documents)} documents with text; at least 2 are needed, one of them to hold out")
    left = HELD_OUT_SHARE * sum(len(document.content) for document in documents)
    held_out = set()
    for document in sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest()):
        if len(document.content) <= left:
            left -= len(document.content)
            held_out.add(document.name)
    held_out = held_out or {min(documents, key=lambda document: len(document.content)).name}
    return (
        [document for document in documents if document.name not in held_out],
        [document for document in documents if document.name in held_out],
    )


def encode_corpus(documents: Sequence[Document], vocabulary_size: int) -> Corpus:
    """The documents as tokens, the vocabulary learnt from those that are not held out."""
    train, held_out = split(documents)
    stride = -(-sum(len(document.content) for document in train) // LEARN_FROM_BYTES)
    vocabulary = Vocabulary.learn((document.content for document in train[::stride]), vocabulary_size)
    return Corpus(
        vocabulary,
        np.concatenate([vocabulary.encode(document.content) for document in train]),
        tuple(vocabulary.encode(document.content) for document in held_out),
    )


def _of_folder(root: Path, paths: Iterable[Path]) -> list[Document]:
    """The files among `paths` that hold text, by their name below `root`."""
    named = ((path.relative_to(root), path) for path in paths if path.is_file())
    visible = {name.as_posix(): path for name, path in named if not any(part.startswith(".") for part in name.parts)}
    documents = [Document(name, visible[name].read_bytes()) for name in sorted(visible)]
    return [document for document in documents if document.content and b"\0" not in document.content]


def _fingerprint(documents: Sequence[Document], config: DataConfig) -> str:
    settings = [CACHE_VERSION, config.vocabulary, config.vocabulary_size]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for document in documents:
        digest.update(json.dumps([document.name, len(document.content)]).encode())
        digest.update(document.content)
    return digest.hexdigest()


def _write_corpus(corpus: Corpus, path: Path) -> None:
    """Whole or not at all: several trainers may write the same one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        np.savez(
            unfinished,
            merges=np.array(corpus.vocabulary.merges, dtype=np.int32).reshape(-1, 2),
            train=corpus.train,
            held_out=np.concatenate(corpus.held_out),
            lengths=np.array([len(tokens) for tokens in corpus.held_out]),
        )
        unfinished.replace(path)


def _read_corpus(path: Path) -> Corpus | None:
    """None where there is no such file, or what is left of one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            merges = tuple((int(left), int(right)) for left, right in arrays["merges"])
            held_out = np.split(arrays["held_out"], np.cumsum(arrays["lengths"])[:-1])
            return Corpus(Vocabulary(merges), arrays["train"], tuple(held_out))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None
