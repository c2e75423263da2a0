"""Checkpoints and weights over HTTP: written once, checked by hash, never unpickled."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save

from phasewatch.storage.artifacts import Artifacts


def weights(seed: int = 0) -> bytes:
    """A small safetensors file."""
    return save({"w": np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)})


@pytest.fixture
def path(run: UUID) -> str:
    """The address of a run's checkpoints."""
    return f"/api/v1/runs/{run}/checkpoints"


def test_a_checkpoint_is_recorded_once(client: TestClient, path: str) -> None:
    body = {"step": 5, "tokens_seen": 1000, "model": {"kind": "mine", "d": 8}}
    answers = [client.post(path, json=sent) for sent in (body, body, body | {"tokens_seen": 1001})]
    assert [answer.status_code for answer in answers] == [201, 200, 409]
    created = answers[0].json()
    assert created | body == created
    assert (created["segment"], created["has_weights"], created["resumable"]) == (0, False, False)
    assert client.get(f"{path}/5").json() == created
    assert client.get(f"{path}/6").status_code == 404


def test_checkpoints_are_listed_by_step_in_pages_with_their_segments(client: TestClient, path: str, run: UUID) -> None:
    for step in (4, 0, 2):
        client.post(path, json={"step": step})
    client.post(f"/api/v1/runs/{run}/segments", json={"from_step": 3})
    client.post(path, json={"step": 5})
    first = client.get(path, params={"limit": 2}).json()
    second = client.get(path, params={"limit": 2, "cursor": first["next"]}).json()
    assert [(item["step"], item["segment"]) for item in first["items"] + second["items"]] == [(0, 0), (2, 0), (5, 1)]
    assert second["next"] is None


def test_weights_come_back_byte_for_byte(client: TestClient, path: str) -> None:
    client.post(path, json={"step": 5})
    assert client.get(f"{path}/5/weights").status_code == 404
    answers = [client.put(f"{path}/5/weights", content=body) for body in (weights(), weights(), weights(1))]
    assert [answer.status_code for answer in answers] == [201, 200, 409]
    written = answers[0].json()
    assert written["sha256"] == hashlib.sha256(weights()).hexdigest()
    assert written["size_bytes"] == len(weights())
    assert written["has_weights"] is True
    answer = client.get(f"{path}/5/weights")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content == weights()


def test_a_refused_upload_leaves_no_file_and_replaces_none(
    client: TestClient, path: str, artifacts: Artifacts, run: UUID
) -> None:
    client.post(path, json={"step": 5})
    client.put(f"{path}/5/weights", content=weights())
    assert client.put(f"{path}/5/weights", content=weights(1)).status_code == 409
    assert client.put(f"{path}/6/weights", content=weights(2)).status_code == 404
    assert len(list((Path(artifacts.url) / str(run)).iterdir())) == 1
    assert client.get(f"{path}/5/weights").content == weights()


def test_damaged_weights_are_not_served(client: TestClient, path: str, artifacts: Artifacts, run: UUID) -> None:
    client.post(path, json={"step": 5})
    client.put(f"{path}/5/weights", content=weights())
    (file,) = (Path(artifacts.url) / str(run)).iterdir()
    file.write_bytes(weights(1))
    answer = client.get(f"{path}/5/weights")
    assert answer.status_code == 503
    assert "damaged" in answer.json()["detail"]
