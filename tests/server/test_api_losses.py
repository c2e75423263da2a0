"""Losses over HTTP: idempotent writes, exact identity, histories, and the two forms of answer."""

from __future__ import annotations

import gzip
import hashlib
import io
from typing import Literal
from uuid import UUID

import numpy as np
import pytest
import zstandard
from fastapi.testclient import TestClient

from phasewatch.storage.database import Database
from tests.server.conftest import NPY, losses, npy


@pytest.fixture
def path(run: UUID) -> str:
    """The address of a run's losses of slice `text`."""
    return f"/api/v1/runs/{run}/losses/text"


def test_the_first_write_is_201_the_same_again_200_and_others_409(client: TestClient, path: str) -> None:
    body = npy(losses())
    answers = [client.put(f"{path}/3", content=content, headers=NPY) for content in (body, body, npy(losses(1)))]
    assert [answer.status_code for answer in answers] == [201, 200, 409]
    written = answers[0].json()
    assert written == answers[1].json()
    assert written == {
        "slice": "text",
        "step": 3,
        "n_values": 16,
        "mean": pytest.approx(float(losses().mean(dtype=np.float64)), rel=1e-6),
        "n_non_finite": 0,
        "sha256": hashlib.sha256(losses().astype("<f4").tobytes()).hexdigest(),
        "codec": "float32r12-shuffle-zstd",
    }
    assert "step 3" in answers[2].json()["detail"]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_form_of_the_same_values_is_the_same(
    sqlite_database: Database, sqlite_client: TestClient, path: str, dtype: str, order: Literal["C", "F"]
) -> None:
    values = losses().astype("<f2").astype("<f4")
    assert sqlite_client.put(f"{path}/0", content=npy(values), headers=NPY).status_code == 201
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype, order=order))
    assert sqlite_client.put(f"{path}/0", content=buffer.getvalue(), headers=NPY).status_code == 200
    flat = npy(values.reshape(-1))
    assert sqlite_client.put(f"{path}/0", content=flat, headers=NPY).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_body_is_unfolded(client: TestClient, path: str, encoding: str) -> None:
    body = npy(losses())
    packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
    answer = client.put(f"{path}/0", content=packed, headers=NPY | {"Content-Encoding": encoding})
    assert answer.status_code == 201
    assert client.put(f"{path}/0", content=body, headers=NPY).status_code == 200


def test_values_come_back_as_json_and_as_npy(client: TestClient, path: str) -> None:
    client.put(f"{path}/7", content=npy(losses()), headers=NPY)
    shown = client.get(f"{path}/7").json()
    assert (shown["step"], shown["slice"], shown["shape"], shown["non_finite"]) == (7, "text", [2, 8], [])
    assert shown["values"] == pytest.approx(losses().reshape(-1), rel=1.3e-4)
    answer = client.get(f"{path}/7", headers={"Accept": "application/x-npy"})
    assert answer.headers["content-type"] == "application/x-npy"
    array = np.load(io.BytesIO(answer.content))
    assert array.dtype == np.float32
    assert array.shape == (2, 8)
    assert array.reshape(-1).tolist() == shown["values"]


@pytest.mark.parametrize(
    ("accept", "status", "form"),
    [
        ("*/*", 200, "json"),
        ("application/json, application/x-npy;q=0.5", 200, "json"),
        ("application/x-npy, */*;q=0.1", 200, "npy"),
        ("application/x-npy;q=nonsense", 406, "problem"),
        ("image/png", 406, "problem"),
    ],
)
def test_the_accept_header_decides_the_form(
    sqlite_database: Database, sqlite_client: TestClient, path: str, accept: str, status: int, form: str
) -> None:
    sqlite_client.put(f"{path}/0", content=npy(losses()), headers=NPY)
    answer = sqlite_client.get(f"{path}/0", headers={"Accept": accept})
    assert answer.status_code == status
    assert form in answer.headers["content-type"]


