"""Measures over HTTP: what a recorder measured, histories, and excess over chance and over the first step."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pytest
from fastapi.testclient import TestClient

RNG = np.random.default_rng(0)
SCORES = {step: RNG.random((2, 3)).round(3).tolist() for step in (0, 10, 20)}
CHANCE = 0.030721


@pytest.fixture
def path(run: UUID) -> str:
    """The address of a run."""
    return f"/api/v1/runs/{run}"


def send(client: TestClient, path: str, step: int, **measurement: object) -> int:
    """Sends one head score of a step; how many were new."""
    values = {"values": SCORES[step], "chance": CHANCE, "interval": [SCORES[step], SCORES[step]]} | measurement
    body = {"step": step, "measurements": {"prefix_matching": values}}
    answer = client.post(f"{path}/measurements", json=body)
    assert answer.status_code == 200, answer.text
    new: int = answer.json()["new"]
    return new


def test_a_head_score_reads_back_by_step_layer_and_head(client: TestClient, path: str) -> None:
    assert [send(client, path, step) for step in (10, 0, 20, 10)] == [1, 1, 1, 0]
    found = client.get(f"{path}/measures/prefix_matching").json()
    assert found == {
        "measure": "prefix_matching",
        "version": 1,
        "unit": found["unit"],
        "steps": [0, 10, 20],
        "shape": [2, 3],
        "axes": ["layers", "heads"],
        "values": list(SCORES.values()),
        "chance": CHANCE,
        "interval": [[scores, scores] for scores in SCORES.values()],
        "n_all": 3,
    }


def test_excess_is_over_chance_or_over_the_first_step(client: TestClient, path: str) -> None:
    for step in SCORES:
        send(client, path, step)
    raw = np.array(list(SCORES.values()))
    chance = client.get(f"{path}/measures/prefix_matching?excess=chance").json()
    initial = client.get(f"{path}/measures/prefix_matching?excess=initial").json()
    np.testing.assert_allclose(chance["values"], raw - CHANCE, atol=1e-12)
    np.testing.assert_allclose(initial["values"], raw - raw[:1], atol=1e-12)
    np.testing.assert_allclose(np.array(initial["interval"])[:, 1], raw - raw[:1], atol=1e-12)


def test_a_number_is_a_measure_too_and_nan_is_null(client: TestClient, path: str) -> None:
    for step, value in ((0, 0.5), (1, None)):
        body = {"step": step, "measurements": {"icl_score": {"values": value}, "token_group:closing": {"values": 1}}}
        assert client.post(f"{path}/measurements", json=body).json() == {"new": 2}
    found = client.get(f"{path}/measures/icl_score").json()
    assert (found["shape"], found["values"], found["unit"]) == ([], [0.5, None], "nats")
    assert (found["chance"], found["interval"]) == (None, None)
    assert client.get(f"{path}/measures/icl_score?excess=chance").status_code == 422
    assert client.get(f"{path}/measures/token_group:closing").json()["values"] == [1.0, 1.0]


def test_what_was_measured_is_listed_with_its_definition(client: TestClient, path: str) -> None:
    for step in (0, 10):
        send(client, path, step)
    client.post(f"{path}/measurements", json={"step": 3, "measurements": {"my own": {"values": 1}}})
    client.post(f"{path}/measurements", json={"step": 3, "measurements": {"mine": {"values": 1, "version": 2}}})
    items = client.get(f"{path}/measures").json()["items"]
    assert [(item["measure"], item["version"], item["n_steps"], item["last_step"]) for item in items] == [
        ("mine", 2, 1, 3),
        ("prefix_matching", 1, 2, 10),
    ]
    assert items[0]["summary"] is None
    assert items[1]["section"] == "3"
    assert "earlier" in items[1]["summary"]


def test_other_values_at_a_step_are_409(client: TestClient, path: str) -> None:
    send(client, path, 0)
    body = {"step": 0, "measurements": {"prefix_matching": {"values": SCORES[10], "chance": CHANCE}}}
    answer = client.post(f"{path}/measurements", json=body)
    assert answer.status_code == 409
    assert "prefix_matching" in answer.json()["detail"]


def test_a_measure_that_is_not_there_names_those_that_are(client: TestClient, path: str) -> None:
    send(client, path, 0)
    answer = client.get(f"{path}/measures/icl_score")
    assert answer.status_code == 404
    assert "prefix_matching" in answer.json()["detail"]


NO_ARRAYS: list[dict[str, object]] = [
    {"values": [[1, 2], [3]]},
    {"values": [1, [2]]},
    {"values": "much"},
    {"values": [True]},
    {"values": {"a": 1}},
    {"values": [1, 2], "interval": [[0], [1]]},
    {"values": 1, "chance": "NaN"},
    {"values": 1, "version": 0},
    {},
]


def test_what_is_no_array_is_refused(client: TestClient, path: str) -> None:
    for measurement in NO_ARRAYS:
        answer = client.post(f"{path}/measurements", json={"step": 0, "measurements": {"x": measurement}})
        assert answer.status_code == 422, measurement
    assert client.get(f"{path}/measures").json()["items"] == []
