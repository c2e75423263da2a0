"""The tokens that move with a change: which they are, in which text, and what they cost before and after."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
import pytest

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.errors import NotFound
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.change_tokens import CHECKPOINTS, CONTEXT_TOKENS, MovedToken, moved_tokens
from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.phase_changes import list_phase_changes, store_scan
from tests.conftest import MakeRun

IDS = np.arange(60, dtype=np.int32).reshape(2, 30)
PIECES = tuple(f"<{number}>" for number in range(60))
STEPS = tuple(range(0, 200, 10))
CHANGE = PhaseChange(85, 100, 115, "level", "drop", 1.0, "nats", "mean_loss:text", tokens=np.array([29, 0, 57]))


def losses(step: int) -> Any:
    """(2, 29): the flat index plus, until step 100, 1,000; whole numbers of 12 bits come back as they were."""
    return (np.arange(58).reshape(2, 29) + (1_000 if step < 100 else 0)).astype(np.float32)


@pytest.fixture
def moved(database: Database, make_run: MakeRun) -> Any:
    """Stores a run with a change, then answers with its tokens."""

    def stored(change: PhaseChange = CHANGE, pieces: tuple[str, ...] | None = PIECES, **options: Any) -> Any:
        probes = ProbeSet(slices={"text": Slice(IDS, Layout("text"))}, vocab_size=60, pieces=pieces)
        run_id = make_run(probes=probes)
        with database.transaction() as session:
            for step in STEPS:
                values = losses(step)
                values[0, 0] = np.nan if step < 85 else values[0, 0]
                put_losses(session, run_id, "text", step, values)
            store_scan(session, run_id, [change], STEPS, detector_version=1, ended=True, slice_name="text")
        with database.reading() as session:
            (row,) = list_phase_changes(session, run_id)
            return moved_tokens(session, row.id, **options)

    return stored


def test_most_certain_first_with_their_text_and_losses(moved: Any) -> None:
    first, second, last = moved()
    assert first == MovedToken(
        token=29,
        sequence=1,
        position=1,
        token_id=31,
        text="<31>",
        before="<30>",
        after="".join(f"<{number}>" for number in range(32, 32 + CONTEXT_TOKENS)),
        loss_before=1_029.0,
        loss_after=29.0,
    )
    assert (second.token, second.sequence, second.position, second.token_id) == (0, 0, 1, 1)
    assert (second.loss_before, second.loss_after) == (None, 0.0)  # it was NaN at every step before
    assert (last.position, last.after) == (29, "")
    assert last.before == "".join(f"<{number}>" for number in range(59 - CONTEXT_TOKENS, 59))


def test_losses_are_means_over_the_nearest_checkpoints(moved: Any) -> None:
    (token,) = moved(CHANGE.evolve(start_step=120, step=130, end_step=140, tokens=np.array([10])))
    before = [1_010 if step < 100 else 10 for step in STEPS if step < 120][-CHECKPOINTS:]
    assert token.loss_before == np.mean(before)


def test_a_change_that_is_not_over_is_seen_from_its_middle(moved: Any) -> None:
    (token,) = moved(CHANGE.evolve(end_step=None, tokens=np.array([10])))
    assert token.loss_after == 10.0


def test_pages(moved: Any) -> None:
    assert [token.token for token in moved(first=1, limit=1)] == [0]
    assert moved(first=3) == []


def test_gained_and_lost_most_among_its_tokens(moved: Any) -> None:
    assert [token.token for token in moved(order="gained")] == [29, 57]  # token 0 has no loss before
    assert moved(order="lost") == []
    late = CHANGE.evolve(tokens=None, start_step=5, step=10, end_step=15, direction="rise")
    assert moved(late, order="lost") == []


def test_gained_most_of_all_tokens_where_a_change_names_none(moved: Any) -> None:
    found = moved(CHANGE.evolve(tokens=None), order="gained", limit=100)
    assert sorted(token.token for token in found) == list(range(1, 58))
    gains = [token.loss_before - token.loss_after for token in found]
    assert gains == sorted(gains, reverse=True) == [1_000.0] * 57
    assert [token.token for token in moved(CHANGE.evolve(tokens=None), order="gained", first=56)] == [57]


def test_without_pieces_there_is_no_text(moved: Any) -> None:
    token = moved(pieces=None)[0]
    assert (token.text, token.before, token.after, token.token_id) == (None, None, None, 31)


def test_a_change_of_everything_names_no_tokens(moved: Any) -> None:
    assert moved(CHANGE.evolve(tokens=None)) == []


def test_an_unknown_change_is_named(database: Database) -> None:
    with database.reading() as session, pytest.raises(NotFound, match="does not exist"):
        moved_tokens(session, UUID(int=0))
