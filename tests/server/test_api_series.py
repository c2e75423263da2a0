"""Training metrics over HTTP: batches, repeats, and numbers that JSON does not have."""

from __future__ import annotations

from uuid import UUID

import pytest
from fastapi.testclient import TestClient


@pytest.fixture
def path(run: UUID) -> str:
    """The address of a run's series."""
    return f"/api/v1/runs/{run}/series"


def test_a_batch_counts_what_is_new_and_reads_back_by_name_and_step(client: TestClient, path: str) -> None:
    points = [{"step": 2, "values": {"loss": 2.5, "lr": 0.01}}, {"step": 1, "values": {"loss": 3}}]
    assert client.post(path, json={"points": points}).json() == {"new": 3}
    assert client.post(path, json={"points": [*points, {"step": 3, "values": {"loss": 2}}]}).json() == {"new": 1}
    both = client.get(path).json()
    assert both["items"] == [
        {"name": "loss", "steps": [1, 2, 3], "values": [3.0, 2.5, 2.0], "n_all": 3},
        {"name": "lr", "steps": [2], "values": [0.01], "n_all": 1},
    ]
    assert both["next"] is None
    assert client.get(path, params={"name": ["lr", "other"]}).json()["items"] == both["items"][1:]


def test_another_value_at_a_step_is_409_and_nothing_of_the_batch_is_kept(client: TestClient, path: str) -> None:
    client.post(path, json={"points": [{"step": 1, "values": {"loss": 1.0}}]})
    points = [{"step": 2, "values": {"loss": 1.0}}, {"step": 1, "values": {"loss": 1.5}}]
    answer = client.post(path, json={"points": points})
    assert answer.status_code == 409
    assert client.get(path).json()["items"][0]["steps"] == [1]


def test_numbers_that_json_does_not_have_survive(client: TestClient, path: str) -> None:
    values = {"a": None, "b": "Infinity", "c": "-Infinity", "d": -0.0, "e": 1e308}
    body = {"points": [{"step": 0, "values": values}]}
    assert client.post(path, json=body).json() == {"new": 5}
    assert client.post(path, json=body).json() == {"new": 0}
    assert {item["name"]: item["values"][0] for item in client.get(path).json()["items"]} == values


def test_two_values_for_one_thing_in_one_request_are_refused(client: TestClient, path: str) -> None:
    twice = [{"step": 1, "values": {"loss": 1.0}}, {"step": 1, "values": {"loss": 1.0, "lr": None}}]
    assert client.post(path, json={"points": twice}).json() == {"new": 2}
    other = [{"step": 2, "values": {"loss": 1.0}}, {"step": 2, "values": {"loss": 2.0}}]
    answer = client.post(path, json={"points": other})
    assert answer.status_code == 422
    assert "step 2" in answer.json()["detail"]


def test_an_empty_batch_changes_nothing(client: TestClient, path: str) -> None:
    assert client.post(path, json={"points": []}).json() == {"new": 0}
