"""Token groups over HTTP: defined on a probe set, measured along the past and at every later checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

import server.patterns
from phasewatch.measures.groups import TokenGroup
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob, claim_jobs, enqueue
from phasewatch.storage.losses import get_losses
from phasewatch.storage.measurements import load_measure
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import NewRun, create_run, open_segment, set_probe_set
from phasewatch.storage.schema import TokenGroupMembers, TokenGroupRow
from server.jobs import Work
from server.jobs.scan import load_inputs
from server.jobs.work import run_work
from tests.conftest import make_probes
from tests.server.conftest import MakeClient, refused
from tests.server.small_run import SmallRun, small_probes

PIECES = tuple(f"{chr(97 + token % 26)}{token // 26 or ''}" for token in range(40))
CASES: dict[str, dict[str, Any]] = {
    "pattern": {"pattern": "[b-f]1?(.)"},
    "ids": {"ids": [1, 2, 3]},
    "late": {"positions": [10, 20]},
    "rare": {"frequency": [0.0, 0.02]},
    "again": {"induction_predictable": True},
}


@pytest.fixture
def run(database: Database, artifacts: Artifacts) -> SmallRun:
    return with_pieces(database, artifacts)


@pytest.fixture
def sqlite_run(sqlite_database: Database, artifacts: Artifacts) -> SmallRun:
    return with_pieces(sqlite_database, artifacts)


def with_pieces(database: Database, artifacts: Artifacts) -> SmallRun:
    """A run whose probe set has pieces, a slice of its user's, and trigrams that come again."""
    text = small_probes().slices["text"].tokens.copy()
    text[:, 12:] = text[:, :12]
    probes = dataclasses.replace(small_probes(), pieces=PIECES)
    slices = {**probes.slices, "text": dataclasses.replace(probes.slices["text"], tokens=text)}
    probes = dataclasses.replace(probes, slices=slices).with_slice("mine", text[:2, ::-1])
    with database.transaction() as session:
        created, _ = create_run(session, NewRun("small"))
        put_probe_set(session, probes)
        set_probe_set(session, created.id, probes.sha256)
    return SmallRun(database, artifacts, probes, created.id)


def address(run: SmallRun) -> str:
    return f"/api/v1/probe-sets/{run.probes.sha256}/groups"


def define(client: TestClient, run: SmallRun, name: str, group: dict[str, Any], status: int = 201) -> dict[str, Any]:
    answer = client.post(address(run), json={"name": name, "group": group})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def do_jobs(run: SmallRun) -> list[str]:
    """Does everything that waits; the kinds."""
    with run.database.transaction() as session:
        works = [Work.from_row(row, "me") for row in claim_jobs(session, "me", 100, 60.0)]
    for work in works:
        run_work(work, run.database, run.artifacts)
    return [work.kind for work in works]


def score(run: SmallRun, step: int) -> None:
    with run.database.transaction() as session:
        enqueue(session, NewJob(f"score:{step}", "score", run.run_id, 0, step))
    do_jobs(run)


def expected(run: SmallRun, group: dict[str, Any], step: int, slice_name: str = "text") -> float:
    part = run.probes.slices[slice_name]
    members = TokenGroup.model_validate(group).members(part, PIECES)
    with run.database.reading() as session:
        losses = get_losses(session, run.run_id, slice_name, step)
    return float(losses[members].mean(dtype=np.float64))


def test_a_group_is_measured_along_the_past_and_at_every_later_checkpoint(
    run: SmallRun, make_client: MakeClient
) -> None:
    client = make_client(run.database)
    for step in (0, 10, 20):
        run.record_losses(step)
    for name, group in CASES.items():
        made = define(client, run, name, group)
        assert made["measures"]["text"] == f"token_group:{name}"
        assert sum(made["n_members"].values()) > 0
    assert do_jobs(run) == ["token_groups"] * len(CASES)
    run.record_losses(30)
    score(run, 30)
    for name, group in CASES.items():
        found = client.get(f"/api/v1/runs/{run.run_id}/measures/token_group:{name}").json()
        assert found["steps"] == [0, 10, 20, 30]
        np.testing.assert_allclose(found["values"], [expected(run, group, step) for step in found["steps"]], rtol=1e-9)
        assert all(low < value < high for value, (low, high) in zip(found["values"], found["interval"], strict=True))


def test_the_past_is_measured_as_the_present_is(sqlite_run: SmallRun, make_client: MakeClient) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    run.record_losses(0)
    define(client, run, "late", CASES["late"])
    do_jobs(run)
    run.record_losses(10, seed=0)
    score(run, 10)
    with run.database.reading() as session:
        found = load_measure(session, run.run_id, "token_group:late")
    np.testing.assert_array_equal(found.values[0], found.values[1])
    assert found.interval is not None
    np.testing.assert_array_equal(found.interval[0], found.interval[1])


