"""Probe sets in the database: what is stored comes back as the same probe set, under its own hash."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from phasewatch.errors import NotFound
from phasewatch.probes import ProbeSet
from phasewatch.storage.database import Database
from phasewatch.storage.probe_sets import get_run_slice, list_probe_sets, list_slices, load_probe_set, put_probe_set
from tests.conftest import MakeRun, make_probes

TEXT = np.random.default_rng(0).integers(0, 512, (8, 64), dtype=np.int32)
PIECES = (*(f"piece {number}" for number in range(508)), "\x00", "\udc80", "日本", "\n")


def put(database: Database, probes: ProbeSet) -> bool:
    with database.transaction() as session:
        return put_probe_set(session, probes)


def test_comes_back_as_it_was(database: Database) -> None:
    probes = ProbeSet.from_tokens(TEXT, vocab_size=512, pieces=PIECES).with_slice("code", TEXT[:2, :10])
    put(database, probes)
    with database.reading() as session:
        found = load_probe_set(session, probes.sha256)
    assert found.sha256 == probes.sha256
    assert (found.vocab_size, found.pieces, found.absent) == (512, PIECES, probes.absent)
    for name, part in probes.slices.items():
        assert found.slices[name].layout == part.layout
        np.testing.assert_array_equal(found.slices[name].tokens, part.tokens)


def test_the_largest_token_id_fits(database: Database) -> None:
    probes = ProbeSet().with_slice("mine", np.array([[0, 2**31 - 1]]))
    put(database, probes)
    with database.reading() as session:
        assert load_probe_set(session, probes.sha256).slices["mine"].tokens.max() == 2**31 - 1


def test_reasons_for_absent_slices_are_kept(database: Database) -> None:
    probes = ProbeSet.from_tokens(TEXT[:, :8], vocab_size=512)
    put(database, probes)
    with database.reading() as session:
        assert load_probe_set(session, probes.sha256).absent == probes.absent != {}


def test_the_same_again_changes_nothing(database: Database) -> None:
    probes = make_probes()
    assert [put(database, probes) for _ in range(2)] == [True, False]


def test_stored_by_many_at_once_it_is_stored_once_and_whole_for_each(database: Database) -> None:
    """Whoever comes second finds the slices there, too."""
    probes, barrier = make_probes(), threading.Barrier(4)

    def store(_: int) -> tuple[bool, int]:
        barrier.wait()
        with database.transaction() as session:
            return put_probe_set(session, probes), len(list_slices(session, probes.sha256))

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(store, range(4))) == [(False, 1), (False, 1), (False, 1), (True, 1)]


def test_lists_in_pages(database: Database) -> None:
    ids = sorted(make_probes(seed=seed).sha256 for seed in range(5))
    for seed in range(5):
        put(database, make_probes(seed=seed))
    with database.reading() as session:
        page = [row.id for row in list_probe_sets(session, limit=2)]
        rest = [row.id for row in list_probe_sets(session, after=page[-1])]
    assert page + rest == ids


def test_what_is_missing_is_named(database: Database, make_run: MakeRun) -> None:
    run_id, without = make_run(probes=make_probes()), make_run()
    with database.reading() as session:
        with pytest.raises(NotFound, match="probe set abc does not exist"):
            load_probe_set(session, "abc")
        with pytest.raises(NotFound, match=f"run {run_id} has no slice 'repeats'; its probe set has text"):
            get_run_slice(session, run_id, "repeats")
        with pytest.raises(NotFound, match=f"run {without} has no probe set yet"):
            get_run_slice(session, without, "text")
