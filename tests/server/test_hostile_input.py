"""Hostile values wherever a client can put one: a 4xx that says why, never a 5xx, and nothing is written."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.conftest import MakeRun, make_probes
from tests.server.conftest import (
    ADDRESS,
    JSON,
    NPY,
    losses,
    make_app,
    npy,
    npy_with_header,
    refused,
    serving,
)

RUNS = "/api/v1/runs"


@pytest.fixture
def path(run: UUID) -> str:
    """The address of a run's losses of slice `text`, 2 × 8."""
    return f"{RUNS}/{run}/losses/text"


DAMAGED_NPY = [
    b"",
    b"\x93NUMPY",
    b"\x93NUMPY\x01\x00",
    b"\x93NUMPY\x01\x00\xff\xff{",
    b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16,
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    npy_with_header("{" * 4000),
    npy_with_header("(" * 4000),
    npy_with_header("{'descr': '<f4', 'fortran_order': False}"),
    npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 8)}", bytes(64)),
    npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0, 8)}", bytes(64)),
    npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': [2, 8]}", bytes(64)),
    npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 8)}", bytes(32)),
    npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(1," * 200 + ")" * 200 + "}"),
    npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 3000 + ",)}"),
    npy_with_header("{'descr': __import__('os'), 'fortran_order': False, 'shape': (2, 8)}", bytes(64)),
    npy_with_header("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (8,)}", bytes(64)),
    npy_with_header("{'descr': '<f16', 'fortran_order': False, 'shape': (2, 8)}", bytes(256)),
    npy_with_header("\xff\xfe", bytes(64)),
]


def test_a_damaged_npy_is_refused(sqlite_database: Database, sqlite_client: TestClient, path: str) -> None:
    for body in DAMAGED_NPY:
        answer = sqlite_client.put(f"{path}/0", content=body, headers=NPY)
        assert answer.status_code in (413, 415, 422), body
        refused(answer, answer.status_code)
    assert sqlite_client.get(path).json()["items"] == []


@pytest.mark.parametrize("media", ["application/json", "text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_another_content_type_is_415(
    sqlite_database: Database, sqlite_client: TestClient, path: str, media: str
) -> None:
    kind = {"Content-Type": media}
    refused(sqlite_client.put(f"{path}/0", content=npy(losses()), headers=kind), 415, media)
    if media != "application/json":
        refused(sqlite_client.post(RUNS, content=b'{"name": "x"}', headers=kind), 415, media)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("gzip", b"not gzip", 422),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 422),
        ("gzip", gzip.compress(b'{"name": "x"}', mtime=0) + b"more", 422),
        ("gzip", zlib.compress(b"{}"), 422),
        ("zstd", b"not zstd", 422),
        ("zstd", b"", 422),
        ("GZIP", gzip.compress(b'{"name": "x"}', mtime=0), 201),
    ],
)
def test_a_damaged_or_unknown_compression_is_refused(
    sqlite_database: Database, sqlite_client: TestClient, encoding: str, body: bytes, status: int
) -> None:
    answer = sqlite_client.post(RUNS, content=body, headers=JSON | {"Content-Encoding": encoding})
    assert answer.status_code == status


RUNS_NOT_KEPT = [
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
]


def test_a_run_that_cannot_be_kept_is_refused(client: TestClient) -> None:
    for body in RUNS_NOT_KEPT:
        answer = client.post(RUNS, content=body, headers=JSON)
        assert answer.status_code in (400, 422), body
        refused(answer, answer.status_code)
    assert client.get(RUNS).json()["items"] == []


def test_a_parent_that_is_not_there_is_404(client: TestClient) -> None:
    refused(client.post(RUNS, json={"name": "x", "parent": str(uuid4())}), 404, "parent")


def test_a_step_that_is_no_step_is_422_in_every_body(client: TestClient, run: UUID) -> None:
    numbers: list[Any] = [10**30, 2**63, -1, 1.5, "1", True, None, [1], 1e300]
    for number in numbers:
        bodies: dict[str, Any] = {
            "segments": {"from_step": number},
            "checkpoints": {"step": number},
            "series": {"points": [{"step": number, "values": {"a": 1.0}}]},
            "measurements": {"step": number, "measurements": {"a": {"values": 1.0}}},
        }
        for what, body in bodies.items():
            refused(client.post(f"{RUNS}/{run}/{what}", json=body), 422, "step")
    assert len(client.get(f"{RUNS}/{run}/segments").json()["items"]) == 1
    for kept in ("checkpoints", "series", "measures"):
        assert client.get(f"{RUNS}/{run}/{kept}").json()["items"] == []


