"""The vocabulary: lossless, and the merges of byte-pair encoding as its definition says, however slowly."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest

from phasewatch.errors import InvalidInput
from tests.trainer.small import documents
from trainer.vocabulary import Vocabulary

TEXT = b"".join(document.content for document in documents())
WORD = re.compile(rb" ?[A-Za-z]+|\n *| ?[^\sA-Za-z]+|\s")


def joined(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    for i in range(len(word) - 1):
        if (word[i], word[i + 1]) == pair:
            return [*word[:i], word[i] + word[i + 1], *joined(word[i + 2 :], pair)]
    return word


def plain_merges(text: bytes, n_merges: int) -> tuple[list[bytes], list[list[bytes]]]:
    """The pieces merged, and the words at the end, all counts taken anew before every merge."""
    words = [[bytes([byte]) for byte in word] for word in WORD.findall(text)]
    ids = {bytes([byte]): byte for byte in range(256)}
    for token in range(256, 256 + n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        words = [joined(word, best) for word in words]
        ids[best[0] + best[1]] = token
    return [piece for piece, token in ids.items() if token >= 256], words


def test_merges_and_tokens_are_those_of_the_definition() -> None:
    vocabulary = Vocabulary.learn([TEXT], 296)
    pieces, words = plain_merges(TEXT, 40)
    assert list(vocabulary.pieces[256:]) == pieces
    assert [vocabulary.pieces[token] for token in vocabulary.encode(TEXT)] == list(chain.from_iterable(words))


def test_overlapping_pairs_are_joined_from_the_left() -> None:
    vocabulary = Vocabulary.learn([b"aaaaa aaaaa"], 257)
    assert vocabulary.pieces[256] == b"aa"
    assert vocabulary.encode(b"aaaaa").tolist() == [256, 256, 97]


@pytest.mark.parametrize(
    "text",
    [b"", b"def f(self):\n    return 1\n", "naïve – 日本語\r\n\t\0".encode(), bytes(range(256)), b"x" * 999, b" " * 99],
    ids=["empty", "code", "unicode", "all bytes", "long word", "spaces"],
)
def test_every_text_survives(text: bytes) -> None:
    vocabulary = Vocabulary.learn([TEXT], 300)
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    assert tokens.dtype == np.uint16
    assert not len(tokens) or tokens.max() < len(vocabulary)


def test_a_larger_vocabulary_needs_fewer_tokens() -> None:
    lengths = [len(Vocabulary.learn([TEXT], size).encode(TEXT)) for size in (256, 280, 320)]
    assert lengths[0] == len(TEXT)
    assert lengths[0] > lengths[1] > lengths[2]


def test_the_order_of_documents_does_not_matter() -> None:
    contents = [document.content for document in documents()]
    assert Vocabulary.learn(contents, 300) == Vocabulary.learn(contents[::-1], 300)


def test_a_text_with_few_pairs_gives_a_smaller_vocabulary() -> None:
    vocabulary = Vocabulary.learn([b"ab ab"], 512)
    assert vocabulary.pieces[256:] == (b"ab",)
    assert len(vocabulary) == 257


def test_pieces_are_shown_as_text() -> None:
    vocabulary = Vocabulary.learn(["é é é".encode()], 300)
    assert vocabulary.texts[ord("a")] == "a"
    assert vocabulary.texts[0xC3] == "\\xc3"
    assert "é" in vocabulary.texts


@pytest.mark.parametrize("size", [0, 255, 65_537])
def test_a_size_out_of_range_is_named(size: int) -> None:
    with pytest.raises(InvalidInput, match=f"{size} pieces"):
        Vocabulary.learn([TEXT], size)