def test_what_is_not_finite_is_kept_counted_and_null_in_json(client: TestClient, path: str) -> None:
    values = losses().reshape(-1)
    values[[1, 4, 9]] = np.nan, np.inf, -np.inf
    written = client.put(f"{path}/0", content=npy(values), headers=NPY).json()
    assert written["n_non_finite"] == 3
    assert written["mean"] == pytest.approx(float(values[np.isfinite(values)].mean(dtype=np.float64)), rel=1e-6)
    shown = client.get(f"{path}/0").json()
    assert shown["non_finite"] == [1, 4, 9]
    assert [shown["values"][index] for index in (1, 4, 9)] == [None] * 3
    exact = np.load(io.BytesIO(client.get(f"{path}/0", headers={"Accept": "application/x-npy"}).content)).reshape(-1)
    np.testing.assert_array_equal(exact[[1, 4, 9]], [np.nan, np.inf, -np.inf])
    client.put(f"{path}/1", content=npy(np.full(16, np.nan)), headers=NPY)
    assert client.get(f"{path}").json()["items"][1]["mean"] is None


def test_histories_are_the_columns_of_what_was_written(client: TestClient, path: str) -> None:
    steps = [0, 1, 2, 4, 8, 16]
    matrix = np.stack([losses(step).reshape(-1) for step in steps])
    matrix[2, 9] = np.nan
    for step, values in zip(steps, matrix, strict=True):
        client.put(f"{path}/{step}", content=npy(values), headers=NPY)
    found = client.get(path, params={"tokens": "3,9-11,0", "steps": "1-4,16"}).json()
    assert found["steps"] == [1, 2, 4, 16]
    assert found["tokens"] == [3, 9, 10, 11, 0]
    expected = matrix[[1, 2, 3, 5]][:, found["tokens"]]
    shown = np.array(found["values"], float)
    np.testing.assert_allclose(shown, expected, rtol=1.3e-4)
    assert found["values"][1][1] is None
    everything = client.get(path, params={"tokens": "0"}).json()
    assert everything["steps"] == steps


def test_histories_come_as_npy_too(client: TestClient, path: str) -> None:
    for step in (0, 5, 9):
        client.put(f"{path}/{step}", content=npy(losses(step)), headers=NPY)
    asked = {"tokens": "4-9", "steps": "5-9"}
    answer = client.get(path, params=asked, headers={"Accept": "application/x-npy"})
    found = np.load(io.BytesIO(answer.content))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(client.get(path, params=asked).json()["values"], np.float32))
    assert client.get(path, params=asked, headers={"Accept": "image/png"}).status_code == 406


def test_the_list_of_loss_slices_is_in_pages(client: TestClient, path: str) -> None:
    for step in range(5):
        client.put(f"{path}/{step}", content=npy(losses(step)), headers=NPY)
    first = client.get(path, params={"limit": 3}).json()
    second = client.get(path, params={"limit": 3, "cursor": first["next"]}).json()
    assert [item["step"] for item in first["items"] + second["items"]] == [0, 1, 2, 3, 4]
    assert second["next"] is None


def test_a_segment_hides_what_lies_behind_its_first_step(client: TestClient, path: str, run: UUID) -> None:
    for step in (0, 10, 20):
        client.put(f"{path}/{step}", content=npy(losses(step)), headers=NPY)
    client.post(f"/api/v1/runs/{run}/segments", json={"from_step": 11})
    assert [item["step"] for item in client.get(path).json()["items"]] == [0, 10]
    assert client.get(f"{path}/20").status_code == 404
    assert client.put(f"{path}/5", content=npy(losses(5)), headers=NPY).status_code == 422
    assert client.put(f"{path}/20", content=npy(losses(99)), headers=NPY).status_code == 201
    assert client.get(f"{path}/20").json()["values"] == pytest.approx(losses(99).reshape(-1), rel=1.3e-4)


def test_the_run_remembers_its_newest_step(client: TestClient, path: str, run: UUID) -> None:
    for step in (4, 9, 6):
        client.put(f"{path}/{step}", content=npy(losses(step)), headers=NPY)
    assert client.get(f"/api/v1/runs/{run}").json()["last_step"] == 9