def test_a_name_that_cannot_be_kept_is_422(client: TestClient, run: UUID) -> None:
    for name in ("", "\x00", "a\x00b", "\ud800", "x" * 201):
        bodies: dict[str, Any] = {
            "series": {"points": [{"step": 0, "values": {name: 1.0}}]},
            "measurements": {"step": 0, "measurements": {name: {"values": 1.0}}},
        }
        for what, body in bodies.items():
            content = json.dumps(body).encode()
            refused(client.post(f"{RUNS}/{run}/{what}", content=content, headers=JSON), 422)


def test_a_metric_that_is_no_number_is_422(client: TestClient, run: UUID) -> None:
    for value in (b"NaN", b"Infinity", b"1e999", b'"nan"', b'"1"', b"true", b"[1]", b"{}", b"9" * 400):
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


def test_tokens_that_are_none_are_422(client: TestClient, path: str) -> None:
    client.put(f"{path}/0", content=npy(losses()), headers=NPY)
    for tokens in ("", "x", "5-2", "1-", "-1", "1--2", "0,,1", "1.5", "9" * 30, "16", "\u0661", "\x00"):
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


def test_a_cursor_that_no_list_gave_is_422(client: TestClient) -> None:
    cursors = [
        "",
        "x",
        "AAAA",
        "bnVsbA",
        "WzFd",
        "MWUzMDA",
        "IlwwIg",
        "x" * 5000,
        "%00",
        "é",
        "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ",
    ]
    for what in ("runs", "probe-sets", "jobs", "monitors", "tokens", "audit"):
        for cursor in cursors:
            if what == "probe-sets" and cursor.isascii() and cursor.isalnum() and len(cursor) <= 200:
                continue  # a word that could stand before or after an id
            refused(client.get(f"/api/v1/{what}", params={"cursor": cursor}), 422, "cursor")


def test_a_list_asked_for_wrongly_is_422(client: TestClient) -> None:
    queries = ["limit=0", "limit=-1", "limit=201", "limit=x", "limit=1e30", "status=odd", "tag=%00", "name=%00", "tag="]
    for query in queries:
        refused(client.get(f"{RUNS}?{query}"), 422, query.partition("=")[0])
    refused(client.get(f"{RUNS}?stauts=running"), 422, "no parameter 'stauts'", "status")


def test_an_id_that_is_none_is_never_found(client: TestClient, run: UUID) -> None:
    for wrong in ("x", "0", "%00", "%ff", "%2e%2e", "00000000-0000-0000-0000-00000000000g", "%F0%9F%98%80"):
        for address in (
            f"{RUNS}/{wrong}",
            f"{RUNS}/{wrong}/losses/text/0",
            f"/api/v1/phase-changes/{wrong}",
            f"/api/v1/probe-sets/{wrong}",
            f"/api/v1/jobs/{wrong}",
            f"{RUNS}/{run}/losses/{wrong}/0",
            f"{RUNS}/{run}/measures/{wrong}",
        ):
            assert client.get(address).status_code in (404, 422), address


def test_weights_that_are_no_safetensors_are_422(client: TestClient, run: UUID) -> None:
    client.post(f"{RUNS}/{run}/checkpoints", json={"step": 0})
    for body in (b"", b"safe", (2**62).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"{}x"):
        refused(client.put(f"{RUNS}/{run}/checkpoints/0/weights", content=body), 422, "safetensors")


def test_a_body_cut_short_writes_nothing(sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun) -> None:
    run = make_run(probes=make_probes())
    body = npy(losses())
    with serving(make_app(sqlite_database, artifacts)) as url:
        host, port = url.removeprefix("http://").split(":")
        for method, path, kind, sent in (
            ("PUT", f"{RUNS}/{run}/losses/text/0", "application/x-npy", body[:-10]),
            ("POST", RUNS, "application/json", b'{"name": "never"'),
            ("POST", RUNS, "application/json\r\nContent-Encoding: gzip", gzip.compress(b'{"name": "never"}', mtime=0)),
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