def test_a_users_slice_is_measured_under_a_name_of_its_own(sqlite_run: SmallRun, make_client: MakeClient) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    run.record_losses(0)
    made = define(client, run, "ids", CASES["ids"])
    assert made["measures"] == {"mine": "token_group:ids@mine", "text": "token_group:ids"}
    do_jobs(run)
    found = client.get(f"/api/v1/runs/{run.run_id}/measures/token_group:ids@mine").json()
    np.testing.assert_allclose(found["values"], [expected(run, CASES["ids"], 0, "mine")], rtol=1e-9)


def test_only_what_a_resume_left_visible_is_measured(sqlite_run: SmallRun, make_client: MakeClient) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    for step in (0, 10, 20):
        run.record_losses(step)
    with run.database.transaction() as session:
        open_segment(session, run.run_id, 10)
    run.record_losses(15)
    define(client, run, "late", CASES["late"])
    do_jobs(run)
    found = client.get(f"/api/v1/runs/{run.run_id}/measures/token_group:late").json()
    assert found["steps"] == [0, 15]


def test_losses_read_some_checkpoints_at_a_time_give_the_same(
    sqlite_run: SmallRun, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    for step in range(5):
        run.record_losses(step)
    monkeypatch.setattr("server.jobs.token_groups.VALUES_AT_ONCE", 1)
    define(client, run, "late", CASES["late"])
    do_jobs(run)
    found = client.get(f"/api/v1/runs/{run.run_id}/measures/token_group:late").json()
    np.testing.assert_allclose(found["values"], [expected(run, CASES["late"], step) for step in range(5)], rtol=1e-9)


def test_a_scan_is_handed_the_members_of_groups(sqlite_run: SmallRun, make_client: MakeClient) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    for step in range(0, 100, 10):
        run.record_losses(step)
    define(client, run, "late", CASES["late"])
    do_jobs(run)
    with run.database.reading() as session:
        inputs = load_inputs(run.database, session, run.run_id)
    members = TokenGroup.model_validate(CASES["late"]).members(run.probes.slices["text"])
    np.testing.assert_array_equal(inputs.groups["text"]["late"], members.ravel())
    assert set(inputs.groups) == {"text", "mine"}


def test_the_same_again_is_200_and_another_under_its_name_409(run: SmallRun, make_client: MakeClient) -> None:
    client = make_client(run.database)
    first = define(client, run, "late", CASES["late"])
    assert define(client, run, "late", CASES["late"], 200) == first
    refused(client.post(address(run), json={"name": "late", "group": {"positions": [1, 2]}}), 409, "'late'", "DELETE")
    assert client.get(address(run)).json() == {"items": [first], "next": None}
    assert client.get(f"{address(run)}/late").json() == first
    assert do_jobs(run) == ["token_groups"]


def test_a_deleted_group_takes_its_values_along_and_its_name_is_free(run: SmallRun, make_client: MakeClient) -> None:
    client = make_client(run.database)
    run.record_losses(0)
    run.record_losses(10)
    for _ in range(2):
        define(client, run, "late", CASES["late"])
        assert do_jobs(run) == ["token_groups"]
        assert client.delete(f"{address(run)}/late").json() == {"measurements": 4}  # of two slices
    define(client, run, "late", {"positions": [1, 2]})
    do_jobs(run)
    found = client.get(f"/api/v1/runs/{run.run_id}/measures/token_group:late").json()
    np.testing.assert_allclose(found["values"][0], expected(run, {"positions": [1, 2]}, 0), rtol=1e-9)
    refused(client.delete(f"{address(run)}/early"), 404, "'early'", "late")


def test_work_on_a_group_deleted_meanwhile_leaves_nothing(sqlite_run: SmallRun, make_client: MakeClient) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    run.record_losses(0)
    define(client, run, "late", CASES["late"])
    client.delete(f"{address(run)}/late")
    assert do_jobs(run) == ["token_groups"]
    assert client.get(f"/api/v1/runs/{run.run_id}/measures").json()["items"] == []


EMPTY: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"pattern": "a{9}"}, ("empty", "a{9}", "184 predicted tokens")),
    ({"ids": [99]}, ("empty", "1 ids")),
    ({"positions": [24, 99]}, ("empty", "24 to 99", "24 tokens")),
    ({"positions": [9, 3]}, ("empty", "9 to 3")),
    ({"positions": [0, 0]}, ("empty", "first has no loss")),
    ({"frequency": [0.9, 1.0]}, ("empty", "0.9")),
]
WRONG: list[dict[str, Any]] = [
    {},
    {"pattern": "("},
    {"pattern": "x" * 501},
    {"pattern": "a{99999999999}"},
    {"pattern": "(" * 240 + ")" * 240},
    {"pattern": "a\x00b"},
    {"pattern": "a", "ids": [1]},
    {"ids": [-1]},
    {"ids": [10**30]},
    {"ids": ["x"]},
    {"positions": [1]},
    {"positions": [0, 10**30]},
    {"frequency": [0.1, 2.0]},
    {"induction_predictable": False},
    {"colour": "red"},
]


