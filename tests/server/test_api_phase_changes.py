"""Phase changes over HTTP: every field the detector gave, the tokens in their text, and what people say of them."""

from __future__ import annotations

import io
from uuid import UUID, uuid4

import numpy as np
import pytest
from fastapi.testclient import TestClient

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.probes import ProbeSet
from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.phase_changes import list_phase_changes, store_scan
from tests.conftest import MakeRun

STEPS = list(range(0, 160, 10))
TOKENS = np.array([9, 2, 11])
PIECES = tuple(f"<{token}>" for token in range(50))
CHANGE = PhaseChange(
    start_step=40,
    step=60,
    end_step=80,
    kind="level",
    direction="drop",
    effect=1.5,
    unit="nats",
    measure="mean_loss:text",
    start_interval=(35.0, 45.0),
    tokens=TOKENS,
    heads=((1, 0), (1, 1)),
    signs={"icl_score": "present", "repeat_gain": "not measured"},
    induction=True,
    q_value=0.01,
    q_scope="16 times",
    n_checkpoints_inside=5,
    coincides_with=("warm-up ends",),
    remarks=("Few documents.",),
)
PROBES = ProbeSet(slices=ProbeSet.from_tokens(np.arange(16).reshape(2, 8) + 10).slices, vocab_size=50, pieces=PIECES)


@pytest.fixture
def run(make_run: MakeRun) -> UUID:
    """A run whose probe set has texts."""
    return make_run(probes=PROBES)


@pytest.fixture
def change(database: Database, run: UUID) -> str:
    """The id of a stored change; each token's loss falls from 5 to 1 at step 60."""
    with database.transaction() as session:
        for step in STEPS:
            values = np.where(np.arange(14) % 2, 5.0 if step < 60 else 1.0, 3.0).astype(np.float32)
            if step == 30:
                values[9] = np.nan
            put_losses(session, run, "text", step, values)
        other = CHANGE.evolve(start_step=100, step=120, end_step=None, induction=False, tokens=None, heads=())
        store_scan(session, run, [CHANGE, other], STEPS, detector_version=3, ended=False, slice_name="text")
    with database.reading() as session:
        return str(list_phase_changes(session, run)[0].id)


def test_a_change_carries_everything_the_detector_said(client: TestClient, run: UUID, change: str) -> None:
    found = client.get(f"/api/v1/phase-changes/{change}").json()
    expected = {
        "id": change,
        "run": str(run),
        "state": "confirmed",
        "review": None,
        "note": None,
        "measure": "mean_loss:text",
        "kind": "level",
        "direction": "drop",
        "induction": True,
        "start_step": 40,
        "step": 60,
        "end_step": 80,
        "start_interval": [35.0, 45.0],
        "step_interval": None,
        "end_interval": None,
        "effect": 1.5,
        "unit": "nats",
        "q_value": 0.01,
        "q_scope": "16 times",
        "slice": "text",
        "n_tokens": 3,
        "heads": [[1, 0], [1, 1]],
        "signs": {"icl_score": "present", "repeat_gain": "not measured"},
        "n_checkpoints_inside": 5,
        "coincides_with": ["warm-up ends"],
        "remarks": ["Few documents."],
        "explanation": CHANGE.explain(),
        "detector_version": 3,
        "first_seen_step": 150,
        "last_seen_step": 150,
    }
    assert {name: found[name] for name in expected} == expected
    assert set(found) == {*expected, "evidence", "created_at", "updated_at"}


def test_changes_are_listed_by_step_and_withdrawn_ones_when_asked_for(
    client: TestClient, database: Database, run: UUID, change: str
) -> None:
    path = f"/api/v1/runs/{run}/phase-changes"
    states = [(item["step"], item["state"], item["end_step"]) for item in client.get(path).json()["items"]]
    assert states == [(60, "confirmed", 80), (120, "provisional", None)]
    with database.transaction() as session:
        store_scan(session, run, [CHANGE], STEPS, detector_version=3, ended=False, slice_name="text")
    assert [item["step"] for item in client.get(path).json()["items"]] == [60]
    everything = client.get(path, params={"withdrawn": "true"}).json()["items"]
    assert [item["state"] for item in everything] == ["confirmed", "withdrawn"]


def test_an_empty_list_has_its_reason(client: TestClient, database: Database, run: UUID) -> None:
    path = f"/api/v1/runs/{run}/phase-changes"
    assert client.get(path).json() == {"items": [], "next": None, "notes": ["the run has not been scanned yet"]}
    for notes in (["the run has 3 checkpoints, a change needs at least 8"], []):
        with database.transaction() as session:
            store_scan(session, run, [], STEPS[:3], detector_version=3, ended=False, notes=notes)
        assert client.get(path).json() == {"items": [], "next": None, "notes": notes}


