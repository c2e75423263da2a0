"""Runs over HTTP: creation and its repeats, lists, changes, status, segments; and that 2xx means committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from phasewatch.ids import new_id
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.conftest import MakeRun, make_probes
from tests.server.conftest import ADDRESS, NPY, losses, make_app, npy

RUNS = "/api/v1/runs"


def test_a_run_recorded_from_outside_is_running_and_reads_back(client: TestClient) -> None:
    body = {"name": "mine", "config": {"lr": 0.1, "layers": [1, 2]}, "tags": ["a", "b"]}
    answer = client.post(RUNS, json=body)
    assert answer.status_code == 201
    created = answer.json()
    assert created | body == created
    assert created["status"] == "running"
    assert created["training"] is None
    assert created["n_steps"] is None
    assert UUID(created["id"]).version == 7
    assert created["created_at"].endswith("Z")
    assert client.get(f"{RUNS}/{created['id']}").json() == created


def test_a_run_with_training_is_queued_with_every_default_filled_in(client: TestClient) -> None:
    created = client.post(RUNS, json={"training": {"name": "x", "model": {"sublayers": "a"}, "steps": 70}}).json()
    assert created["status"] == "queued"
    assert created["name"] == "x"
    assert created["n_steps"] == 70
    assert created["training"]["model"]["positions"] == ["relative"]
    assert created["training"]["optimizer"]["name"] == "adamw"


def test_the_same_request_again_answers_200_and_another_one_409(client: TestClient) -> None:
    body = {"id": str(new_id()), "name": "x", "training": {"seed": 3}, "config": {"a": 1.5}}
    first = client.post(RUNS, json=body)
    again = client.post(RUNS, json=body)
    other = client.post(RUNS, json=body | {"config": {"a": 2}})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json() == again.json()
    assert len(client.get(RUNS).json()["items"]) == 1


def test_a_page_ends_with_a_cursor_to_the_next_newest_first(client: TestClient) -> None:
    ids = [client.post(RUNS, json={"name": f"run {n}"}).json()["id"] for n in range(5)]
    seen, cursor = [], None
    while True:
        page = client.get(RUNS, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [run["id"] for run in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == ids[::-1]


def test_the_list_is_filtered_by_status_tag_and_name(client: TestClient) -> None:
    client.post(RUNS, json={"name": "a", "tags": ["x"]})
    client.post(RUNS, json={"name": "b", "tags": ["x", "y"], "training": {}})
    names = {
        key: [run["name"] for run in client.get(RUNS, params=query).json()["items"]]
        for key, query in {
            "status": {"status": "queued"},
            "tag": {"tag": "x"},
            "both": {"tag": "x", "status": "running"},
            "name": {"name": "a"},
            "none": {"tag": "z"},
        }.items()
    }
    assert names == {"status": ["b"], "tag": ["b", "a"], "both": ["a"], "name": ["a"], "none": []}


def test_name_and_tags_change_and_the_rest_stays(client: TestClient) -> None:
    created = client.post(RUNS, json={"name": "a", "tags": ["x"], "config": {"k": 1}}).json()
    changed = client.patch(f"{RUNS}/{created['id']}", json={"name": "b"}).json()
    assert changed == created | {"name": "b"}
    changed = client.patch(f"{RUNS}/{created['id']}", json={"tags": []}).json()
    assert changed == created | {"name": "b", "tags": []}


def test_a_recorder_says_how_its_run_ended_and_a_later_write_does_not_change_it(
    client: TestClient, make_run: MakeRun
) -> None:
    run = make_run(probes=make_probes())
    answer = client.patch(f"{RUNS}/{run}", json={"status": "failed", "failure": "ValueError: \x00 oh"}).json()
    assert (answer["status"], answer["failure"]) == ("failed", "ValueError: \ufffd oh")
    assert answer["finished_at"] is not None
    put = client.put(f"{RUNS}/{run}/losses/text/5", content=npy(losses()), headers=NPY)
    assert put.status_code == 201
    assert client.get(f"{RUNS}/{run}").json()["status"] == "failed"


def test_a_trained_run_is_ended_by_its_trainer_alone(client: TestClient) -> None:
    created = client.post(RUNS, json={"training": {}}).json()
    answer = client.patch(f"{RUNS}/{created['id']}", json={"status": "completed"})
    assert answer.status_code == 409
    assert client.get(f"{RUNS}/{created['id']}").json()["status"] == "queued"


def test_cancel_pause_and_resume_move_the_status_and_refuse_the_impossible(client: TestClient) -> None:
    run = client.post(RUNS, json={"training": {}}).json()["id"]

    def act(action: str) -> tuple[int, str]:
        answer = client.post(f"{RUNS}/{run}/{action}")
        return answer.status_code, client.get(f"{RUNS}/{run}").json()["status"]

    assert act("pause") == (200, "paused")
    assert act("pause") == (200, "paused")
    assert act("resume") == (200, "queued")
    assert act("cancel") == (200, "cancelled")
    assert act("pause") == (409, "cancelled")
    assert act("resume") == (200, "queued")


def test_segments_are_numbered_and_writes_go_where_they_are_told(client: TestClient, run: UUID) -> None:
    opened = client.post(f"{RUNS}/{run}/segments", json={"from_step": 10})
    assert opened.status_code == 201
    assert (opened.json()["number"], opened.json()["from_step"]) == (1, 10)
    listed = client.get(f"{RUNS}/{run}/segments").json()
    assert [(item["number"], item["from_step"]) for item in listed["items"]] == [(0, 0), (1, 10)]
    assert listed["next"] is None
    path = f"{RUNS}/{run}/losses/text"
    client.put(f"{path}/10?segment=0", content=npy(losses(0)), headers=NPY)
    client.put(f"{path}/10", content=npy(losses(1)), headers=NPY)
    shown = client.get(f"{path}/10").json()["values"]
    assert shown == pytest.approx(losses(1).reshape(-1), rel=2e-4)
    missing = client.put(f"{path}/11?segment=7", content=npy(losses()), headers=NPY)
    assert missing.status_code == 404
    assert "segment 7" in missing.json()["detail"]


def test_the_probe_set_is_chosen_once_there_are_losses(client: TestClient, make_run: MakeRun) -> None:
    run, other = make_run(probes=make_probes(seed=1)), make_run(probes=make_probes(seed=2))
    second = client.get(f"{RUNS}/{other}").json()["probe_set"]
    path = f"{RUNS}/{run}/probe-set"
    assert client.put(path, json={"probe_set": second}).json()["probe_set"] == second
    client.put(f"{RUNS}/{run}/losses/text/0", content=npy(losses()), headers=NPY)
    assert client.put(path, json={"probe_set": second}).status_code == 200
    assert client.put(path, json={"probe_set": make_probes(seed=1).sha256}).status_code == 409
    assert client.put(path, json={"probe_set": "0" * 64}).status_code == 404


@pytest.mark.parametrize("what", ["", "/segments", "/checkpoints", "/series", "/measures", "/phase-changes"])
def test_an_unknown_run_is_404_and_named(client: TestClient, what: str) -> None:
    unknown = uuid4()
    answer = client.get(f"{RUNS}/{unknown}{what}")
    assert answer.status_code == 404
    assert str(unknown) in answer.json()["detail"]


def test_a_deleted_run_is_gone_with_its_files_and_says_what_it_freed(
    client: TestClient, run: UUID, artifacts: Artifacts
) -> None:
    client.put(f"{RUNS}/{run}/losses/text/0", content=npy(losses()), headers=NPY)
    client.post(f"{RUNS}/{run}/checkpoints", json={"step": 0})
    body = (2).to_bytes(8, "little") + b"{}"
    assert client.put(f"{RUNS}/{run}/checkpoints/0/weights", content=body).status_code == 201
    answer = client.delete(f"{RUNS}/{run}")
    assert answer.status_code == 200
    assert answer.json()["freed_bytes"] >= len(body)
    assert client.get(f"{RUNS}/{run}").status_code == 404
    assert client.delete(f"{RUNS}/{run}").status_code == 404
    assert not (Path(artifacts.url) / str(run)).exists()


class _DiskFull(Exception):
    """What a driver raises at a commit."""


WRITES: dict[str, Callable[[TestClient, UUID], Any]] = {
    "run": lambda client, run: client.post(RUNS, json={"name": "never"}),
    "losses": lambda client, run: client.put(f"{RUNS}/{run}/losses/text/1", content=npy(losses()), headers=NPY),
    "series": lambda client, run: client.post(
        f"{RUNS}/{run}/series", json={"points": [{"step": 1, "values": {"loss": 1.0}}]}
    ),
    "checkpoint": lambda client, run: client.post(f"{RUNS}/{run}/checkpoints", json={"step": 1}),
    "status": lambda client, run: client.post(f"{RUNS}/{run}/pause"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_commit_that_fails_is_never_answered_as_done(
    client: TestClient, database: Database, run: UUID, write: Callable[[TestClient, UUID], Any]
) -> None:
    def state() -> list[Any]:
        whats = ("", f"/{run}", f"/{run}/losses/text", f"/{run}/series", f"/{run}/checkpoints")
        return [client.get(f"{RUNS}{what}").json() for what in whats]

    before = state()

    def fail(connection: object) -> None:
        raise OperationalError("COMMIT", None, _DiskFull("disk full"))

    event.listen(database.engine, "commit", fail)
    answer = write(client, run)
    event.remove(database.engine, "commit", fail)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["type"] == "urn:phasewatch:unavailable"
    assert state() == before
    assert write(client, run).status_code < 300


def test_the_answer_leaves_after_the_commit(database: Database, artifacts: Artifacts) -> None:
    order: list[str] = []
    app = make_app(database, artifacts)
    Message = MutableMapping[str, Any]

    async def watched(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        async def noted(message: Message) -> None:
            order.append(message["type"])
            await send(message)

        await app(scope, receive, noted)

    with TestClient(watched, base_url=ADDRESS) as client:
        event.listen(database.engine, "commit", lambda connection: order.append("commit"))
        order.clear()
        assert client.post(RUNS, json={"name": "x"}).status_code == 201
        assert order == ["commit", "http.response.start", "http.response.body"]
