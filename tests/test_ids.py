"""Run ids against RFC 9562's layout of a UUIDv7, written out as bits."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

import pytest

from phasewatch.ids import new_id


def bits(value: UUID) -> str:
    return f"{value.int:0128b}"


def test_version_and_variant() -> None:
    for _ in range(200):
        value = new_id()
        assert (value.version, value.variant) == (7, RFC_4122)
        assert bits(value)[48:52] == "0111"
        assert bits(value)[64:66] == "10"


def test_the_first_48_bits_are_unix_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    milliseconds = int(bits(new_id())[:48], 2)
    assert before <= milliseconds <= time.time_ns() // 1_000_000


def test_the_rfcs_own_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9562, appendix A.6: 22 February 2022 19:22:22 UTC, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F."""
    draws = {12: 0xCC3, 62: 0x18C4DC0C0C07398F}
    monkeypatch.setattr("phasewatch.ids.time.time_ns", lambda: 0x017F22E279B0 * 1_000_000)
    monkeypatch.setattr("phasewatch.ids.secrets.randbits", draws.__getitem__)
    assert new_id() == UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")


def test_every_other_bit_is_random() -> None:
    values = [bits(new_id()) for _ in range(400)]
    free = [*range(52, 64), *range(66, 128)]
    assert all({value[place] for value in values} == {"0", "1"} for place in free)


def test_later_ids_sort_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_700_000_000_000, 1_700_000_001_000))
    monkeypatch.setattr("phasewatch.ids.time.time_ns", lambda: next(clock) * 1_000_000)
    made = [new_id() for _ in range(1_000)]
    assert made == sorted(made)
    assert [str(value) for value in made] == sorted(map(str, made))


def test_none_is_made_twice() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_id(), range(20_000)))
    assert len(set(made)) == 20_000
