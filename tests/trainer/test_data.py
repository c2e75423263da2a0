"""Text to tokens: what is read, what is held out, and that batches and windows depend on their arguments alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phasewatch.errors import InvalidInput
from phasewatch.training import DataConfig
from tests.trainer import small
from trainer.data import Corpus, Document, load_corpus, read_documents, split
from trainer.vocabulary import Vocabulary


def contains(haystack: np.ndarray, needle: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(haystack, len(needle))
    return bool((windows == needle).all(axis=1).any())


class TestReading:
    def test_the_standard_library_is_sources_alone(self) -> None:
        documents = read_documents("stdlib")
        names = {document.name for document in documents}
        assert {"json/decoder.py", "argparse.py"} <= names
        assert all(name.endswith(".py") for name in names)
        assert not any("test" in Path(name).parts or "site-packages" in name for name in names)
        assert sum(len(document.content) for document in documents) > 5_000_000

    def test_a_folder_is_its_text_files_by_name(self, tmp_path: Path) -> None:
        for name, content in {"b/c.md": b"c", "a.txt": b"a", "empty": b"", ".git/x": b"x", "image": b"\x89\0"}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        assert read_documents(str(tmp_path)) == [Document("a.txt", b"a"), Document("b/c.md", b"c")]

    def test_a_file_is_held_out_at_its_end(self, tmp_path: Path) -> None:
        (tmp_path / "book").write_bytes(b"".join(b"line %d\n" % line for line in range(1000)))
        train, held_out = split(read_documents(str(tmp_path / "book")))
        assert train[0].content + held_out[0].content == (tmp_path / "book").read_bytes()
        assert 0.03 < len(held_out[0].content) / len(train[0].content) < 0.05
        assert held_out[0].content.startswith(b"line")

    @pytest.mark.parametrize(("content", "message"), [(None, "neither 'stdlib' nor a file"), (b"one line", "no line")])
    def test_what_cannot_be_read_is_named(self, tmp_path: Path, content: bytes | None, message: str) -> None:
        if content is not None:
            (tmp_path / "text").write_bytes(content)
        with pytest.raises(InvalidInput, match=message):
            read_documents(str(tmp_path / "text"))


class TestSplit:
    def test_four_percent_of_the_bytes_are_held_out(self) -> None:
        documents = [Document(str(index), b"x" * (100 + index)) for index in range(1000)]
        train, held_out = split(documents)
        held_out_bytes, bytes_of_all = (sum(len(one.content) for one in part) for part in (held_out, documents))
        assert 0.039 < held_out_bytes / bytes_of_all <= 0.04
        assert sorted(train + held_out, key=documents.index) == documents

    def test_a_new_document_hardly_moves_the_others(self) -> None:
        documents = [Document(str(index), b"x" * 100) for index in range(1000)]
        before, after = ({document.name for document in split(part)[1]} for part in (documents[:-1], documents))
        assert len(before ^ after) <= 2

    def test_where_all_are_large_the_smallest_is_held_out(self) -> None:
        documents = [Document("a", b"x" * 50), Document("b", b"x" * 20), Document("c", b"x" * 30)]
        assert [document.name for document in split(documents)[1]] == ["b"]

    def test_one_document_cannot_be_split(self) -> None:
        with pytest.raises(InvalidInput, match="1 documents"):
            split([Document("a", b"x")])


class TestBatches:
    def test_a_batch_is_windows_of_the_text_and_depends_on_seed_and_step_alone(self) -> None:
        corpus = small.corpus()
        first, again = corpus.batch(1, 5, 8, 16), small.corpus().batch(1, 5, 8, 16)
        assert first.shape == (8, 17)
        np.testing.assert_array_equal(first, again)
        assert all(contains(corpus.train, window) for window in first)
        assert not np.array_equal(first, corpus.batch(1, 6, 8, 16))
        assert not np.array_equal(first, corpus.batch(2, 5, 8, 16))

    def test_every_window_of_the_text_is_drawn(self) -> None:
        corpus = Corpus(Vocabulary(()), np.arange(6, dtype=np.uint16), ())
        starts = corpus.batch(0, 0, 300, 3)[:, 0]
        np.testing.assert_array_equal(np.unique(starts), [0, 1, 2])
        assert np.bincount(starts).min() > 70

    def test_a_text_shorter_than_a_window_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="6 tokens, a window needs 7"):
            Corpus(Vocabulary(()), np.arange(6, dtype=np.uint16), ()).batch(0, 0, 1, 6)


class TestProbeSet:
    def test_windows_are_held_out_text_one_from_each_document_first(self) -> None:
        corpus = small.corpus()
        n_documents = len(corpus.held_out)
        tokens = corpus.probe_set(n_documents + 1, 16).slices["text"].tokens
        assert n_documents > 0
        assert all(contains(held_out, row) for held_out, row in zip(corpus.held_out, tokens, strict=False))

    def test_windows_do_not_overlap(self) -> None:
        held_out = tuple(np.arange(start, start + 70, dtype=np.uint16) for start in (0, 1000))
        corpus = Corpus(Vocabulary(tuple((0, 0) for _ in range(2000))), np.arange(9, dtype=np.uint16), held_out)
        tokens = corpus.probe_set(14, 10).slices["text"].tokens
        assert len(np.unique(tokens)) == tokens.size

    def test_it_is_the_same_for_every_run_on_the_text_and_has_repeats(self) -> None:
        first, again = small.corpus().probe_set(4, 32), small.corpus().probe_set(4, 32)
        assert first.sha256 == again.sha256
        assert {"text", "repeats"} <= set(first.slices)
        assert first.pieces == small.corpus().vocabulary.texts

    def test_too_little_held_out_text_names_both_numbers(self) -> None:
        with pytest.raises(InvalidInput, match=r"gives \d+ windows of 16 tokens, not 4000"):
            small.corpus().probe_set(4000, 16)


class TestCache:
    def test_a_cached_corpus_is_the_same(self, tmp_path: Path) -> None:
        settings = DataConfig(text=str(small.write_folder(tmp_path / "text")), vocabulary_size=280)
        cache = tmp_path / "cache"
        plain, first, cached = load_corpus(settings), load_corpus(settings, cache), load_corpus(settings, cache)
        assert len(list((tmp_path / "cache").iterdir())) == 1
        assert plain.sha256 == first.sha256 == cached.sha256
        assert plain.vocabulary == cached.vocabulary

    def test_other_text_or_settings_are_another_entry(self, tmp_path: Path) -> None:
        folder = small.write_folder(tmp_path / "text")
        sizes = (280, 290)
        load_corpus(DataConfig(text=str(folder), vocabulary_size=sizes[0]), tmp_path / "cache")
        larger = load_corpus(DataConfig(text=str(folder), vocabulary_size=sizes[1]), tmp_path / "cache")
        (folder / "new.txt").write_bytes(b"new words\n")
        load_corpus(DataConfig(text=str(folder), vocabulary_size=sizes[1]), tmp_path / "cache")
        assert len(larger.vocabulary) == sizes[1]
        assert len(list((tmp_path / "cache").iterdir())) == 3

    @pytest.mark.parametrize("left", [b"", b"PK\x03\x04 and no more", b"not an archive"])
    def test_what_is_left_of_an_entry_is_written_anew(self, tmp_path: Path, left: bytes) -> None:
        settings = DataConfig(text=str(small.write_folder(tmp_path / "text")), vocabulary_size=280)
        corpus = load_corpus(settings, tmp_path / "cache")
        (entry,) = (tmp_path / "cache").iterdir()
        entry.write_bytes(left)
        assert load_corpus(settings, tmp_path / "cache").sha256 == corpus.sha256
        assert entry.read_bytes() != left

    def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = DataConfig(text=str(small.write_folder(tmp_path / "text")), vocabulary_size=280)
        (tmp_path / "cache").write_bytes(b"a file where a folder should be")
        assert load_corpus(settings, tmp_path / "cache").sha256 == load_corpus(settings).sha256
        assert "corpus not kept" in caplog.text

    def test_the_content_hash_is_of_every_token(self) -> None:
        corpus = small.corpus()
        changed = corpus.train.copy()
        changed[0] += 1
        assert Corpus(corpus.vocabulary, changed, corpus.held_out).sha256 != corpus.sha256
        assert Corpus(corpus.vocabulary, corpus.train, corpus.held_out[1:]).sha256 != corpus.sha256