def test_a_review_changes_what_was_sent_and_nothing_else(client: TestClient, change: str) -> None:
    path = f"/api/v1/phase-changes/{change}"
    before = client.get(path).json()
    assert client.patch(path, json={"review": "acknowledged"}).json()["review"] == "acknowledged"
    noted = client.patch(path, json={"note": "induction heads\x00"}).json()
    assert (noted["review"], noted["note"]) == ("acknowledged", "induction heads\ufffd")
    taken_back = client.patch(path, json={"review": None, "note": None}).json()
    assert taken_back == before | {"updated_at": taken_back["updated_at"]}
    assert client.patch(path, json={"review": "loved"}).status_code == 422


def test_tokens_come_most_certain_first_in_their_text_with_both_losses(client: TestClient, change: str) -> None:
    path = f"/api/v1/phase-changes/{change}/tokens"
    first = client.get(path, params={"limit": 2}).json()
    second = client.get(path, params={"limit": 2, "cursor": first["next"]}).json()
    assert second["next"] is None
    items = first["items"] + second["items"]
    assert [item["token"] for item in items] == TOKENS.tolist()
    assert items[0] == {
        "token": 9,
        "sequence": 1,
        "position": 3,
        "token_id": 21,
        "text": "<21>",
        "before": "<18><19><20>",
        "after": "<22><23><24><25>",
        "loss_before": pytest.approx(5.0, rel=1e-3),
        "loss_after": pytest.approx(1.0, rel=1e-3),
    }
    assert (items[1]["sequence"], items[1]["position"]) == (0, 3)
    assert items[1]["loss_before"] == items[1]["loss_after"] == pytest.approx(3.0, rel=1e-3)


def test_a_change_of_all_tokens_lists_none(client: TestClient, run: UUID, change: str) -> None:
    other = client.get(f"/api/v1/runs/{run}/phase-changes").json()["items"][1]
    assert other["n_tokens"] is None
    assert client.get(f"/api/v1/phase-changes/{other['id']}/tokens").json() == {"items": [], "next": None}


def test_tokens_by_what_they_gained(client: TestClient, run: UUID, change: str) -> None:
    path = f"/api/v1/phase-changes/{change}/tokens"
    gained = client.get(path, params={"order": "gained"}).json()["items"]
    assert [item["token"] for item in gained] == [9, 11]
    assert client.get(path, params={"order": "lost"}).json()["items"] == []
    other = client.get(f"/api/v1/runs/{run}/phase-changes").json()["items"][1]["id"]
    of_all = client.get(f"/api/v1/phase-changes/{other}/tokens", params={"order": "gained"}).json()["items"]
    assert sorted(item["token"] for item in of_all) == list(range(1, 14, 2))  # one of its five checkpoints is before 60
    assert client.get(path, params={"order": "best"}).status_code == 422


def test_all_tokens_of_a_change_as_npy(client: TestClient, change: str) -> None:
    answer = client.get(f"/api/v1/phase-changes/{change}/tokens", headers={"Accept": "application/x-npy"})
    found = np.load(io.BytesIO(answer.content))
    assert (found.tolist(), found.dtype) == (TOKENS.tolist(), np.int32)


def test_groups_across_a_change(client: TestClient, change: str) -> None:
    groups = f"/api/v1/probe-sets/{PROBES.sha256}/groups"
    for name, group in (("odd", {"ids": [21, 23]}), ("early", {"positions": [1, 3]})):
        assert client.post(groups, json={"name": name, "group": group}).status_code == 201
    found = client.get(f"/api/v1/phase-changes/{change}/groups").json()
    assert (found["slice"], found["contexts"]) == ("text", [])
    early, odd = found["groups"]
    assert odd == {
        "name": "odd",
        "measure": "token_group:odd",
        "n_tokens": 2,
        "n_moved": 2,
        "expected": pytest.approx(3 * 2 / 14),
        "loss_before": pytest.approx(5.0, rel=1e-3),
        "loss_after": pytest.approx(1.0, rel=1e-3),
    }
    # tokens 0, 1, 2 and 7, 8, 9: half of them are odd
    assert (early["n_tokens"], early["n_moved"]) == (6, 2)
    assert (early["loss_before"], early["loss_after"]) == (pytest.approx(4, rel=1e-3), pytest.approx(2, rel=1e-3))


@pytest.mark.parametrize("what", ["", "/tokens", "/groups"])
def test_an_unknown_change_is_404(client: TestClient, what: str) -> None:
    assert client.get(f"/api/v1/phase-changes/{uuid4()}{what}").status_code == 404
