"""What bad input gets: the rows of DESIGN.md section 8 one by one, then hostile values wherever a client can put one.

After a refusal nothing is written, and no answer is a 5xx but for what is truly out of reach.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import socket
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

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
from tests.server.conftest import ADDRESS, NPY, MakeClient, losses, make_app, npy, serving

RUNS = "/api/v1/runs"
LIMIT = 20_000
JSON = {"Content-Type": "application/json"}


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


def refused(answer: Any, status: int, *words: str) -> None:
    """Asserts a problem of that status whose detail has these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"]


def header(text: str, values: bytes = b"") -> bytes:
    """A .npy body with a header of our own."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + values


# The rows of DESIGN.md section 8.


def test_nan_and_infinity_in_losses_are_kept_and_counted(client: TestClient, path: str) -> None:
    values = losses().reshape(-1)
    values[:2] = np.nan, np.inf
    answer = client.put(f"{path}/0", content=npy(values), headers=NPY)
    assert answer.status_code == 201
    assert answer.json()["n_non_finite"] == 2
    kept = np.load(io.BytesIO(client.get(f"{path}/0", headers={"Accept": "application/x-npy"}).content))
    np.testing.assert_array_equal(np.isfinite(kept).reshape(-1), np.isfinite(values))


@pytest.mark.parametrize(
    ("body", "words"),
    [
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
    ],
)
def test_a_wrong_shape_or_dtype_is_422_naming_both(
    client: TestClient, path: str, body: bytes, words: tuple[str, ...]
) -> None:
    refused(client.put(f"{path}/0", content=body, headers=NPY), 422, *words)
    assert client.get(path).json()["items"] == []


def test_a_wrong_slice_is_422_naming_those_there_are(client: TestClient, path: str, make_run: MakeRun) -> None:
    refused(client.put(f"{path}er/0", content=npy(losses()), headers=NPY), 422, "'texter'", "text")
    bare = make_run()
    refused(client.put(f"{RUNS}/{bare}/losses/text/0", content=npy(losses()), headers=NPY), 422, "no probe set")


@pytest.mark.parametrize("step", ["-1", "1.5", "x", "10" * 15, "9" * 5000, str(2**62 + 1), "0x10", "%00", "1e3"])
def test_a_wrong_step_is_422(client: TestClient, path: str, step: str) -> None:
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
    bomb = header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000), }")
    refused(client.put(f"{path}/0", content=bomb, headers=NPY), 413, "8000000000000000000 bytes")
    short = header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8), }", bytes(60))
    refused(client.put(f"{path}/0", content=short, headers=NPY), 422, "64 bytes", "60 follow")
    long = header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8), }", bytes(68))
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
    assert client.get(f"{RUNS}/{run}/phase-changes").json() == {"items": [], "next": None}


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


# Hostile values in every place.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        header("{" * 4000),
        header("(" * 4000),
        header("{'descr': '<f4', 'fortran_order': False}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 8)}", bytes(64)),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0, 8)}", bytes(64)),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': [2, 8]}", bytes(64)),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 8)}", bytes(32)),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(1," * 200 + ")" * 200 + "}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 3000 + ",)}"),
        header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (2, 8)}", bytes(64)),
        header("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (8,)}", bytes(64)),
        header("{'descr': '<f16', 'fortran_order': False, 'shape': (2, 8)}", bytes(256)),
        header("\xff\xfe", bytes(64)),
    ],
)
def test_a_damaged_npy_is_refused(sqlite_database: Database, small: TestClient, path: str, body: bytes) -> None:
    answer = small.put(f"{path}/0", content=body, headers=NPY)
    assert answer.status_code in (413, 415, 422)
    refused(answer, answer.status_code)
    assert small.get(path).json()["items"] == []


@pytest.mark.parametrize("media", ["application/json", "text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_another_content_type_is_415(sqlite_database: Database, small: TestClient, path: str, media: str) -> None:
    kind = {"Content-Type": media}
    refused(small.put(f"{path}/0", content=npy(losses()), headers=kind), 415, media)
    if media != "application/json":
        refused(small.post(RUNS, content=b'{"name": "x"}', headers=kind), 415, media)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("gzip", b"not gzip", 422),
        ("gzip", gzip.compress(b"{}")[:-4], 422),
        ("gzip", gzip.compress(b'{"name": "x"}') + b"more", 422),
        ("gzip", zlib.compress(b"{}"), 422),
        ("zstd", b"not zstd", 422),
        ("zstd", b"", 422),
        ("GZIP", gzip.compress(b'{"name": "x"}'), 201),
    ],
)
def test_a_damaged_or_unknown_compression_is_refused(
    sqlite_database: Database, small: TestClient, encoding: str, body: bytes, status: int
) -> None:
    answer = small.post(RUNS, content=body, headers=JSON | {"Content-Encoding": encoding})
    assert answer.status_code == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'"x"',
        b"[]",
        b"\xff\xfe\x00",
        b'{"name": NaN}',
        b'{"name": "x", "config": {"a": NaN}}',
        b'{"name": "x", "config": {"a": Infinity}}',
        b'{"name": "x", "config": {"a": 1e999}}',
        b'{"name": "x", "config": {"a": "\\ud800"}}',
        b'{"name": "x", "config": {"\\ud800": 1}}',
        b'{"name": "x", "config": {"a": "\\u0000"}}',
        b'{"name": "x", "config": ' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}",
        b'{"name": "x", "config": ' + b"[" * 9000 + b"]" * 9000 + b"}",
        b'{"name": "x", "config": {"a": ' + b"9" * 5000 + b"}}",
        b'{"name": "\\u0000"}',
        b'{"name": "\\ud800"}',
        b'{"name": "a\\nb"}',
        b'{"name": ""}',
        b'{"name": "' + b"x" * 201 + b'"}',
        b'{"name": 5}',
        b'{"name": "x", "id": "1"}',
        b'{"name": "x", "id": 12}',
        b'{"name": "x", "tags": "a"}',
        b'{"name": "x", "tags": [""]}',
        b'{"name": "x", "tags": ["\\u0000"]}',
        b'{"name": "x", "tags": [' + b",".join([b'"t"'] * 101) + b"]}",
        b'{"name": "x", "surprise": 1}',
        b'{"name": "x", "training": {"steps": -1}}',
        b'{"name": "x", "training": {"steps": 1e30}}',
        b'{"name": "x", "training": {"optimizer": {"learning_rate": NaN}}}',
        b'{"name": "x", "training": {"model": {"sublayers": "xyz"}}}',
        b'{"training": {"name": "\\u0000"}}',
        b'{"config": {}}',
    ],
)
def test_a_run_that_cannot_be_kept_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post(RUNS, content=body, headers=JSON)
    assert answer.status_code in (400, 422)
    refused(answer, answer.status_code)
    assert client.get(RUNS).json()["items"] == []


def test_a_parent_that_is_not_there_is_404(client: TestClient) -> None:
    refused(client.post(RUNS, json={"name": "x", "parent": str(uuid4())}), 404, "parent")


@pytest.mark.parametrize("number", [10**30, 2**63, -1, 1.5, "1", True, None, [1], 1e300])
@pytest.mark.parametrize("what", ["segments", "checkpoints", "series", "measurements"])
def test_a_step_that_is_no_step_is_422_in_every_body(client: TestClient, run: UUID, what: str, number: Any) -> None:
    body: dict[str, Any] = {
        "segments": {"from_step": number},
        "checkpoints": {"step": number},
        "series": {"points": [{"step": number, "values": {"a": 1.0}}]},
        "measurements": {"step": number, "measurements": {"a": {"values": 1.0}}},
    }
    refused(client.post(f"{RUNS}/{run}/{what}", json=body[what]), 422, "step")
    assert len(client.get(f"{RUNS}/{run}/segments").json()["items"]) == 1
    for kept in ("checkpoints", "series", "measures"):
        assert client.get(f"{RUNS}/{run}/{kept}").json()["items"] == []


@pytest.mark.parametrize("name", ["", "\x00", "a\x00b", "\ud800", "x" * 201])
@pytest.mark.parametrize("what", ["series", "measurements"])
def test_a_name_that_cannot_be_kept_is_422(client: TestClient, run: UUID, what: str, name: str) -> None:
    body = {
        "series": {"points": [{"step": 0, "values": {name: 1.0}}]},
        "measurements": {"step": 0, "measurements": {name: {"values": 1.0}}},
    }
    content = json.dumps(body[what]).encode()
    refused(client.post(f"{RUNS}/{run}/{what}", content=content, headers=JSON), 422)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"1e999", b'"nan"', b'"1"', b"true", b"[1]", b"{}", b"9" * 400])
def test_a_metric_that_is_no_number_is_422(client: TestClient, run: UUID, value: bytes) -> None:
    content = b'{"points": [{"step": 0, "values": {"loss": ' + value + b"}}]}"
    refused(client.post(f"{RUNS}/{run}/series", content=content, headers=JSON), 422)
    assert client.get(f"{RUNS}/{run}/series").json()["items"] == []


def test_lists_without_end_are_refused(client: TestClient, run: UUID, path: str) -> None:
    nested = b"[" * 5000 + b"1" + b"]" * 5000
    content = b'{"step": 0, "measurements": {"a": {"values": ' + nested + b"}}}"
    answer = client.post(f"{RUNS}/{run}/measurements", content=content, headers=JSON)
    assert answer.status_code in (400, 422)
    deep = b"[" * 70 + b"1" + b"]" * 70
    content = b'{"step": 0, "measurements": {"a": {"values": ' + deep + b"}}}"
    refused(client.post(f"{RUNS}/{run}/measurements", content=content, headers=JSON), 422)
    many = {"points": [{"step": 0, "values": {f"n{number}": 0 for number in range(1001)}}]}
    refused(client.post(f"{RUNS}/{run}/series", json=many), 422)
    refused(client.get(path, params={"tokens": "0-99999999999999"}), 413, "100000")
    refused(client.get(path, params={"tokens": ",".join("0" for _ in range(10_500))}), 422)


@pytest.mark.parametrize(
    "tokens", ["", "x", "5-2", "1-", "-1", "1--2", "0,,1", "1.5", "9" * 30, "16", "\u0661", "\x00"]
)
def test_tokens_that_are_none_are_422(client: TestClient, path: str, tokens: str) -> None:
    client.put(f"{path}/0", content=npy(losses()), headers=NPY)
    refused(client.get(path, params={"tokens": tokens}), 422)


def test_a_history_too_large_to_answer_is_413(
    sqlite_database: Database, sqlite_client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.schemas.losses.MAX_VALUES", 20)
    for step in range(3):
        sqlite_client.put(f"{path}/{step}", content=npy(losses()), headers=NPY)
    assert sqlite_client.get(path, params={"tokens": "0-5"}).status_code == 200
    refused(sqlite_client.get(path, params={"tokens": "0-6"}), 413, "3 steps × 7 tokens")
    assert sqlite_client.get(path, params={"tokens": "0-6", "steps": "1-2"}).status_code == 200


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "AAAA", "bnVsbA", "WzFd", "MWUzMDA", "IlwwIg", "x" * 5000, "%00", "é", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ"],
)
@pytest.mark.parametrize("what", ["runs", "probe-sets", "jobs", "monitors"])
def test_a_cursor_that_no_list_gave_is_422(client: TestClient, what: str, cursor: str) -> None:
    refused(client.get(f"/api/v1/{what}", params={"cursor": cursor}), 422, "cursor")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=201", "limit=x", "limit=1e30", "status=odd", "tag=%00", "name=%00", "tag="]
)
def test_a_list_asked_for_wrongly_is_422(client: TestClient, query: str) -> None:
    refused(client.get(f"{RUNS}?{query}"), 422, query.partition("=")[0])


@pytest.mark.parametrize(
    "wrong", ["x", "0", "%00", "%ff", "%2e%2e", "00000000-0000-0000-0000-00000000000g", "%F0%9F%98%80"]
)
def test_an_id_that_is_none_is_never_found(client: TestClient, run: UUID, wrong: str) -> None:
    for address in (
        f"{RUNS}/{wrong}",
        f"{RUNS}/{wrong}/losses/text/0",
        f"/api/v1/phase-changes/{wrong}",
        f"/api/v1/probe-sets/{wrong}",
        f"/api/v1/jobs/{wrong}",
        f"{RUNS}/{run}/losses/{wrong}/0",
        f"{RUNS}/{run}/measures/{wrong}",
    ):
        assert client.get(address).status_code in (404, 422)


@pytest.mark.parametrize("body", [b"", b"safe", (2**62).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"{}x"])
def test_weights_that_are_no_safetensors_are_422(client: TestClient, run: UUID, body: bytes) -> None:
    client.post(f"{RUNS}/{run}/checkpoints", json={"step": 0})
    refused(client.put(f"{RUNS}/{run}/checkpoints/0/weights", content=body), 422, "safetensors")


def test_a_body_cut_short_writes_nothing(sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun) -> None:
    run = make_run(probes=make_probes())
    body = npy(losses())
    with serving(make_app(sqlite_database, artifacts)) as url:
        host, port = url.removeprefix("http://").split(":")
        for method, path, kind, sent in (
            ("PUT", f"{RUNS}/{run}/losses/text/0", "application/x-npy", body[:-10]),
            ("POST", RUNS, "application/json", b'{"name": "never"'),
            ("POST", RUNS, "application/json\r\nContent-Encoding: gzip", gzip.compress(b'{"name": "never"}')),
        ):
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(sent) + 10}"
            )
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(f"{head}\r\n\r\n".encode() + sent)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(10)
                assert b" 201 " not in connection.recv(4096)
    client = TestClient(make_app(sqlite_database, artifacts), base_url=ADDRESS)
    assert client.get(f"{RUNS}/{run}/losses/text").json()["items"] == []
    assert [item["id"] for item in client.get(RUNS).json()["items"]] == [str(run)]


def test_a_refused_large_body_is_still_answered_over_a_real_connection(
    sqlite_database: Database, artifacts: Artifacts
) -> None:
    """The body is read to its end before the answer, which a connection closed on unread bytes would lose."""
    with serving(make_app(sqlite_database, artifacts, max_body_bytes=1000)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST {RUNS} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 8000000\r\nContent-Type: text/plain\r\n\r\n"
            )
            connection.sendall(head.encode() + bytes(8_000_000))
            connection.settimeout(10)
            assert connection.recv(4096).startswith(b"HTTP/1.1 413")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {RUNS} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 8000000\r\nExpect: 100-continue\r\n\r\n"
            connection.sendall(head.encode())
            connection.settimeout(10)
            assert connection.recv(4096).startswith(b"HTTP/1.1 413")
