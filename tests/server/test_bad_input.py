"""What bad input gets: the rows of DESIGN.md section 8, one by one. After a refusal nothing is written."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import zstandard
from fastapi.testclient import TestClient
from sqlalchemy import event

from phasewatch.errors import InvalidInput
from phasewatch.storage import database as database_module
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.conftest import MakeRun, make_probes
from tests.server.conftest import (
    JSON,
    NPY,
    MakeClient,
    losses,
    npy,
    npy_with_header,
    refused,
)

RUNS = "/api/v1/runs"
LIMIT = 20_000


@pytest.fixture
def client(database: Database, make_client: MakeClient) -> TestClient:
    """A client of a service that takes bodies of up to 20,000 bytes."""
    return make_client(database, max_body_bytes=LIMIT)


@pytest.fixture
def small(sqlite_database: Database, make_client: MakeClient) -> TestClient:
    """The same on SQLite alone, for what never reaches the database."""
    return make_client(sqlite_database, max_body_bytes=LIMIT)


@pytest.fixture
def path(run: UUID) -> str:
    """The address of a run's losses of slice `text`, 2 × 8."""
    return f"{RUNS}/{run}/losses/text"


# The rows of DESIGN.md section 8.


def test_nan_and_infinity_in_losses_are_kept_and_counted(client: TestClient, path: str) -> None:
    values = losses().reshape(-1)
    values[:2] = np.nan, np.inf
    answer = client.put(f"{path}/0", content=npy(values), headers=NPY)
    assert answer.status_code == 201
    assert answer.json()["n_non_finite"] == 2
    kept = np.load(io.BytesIO(client.get(f"{path}/0", headers={"Accept": "application/x-npy"}).content))
    np.testing.assert_array_equal(np.isfinite(kept).reshape(-1), np.isfinite(values))


WRONG_ARRAYS: list[tuple[bytes, tuple[str, ...]]] = [
    (npy(losses(shape=(2, 7))), ("(2, 7)", "(2, 8)")),
    (npy(losses(shape=(17,))), ("(17,)", "(16,)")),
    (npy(losses(shape=(8, 2))), ("(8, 2)", "(2, 8)")),
    (npy(losses(shape=(1, 2, 8))), ("(1, 2, 8)", "(2, 8)")),
    (npy(losses(shape=(0,))), ("(0,)", "(2, 8)")),
    (npy(3.0), ("()", "(2, 8)")),
    (npy(np.zeros((2, 8)), "<i4"), ("<i4", "float32")),
    (npy(np.zeros((2, 8)), "<c8"), ("<c8", "float32")),
    (npy(np.zeros((2, 8)), "|b1"), ("|b1", "float32")),
    (npy(np.zeros((2, 8)), "<U3"), ("<U3", "float32")),
    (npy(np.zeros((2, 8)), "<f4,<f4"), ("f4", "float32")),
]


def test_a_wrong_shape_or_dtype_is_422_naming_both(client: TestClient, path: str) -> None:
    for body, words in WRONG_ARRAYS:
        refused(client.put(f"{path}/0", content=body, headers=NPY), 422, *words)
    assert client.get(path).json()["items"] == []


def test_a_wrong_slice_is_422_naming_those_there_are(client: TestClient, path: str, make_run: MakeRun) -> None:
    refused(client.put(f"{path}er/0", content=npy(losses()), headers=NPY), 422, "'texter'", "text")
    bare = make_run()
    refused(client.put(f"{RUNS}/{bare}/losses/text/0", content=npy(losses()), headers=NPY), 422, "no probe set")


def test_a_wrong_step_is_422(client: TestClient, path: str) -> None:
    for step in ("-1", "1.5", "x", "10" * 15, "9" * 5000, str(2**62 + 1), "0x10", "%00", "1e3"):
        refused(client.put(f"{path}/{step}", content=npy(losses()), headers=NPY), 422, "step")
        refused(client.get(f"{path}/{step}"), 422, "step")
    assert client.get(path).json()["items"] == []


def test_a_body_larger_than_the_limit_is_413(client: TestClient, path: str) -> None:
    body = npy(np.zeros(LIMIT // 4))
    refused(client.put(f"{path}/0", content=body, headers=NPY), 413, str(LIMIT), "PHASEWATCH_MAX_BODY_BYTES")
    refused(client.post(RUNS, json={"name": "x", "config": {"k": "x" * LIMIT}}), 413, str(LIMIT))


def test_a_body_that_does_not_say_its_length_is_counted(client: TestClient, path: str) -> None:
    def pieces(size: int) -> Iterator[bytes]:
        for _ in range(size // 1000):
            yield b" " * 1000

    refused(client.put(f"{path}/0", content=pieces(2 * LIMIT), headers=NPY), 413, str(LIMIT))
    refused(client.post(RUNS, content=pieces(2 * LIMIT), headers=JSON), 413, str(LIMIT))
    refused(client.post(RUNS, content=pieces(LIMIT), headers=JSON), 422)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_decompression_bomb_is_413(client: TestClient, path: str, encoding: str) -> None:
    zeros = bytes(50 * 2**20)
    bomb = gzip.compress(zeros) if encoding == "gzip" else zstandard.compress(zeros)
    compressed = {"Content-Encoding": encoding}
    refused(client.put(f"{path}/0", content=bomb[:LIMIT], headers=NPY | compressed), 413, str(LIMIT))
    padded = json.dumps({"name": "x", "config": {"k": "x" * 10**6}}).encode()
    bomb = gzip.compress(padded) if encoding == "gzip" else zstandard.compress(padded)
    refused(client.post(RUNS, content=bomb, headers=JSON | compressed), 413, "unfolds")
    assert client.get(RUNS).json()["items"][1:] == []


def test_a_header_that_promises_more_than_it_has_allocates_nothing(client: TestClient, path: str) -> None:
    bomb = npy_with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000), }")
    refused(client.put(f"{path}/0", content=bomb, headers=NPY), 413, "8000000000000000000 bytes")
    short = npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8), }", bytes(60))
    refused(client.put(f"{path}/0", content=short, headers=NPY), 422, "64 bytes", "60 follow")
    long = npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8), }", bytes(68))
    refused(client.put(f"{path}/0", content=long, headers=NPY), 422, "64 bytes", "68 follow")


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "unpickled")


