"""Long histories over HTTP: only the steps asked for, only what is new, and few points that hide no spike."""

from __future__ import annotations

import io
import math
from uuid import UUID

import numpy as np
import pytest
from fastapi.testclient import TestClient

from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.series import put_series
from server.reduction import kept_points
from tests.server.conftest import refused

STEPS = list(range(0, 3_000, 3))
VALUES = [math.sin(step / 50) + (9.0 if step == 1_500 else 0.0) for step in STEPS]
HEADS = {step: np.arange(6.0).reshape(2, 3) + step for step in (0, 5, 9)}


@pytest.fixture
def path(client: TestClient, database: Database, run: UUID) -> str:
    """The address of a run with a series, a measure, mean losses and head scores."""
    with database.transaction() as session:
        put_series(session, run, {step: {"loss": value} for step, value in zip(STEPS, VALUES, strict=True)})
        for step, value in list(zip(STEPS, VALUES, strict=True))[:40]:
            put_measurements(session, run, step, {"icl_score": StoredMeasurement(1, np.array(value))})
            put_losses(session, run, "text", step, np.full((2, 8), step / 4, np.float32))
        for step, heads in HEADS.items():
            put_measurements(session, run, step, {"prefix_matching": StoredMeasurement(1, heads, 0.1)})
    return f"/api/v1/runs/{run}"


def test_points_are_those_that_the_reduction_keeps(client: TestClient, path: str) -> None:
    for scale in ("linear", "log"):
        found = client.get(f"{path}/series", params={"name": "loss", "points": 40, "scale": scale}).json()["items"][0]
        kept = kept_points(STEPS, VALUES, 40, scale)  # type: ignore[arg-type]  # a literal, by the loop above
        assert found["steps"] == [STEPS[index] for index in kept]
        assert found["values"] == [VALUES[index] for index in kept]
        assert found["n_all"] == len(STEPS)
        assert 1_500 in found["steps"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"steps": "30-60"}, list(range(30, 61, 3))),
        ({"steps": "3,9-12,1000000"}, [3, 9, 12]),
        ({"after": 2_990}, [2_991, 2_994, 2_997]),
        ({"steps": "0-30", "after": 24}, [27, 30]),
        ({"after": 2_997}, []),
    ],
)
def test_only_the_steps_asked_for_are_answered(
    client: TestClient, path: str, parameters: dict[str, str], expected: list[int]
) -> None:
    items = client.get(f"{path}/series", params={"name": "loss", **parameters}).json()["items"]
    assert [step for item in items for step in item["steps"]] == expected
    shown = [step for step in expected if step < STEPS[40]]
    for address in ("measures/icl_score", "losses/text/means"):
        found = client.get(f"{path}/{address}", params=parameters).json()
        assert found["steps"] == shown
        assert found["n_all"] == len(found["values"]) == len(shown)


def test_mean_losses_are_those_of_the_slices(client: TestClient, path: str) -> None:
    found = client.get(f"{path}/losses/text/means").json()
    assert found["slice"] == "text"
    assert found["values"] == [step / 4 for step in STEPS[:40]]
    assert len(client.get(f"{path}/losses/text/means", params={"points": 11}).json()["steps"]) <= 11
    refused(client.get(f"{path}/losses/other/means"), 404, "other")


def test_head_scores_as_records_are_those_in_json(client: TestClient, path: str) -> None:
    address = f"{path}/measures/prefix_matching"
    records = np.load(io.BytesIO(client.get(address, headers={"Accept": "application/x-npy"}).content))
    assert records["step"].tolist() == [0, 5, 9]
    assert records["values"].tolist() == client.get(address).json()["values"]
    new = client.get(address, params={"after": 5, "excess": "initial"}, headers={"Accept": "application/x-npy"})
    found = np.load(io.BytesIO(new.content))
    assert found["step"].tolist() == [9]
    assert found["values"].tolist() == [[[9.0] * 3] * 2]


def test_points_of_head_scores_are_refused(client: TestClient, path: str) -> None:
    refused(client.get(f"{path}/measures/prefix_matching", params={"points": 9}), 422, "(2, 3)", "after")


@pytest.mark.parametrize(
    "parameters", [{"points": 4}, {"steps": "9-3"}, {"steps": "x"}, {"after": -1}, {"scale": "cube"}]
)
def test_what_is_no_window_is_refused(client: TestClient, path: str, parameters: dict[str, str]) -> None:
    assert client.get(f"{path}/series", params=parameters).status_code == 422
