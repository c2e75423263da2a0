"""Every process of the service and its database killed in turn; bench/chaos.py does it for longer."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import weather


def test_nothing_acknowledged_is_lost_doubled_or_left_undone_whatever_dies(tmp_path: Path) -> None:
    said: list[str] = []
    found = weather(tmp_path, seconds=12.0, every_s=2.0, steps=30, seed=0, say=said.append)
    assert sum(found.kills.values()) == 6
    assert (found.lost, found.differing, found.doubled, found.open_jobs) == ([], [], [], []), said
    assert found.n_values > 150