def test_an_empty_or_unreadable_group_is_422_and_nothing_is_kept(sqlite_run: SmallRun, make_client: MakeClient) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    for group, words in EMPTY:
        refused(client.post(address(run), json={"name": "g", "group": group}), 422, *words)
    for group in WRONG:
        refused(client.post(address(run), json={"name": "g", "group": group}), 422)
    for name in ("", "a b", "a/b", "a@b", "a:b", "é", "x" * 65, "\x00"):
        refused(client.post(address(run), json={"name": name, "group": CASES["late"]}), 422, "name")
    assert client.get(address(run)).json()["items"] == []
    assert do_jobs(run) == []


def test_a_pattern_that_takes_for_ever_is_422(
    sqlite_run: SmallRun, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    monkeypatch.setattr(server.patterns, "LIMIT_S", 0.5)
    group = {"pattern": r"^(\w+)+-$"}
    refused(client.post(address(run), json={"name": "g", "group": group}), 422, "more than 0.5 s")


def test_a_pattern_needs_pieces_and_a_group_a_slice(sqlite_database: Database, make_client: MakeClient) -> None:
    client = make_client(sqlite_database)
    drawn = {name: part for name, part in small_probes().slices.items() if name != "text"}
    sets = {"without pieces": make_probes(), "drawn only": dataclasses.replace(small_probes(), slices=drawn)}
    with sqlite_database.transaction() as session:
        for probes in sets.values():
            put_probe_set(session, probes)
    for probes, group, word in (
        (sets["without pieces"], CASES["pattern"], "pieces"),
        (sets["drawn only"], CASES["ids"], "drawn at random"),
    ):
        path = f"/api/v1/probe-sets/{probes.sha256}/groups"
        refused(client.post(path, json={"name": "g", "group": group}), 422, word)
    unknown = f"/api/v1/probe-sets/{'0' * 64}/groups"
    refused(client.post(unknown, json={"name": "g", "group": CASES["ids"]}), 404)
    refused(client.get(unknown), 404)
    refused(client.delete(f"{unknown}/g"), 404)


def test_a_body_too_large_or_of_another_kind_is_refused(sqlite_run: SmallRun, make_client: MakeClient) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database, max_body_bytes=2_000)
    for path in (address(run), f"/api/v1/runs/{run.run_id}/measures"):
        refused(client.post(path, content=b" " * 3_000, headers={"Content-Type": "application/json"}), 413, "2000")
        refused(client.post(path, content=b"\x80\x04", headers={"Content-Type": "application/x-pickle"}), 415)


def test_a_probe_set_that_goes_with_its_last_run_takes_its_groups_along(run: SmallRun, make_client: MakeClient) -> None:
    client = make_client(run.database)
    run.record_losses(0)
    define(client, run, "late", CASES["late"])
    do_jobs(run)
    assert client.delete(f"/api/v1/runs/{run.run_id}").status_code == 200
    refused(client.get(address(run)), 404)
    with run.database.reading() as session:
        assert session.scalars(select(TokenGroupRow)).all() == []
        assert session.scalars(select(TokenGroupMembers.group_id)).all() == []


def test_members_are_listed_from_a_position_on(run: SmallRun, make_client: MakeClient) -> None:
    client = make_client(run.database)
    define(client, run, "some", {"ids": [1, 2, 3, 4, 5, 6, 7]})
    expected = np.flatnonzero(np.isin(run.probes.slices["text"].tokens[:, 1:], range(1, 8))).tolist()
    path = f"{address(run)}/some/members"
    assert client.get(path).json() == {"items": expected, "next": None}
    assert client.get(path, params={"first": expected[3]}).json()["items"] == expected[3:]
    page = client.get(path, params={"first": expected[2] + 1, "limit": 2}).json()
    assert page == {"items": expected[3:5], "next": expected[5]}
    assert client.get(path, params={"first": 10_000}).json() == {"items": [], "next": None}
    mine = np.flatnonzero(np.isin(run.probes.slices["mine"].tokens[:, 1:], range(1, 8))).tolist()
    assert client.get(path, params={"slice": "mine"}).json()["items"] == mine
    assert client.get(path, params={"slice": "none"}).status_code == 404
    assert client.get(f"{address(run)}/other/members").status_code == 404