def test_pickles_archives_and_arrays_of_objects_are_415_and_never_read(
    client: TestClient, path: str, run: UUID, tmp_path: Path
) -> None:
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(_Trap(sprung))
    objects = io.BytesIO()
    np.save(objects, np.array([_Trap(sprung)], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", trap)
    checkpoint = f"{RUNS}/{run}/checkpoints"
    client.post(checkpoint, json={"step": 0})
    for body in (trap, archive.getvalue()):
        refused(client.put(f"{checkpoint}/0/weights", content=body), 415, "never read")
    for body in (trap, archive.getvalue(), objects.getvalue()):
        refused(client.put(f"{path}/0", content=body, headers=NPY), 415, "never read")
    assert not sprung.exists()
    assert client.get(f"{checkpoint}/0").json()["has_weights"] is False
    assert client.get(path).json()["items"] == []
    pickle.loads(trap)
    assert sprung.exists()  # the trap works


def test_a_step_written_twice_is_200_with_the_same_values_and_409_with_others(client: TestClient, path: str) -> None:
    statuses = [client.put(f"{path}/0", content=npy(losses(seed)), headers=NPY).status_code for seed in (0, 0, 1)]
    assert statuses == [201, 200, 409]
    assert client.get(f"{path}/0").json()["values"] == pytest.approx(losses(0).reshape(-1), rel=1.3e-4)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a/%2e%2e/x", "..", "a\x00b", "a//b", ""])
def test_a_path_out_of_the_artifacts_folder_is_invalid(artifacts: Artifacts, name: str) -> None:
    with pytest.raises(InvalidInput, match="leaves the artifacts folder"):
        artifacts.put(name, b"x")


@pytest.mark.parametrize("run", ["..", "%2e%2e", "..%2f..%2fetc", "%2fetc%2fpasswd", "x" * 5000])
def test_a_path_in_place_of_a_run_reaches_nothing(
    sqlite_database: Database, small: TestClient, artifacts: Artifacts, run: str
) -> None:
    answer = small.put(f"{RUNS}/{run}/checkpoints/0/weights", content=(2).to_bytes(8, "little") + b"{}")
    assert answer.status_code in (404, 422)
    assert not Path(artifacts.url).exists()


def test_too_few_checkpoints_give_an_empty_answer(client: TestClient, path: str, run: UUID) -> None:
    client.put(f"{path}/0", content=npy(losses()), headers=NPY)
    assert client.get(f"{RUNS}/{run}/phase-changes").json() == {
        "items": [],
        "next": None,
        "notes": ["the run has not been scanned yet"],
    }


def test_a_full_disk_is_503_and_what_was_acknowledged_stays(
    sqlite_database: Database, make_client: MakeClient, make_run: MakeRun
) -> None:
    """SQLite is told that its file may not grow, which it reports as a full disk."""
    client = make_client(sqlite_database)
    path, shape = f"{RUNS}/{make_run(probes=make_probes(64, 129))}/losses/text", (64, 128)
    acknowledged = []

    def stop_growing(connection: Any, record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 8}")

    sqlite_database.engine.dispose()
    event.listen(sqlite_database.engine, "connect", stop_growing)
    answer = None
    for step in range(100):
        answer = client.put(f"{path}/{step}", content=npy(losses(step, shape)), headers=NPY)
        if answer.status_code != 201:
            break
        acknowledged.append(step)
    refused(answer, 503, "nothing was written")
    assert answer is not None
    assert int(answer.headers["Retry-After"]) > 0
    event.remove(sqlite_database.engine, "connect", stop_growing)
    sqlite_database.engine.dispose()
    assert acknowledged
    assert client.get(path, params={"tokens": "0"}).json()["steps"] == acknowledged
    assert client.put(f"{path}/99", content=npy(losses(99, shape)), headers=NPY).status_code == 201


def test_a_locked_database_is_503(
    sqlite_url: str, sqlite_database: Database, path: str, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    impatient = Database(sqlite_url)
    client = make_client(impatient)
    holder = sqlite3.connect(str(impatient.url.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    refused(client.put(f"{path}/0", content=npy(losses()), headers=NPY), 503, "try again")
    holder.execute("ROLLBACK")
    holder.close()
    assert client.put(f"{path}/0", content=npy(losses()), headers=NPY).status_code == 201
    impatient.close()


def test_an_artifacts_folder_that_cannot_be_written_is_503(
    sqlite_database: Database, sqlite_client: TestClient, run: UUID, artifacts: Artifacts
) -> None:
    checkpoint = f"{RUNS}/{run}/checkpoints"
    sqlite_client.post(checkpoint, json={"step": 0})
    Path(artifacts.url).write_text("a file in the folder's place")
    body = (2).to_bytes(8, "little") + b"{}"
    refused(sqlite_client.put(f"{checkpoint}/0/weights", content=body), 503, "could not be written")
    assert sqlite_client.get(f"{checkpoint}/0").json()["has_weights"] is False
    Path(artifacts.url).unlink()
    assert sqlite_client.put(f"{checkpoint}/0/weights", content=body).status_code == 201
