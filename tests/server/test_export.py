"""A run as one file, read by the libraries that users read it with; and losses as Arrow streams."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from phasewatch.detection import PhaseChange
from phasewatch.ids import new_id
from phasewatch.storage.database import Database
from phasewatch.storage.losses import get_losses, put_losses
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.runs import open_segment
from phasewatch.storage.series import put_series
from server import export
from server.export import export_run
from tests.conftest import MakeRun, make_probes
from tests.server.conftest import losses

ARROW = {"Accept": "application/vnd.apache.arrow.stream"}
CHANGE = PhaseChange(10, 20, 30, "hidden", "drop", 1.5, "nats", "loss:text", tokens=np.array([3, 1], np.int32))
EVIL = "../../evil/..\\x"


@pytest.fixture
def recorded(database: Database, make_run: MakeRun) -> UUID:
    """Three visible steps of losses, of which one was recorded again after a resume; metrics, measures and a change."""
    run = make_run(name="mine", probes=make_probes())
    heads = np.arange(4.0).reshape(2, 2)
    with database.transaction() as session:
        for step in (0, 10, 20):
            put_losses(session, run, "text", step, losses(step))
        open_segment(session, run, 20)
        put_losses(session, run, "text", 20, losses(99))
        put_series(session, run, {20: {"loss": 3.0, EVIL: np.nan}, 30: {"loss": 2.0}})
        interval = np.stack([heads - 1, heads + 1])
        put_measurements(session, run, 20, {"prefix_matching": StoredMeasurement(2, heads, 0.1, interval)})
        put_measurements(session, run, 20, {"icl_score": StoredMeasurement(1, np.array(-0.5))})
        store_scan(session, run, [CHANGE], list(range(0, 100, 10)), detector_version=1, ended=True, slice_name="text")
    return run


def stored(database: Database, run: UUID, step: int) -> np.ndarray[Any, Any]:
    with database.reading() as session:
        return get_losses(session, run, "text", step).reshape(-1)


def get(client: TestClient, run: UUID, form: str) -> zipfile.ZipFile:
    answer = client.get(f"/api/v1/runs/{run}/export", params={"format": form})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert f"{run}.{'zip' if form == 'parquet' else 'npz'}" in answer.headers["content-disposition"]
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    return archive


def test_tables_hold_everything(client: TestClient, database: Database, recorded: UUID) -> None:
    archive = get(client, recorded, "parquet")
    assert archive.namelist() == [
        "metadata.json", "losses/text.parquet", "series.parquet", "measurements.parquet", "changes.parquet",
    ]  # fmt: skip
    tables = {
        name: pq.read_table(io.BytesIO(archive.read(name))) for name in archive.namelist() if name.endswith("parquet")
    }
    about = json.loads(archive.read("metadata.json"))
    assert about["run"] == client.get(f"/api/v1/runs/{recorded}").json()
    assert [segment["from_step"] for segment in about["segments"]] == [0, 20]
    text = tables["losses/text.parquet"].to_pydict()
    assert text["step"] == [step for step in (0, 10, 20) for _ in range(16)]
    assert text["token"] == list(range(16)) * 3
    expected = np.concatenate([stored(database, recorded, step) for step in (0, 10, 20)])
    assert np.array_equal(np.array(text["loss"], np.float32), expected)
    series = {(row["name"], row["step"]): row["value"] for row in tables["series.parquet"].to_pylist()}
    assert np.isnan(series.pop((EVIL, 20)))
    assert series == {("loss", 20): 3.0, ("loss", 30): 2.0}
    measured = {row["measure"]: row for row in tables["measurements.parquet"].to_pylist()}
    heads = measured["prefix_matching"]
    assert (heads["version"], heads["step"], heads["shape"], heads["chance"]) == (2, 20, [2, 2], 0.1)
    assert (heads["values"], heads["low"], heads["high"]) == ([0, 1, 2, 3], [-1, 0, 1, 2], [1, 2, 3, 4])
    number = measured["icl_score"]
    assert (number["shape"], number["values"], number["low"]) == ([], [-0.5], None)
    (change,) = tables["changes.parquet"].to_pylist()
    assert (change["step"], change["tokens"], change["effect"], change["slice"]) == (20, [3, 1], 1.5, "text")


def test_arrays_hold_everything(client: TestClient, database: Database, recorded: UUID) -> None:
    answer = client.get(f"/api/v1/runs/{recorded}/export", params={"format": "npz"})
    found = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert found["losses/text/steps"].tolist() == [0, 10, 20]
    assert np.array_equal(found["losses/text"], [stored(database, recorded, step) for step in (0, 10, 20)])
    assert found["series/loss/values"].tolist() == [3.0, 2.0]
    assert found["measures/prefix_matching/v2/values"].tolist() == [[[0, 1], [2, 3]]]
    assert found["measures/prefix_matching/v2/interval"].shape == (1, 2, 2, 2)
    assert found["measures/icl_score/v1/steps"].tolist() == [20]
    assert json.loads(str(found["metadata"]))["run"]["name"] == "mine"
    (change,) = [json.loads(text) for text in found["changes"]]
    assert change["step"] == 20


def test_no_members_name_leaves_the_folder_it_is_unpacked_in(client: TestClient, recorded: UUID) -> None:
    names = get(client, recorded, "npz").namelist()
    assert "series/%2E%2E%2F%2E%2E%2Fevil%2F%2E%2E%5Cx/steps.npy" in names
    for name in names:
        assert ".." not in name.split("/")
        assert not name.startswith("/")
        assert "\\" not in name


def test_an_empty_run_is_exported_too(client: TestClient, make_run: MakeRun) -> None:
    run = make_run()
    archive = get(client, run, "parquet")
    assert pq.read_table(io.BytesIO(archive.read("series.parquet"))).num_rows == 0
    assert get(client, run, "npz").namelist() == ["metadata.npy", "changes.npy"]


def test_an_unknown_run_or_form_is_refused_before_anything_is_sent(client: TestClient, run: UUID) -> None:
    assert client.get(f"/api/v1/runs/{new_id()}/export").status_code == 404
    assert client.get(f"/api/v1/runs/{run}/export", params={"format": "pickle"}).status_code == 422


@pytest.mark.parametrize("form", ["parquet", "npz"])
def test_memory_does_not_grow_with_the_run(
    sqlite_database: Database, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    monkeypatch.setattr(export, "VALUES_AT_ONCE", 10_000)
    run = make_run(probes=make_probes(2, 10_001))
    values = np.random.default_rng(0).gamma(2.0, 1.5, 20_000).astype(np.float32)
    peaks = []
    for steps in (range(2), range(2, 16)):
        with sqlite_database.transaction() as session:
            for step in steps:
                put_losses(session, run, "text", step, values)
        tracemalloc.start()
        pieces = [len(piece) for piece in export_run(sqlite_database, run, form)]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert max(pieces) < 200_000
    assert peaks[1] < 1.5 * peaks[0]


def test_losses_of_a_step_come_as_arrow(client: TestClient, database: Database, recorded: UUID) -> None:
    answer = client.get(f"/api/v1/runs/{recorded}/losses/text/20", headers=ARROW)
    assert answer.headers["content-type"] == ARROW["Accept"]
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.column_names == ["token", "loss"]
    assert table["token"].to_pylist() == list(range(16))
    assert np.array_equal(table["loss"].to_numpy(), stored(database, recorded, 20))
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about == {"slice": "text", "step": "20", "n_sequences": "2", "n_positions": "8"}


def test_histories_come_as_arrow(client: TestClient, database: Database, recorded: UUID) -> None:
    path = f"/api/v1/runs/{recorded}/losses/text"
    answer = client.get(path, params={"tokens": "7,2", "steps": "10-20"}, headers=ARROW)
    table = pa.ipc.open_stream(answer.content).read_all().to_pydict()
    assert (table["step"], table["token"]) == ([10, 10, 20, 20], [7, 2, 7, 2])
    expected = [stored(database, recorded, step)[token] for step in (10, 20) for token in (7, 2)]
    assert np.array_equal(np.array(table["loss"], np.float32), np.array(expected))


def test_an_arrow_body_is_not_taken(client: TestClient, run: UUID) -> None:
    content = client.put(
        f"/api/v1/runs/{run}/losses/text/0", content=b"ARROW1", headers={"Content-Type": ARROW["Accept"]}
    )
    assert content.status_code == 415
