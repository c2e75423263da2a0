"""Every error has one shape, from every route; and the OpenAPI document says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

import server.auth
from phasewatch import errors
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from server.problems import NAMES, STATUS_OF, status_of
from tests.server.conftest import ADDRESS, MakeClient, make_app

ALWAYS = {"400", "401", "403", "404", "405", "422", "429", "503"}
SESSION = "/api/v1/session"
NO_TOKEN = {"/api/v1/health", "/api/v1/ready"}
SETTINGS = "/api/v1/settings"
WITHOUT_DATABASE = {"/api/v1/health", "/api/v1/events", SESSION, SETTINGS, "/api/v1/doctor", "/api/v1/monitors/due"}


def check(answer: Any, *statuses: int) -> None:
    """Asserts that an answer is a problem with one of these statuses."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"] == f"urn:phasewatch:{NAMES[answer.status_code]}"
    assert body["title"]
    assert len(body["detail"]) > 10
    assert set(body) <= {"type", "title", "status", "detail", "errors"}
    if answer.status_code == 422 and "errors" in body:
        assert all(set(item) == {"loc", "msg"} for item in body["errors"])


def operations(client: TestClient) -> list[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of the whole OpenAPI document."""
    paths = client.get("/openapi.json").json()["paths"]
    return [(method.upper(), path, operation) for path, item in paths.items() for method, operation in item.items()]


def filled(path: str, value: str) -> str:
    """The path with every parameter replaced."""
    return "/".join(value if part.startswith("{") else part for part in path.split("/"))


def test_every_route_answers_nonsense_with_a_problem(sqlite_database: Database, sqlite_client: TestClient) -> None:
    for method, path, _ in operations(sqlite_client):
        json_type = {"Content-Type": "application/json"}
        if path in {*NO_TOKEN, SETTINGS} or (path == SESSION and method != "POST"):  # these take nothing
            continue
        query = {"limit": "none", "run": "none", "excess": "none", "withdrawn": "none", "every_artifact": "none"}
        answer = sqlite_client.request(method, filled(path, "%00~"), params=query, content=b"{", headers=json_type)
        check(answer, 404, 415, 422)


def test_every_route_refuses_other_methods_and_other_paths(
    sqlite_database: Database, sqlite_client: TestClient
) -> None:
    for _, path, _ in operations(sqlite_client):
        check(sqlite_client.request("TRACE", filled(path, "x")), 405)
        check(sqlite_client.get(filled(path, "x") + "/and/more"), 404)
    check(sqlite_client.get("/api/v1"), 404)
    check(sqlite_client.get("/api/v1/runs/"), 404)
    check(sqlite_client.get("/static/none.js"), 404)


def test_every_route_but_health_needs_a_token_once_there_is_one(
    sqlite_database: Database, make_client: MakeClient
) -> None:
    open_client = make_client(sqlite_database)
    all_operations = operations(open_client)
    client = make_client(sqlite_database, admin_token="t")
    for method, path, _ in all_operations:
        answer = client.request(method, filled(path, "x"))
        if path in NO_TOKEN:
            assert answer.status_code == 200
        elif (method, path) == ("POST", SESSION):
            check(answer, 422)
        else:
            check(answer, 401)


@pytest.mark.parametrize("gate_open", [True, False])
def test_every_route_answers_503_while_the_database_is_away(
    artifacts: Artifacts, gate_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gate_open:
        monkeypatch.setattr(server.auth.Gate, "needs_token", lambda gate: False)
    away = Database("postgresql://nobody@127.0.0.1:9/none?connect_timeout=1")
    client = TestClient(make_app(away, artifacts), base_url=ADDRESS)
    assert client.get("/api/v1/health").json() == {"status": "ok"}
    app = make_app(away, artifacts)
    unknown, other = "01890000-0000-7000-8000-000000000000", "01890000-0000-7000-8000-000000000001"
    for path, item in app.openapi()["paths"].items():
        if path in WITHOUT_DATABASE or (gate_open and path == "/api/v1/measures"):
            continue
        for method, operation in item.items():
            body = _body(operation)
            values = {"run": unknown, "change": unknown, "probe_set": "0" * 64, "measure": "icl_score", "group": "g"}
            numbers = dict.fromkeys(("step", "job", "monitor", "channel", "alert", "token"), "1")
            address = path.format_map({"slice": "text"} | numbers | values)
            runs = {"/api/v1/compare": [unknown], "/api/v1/compare/tokens": [unknown, other]}.get(path, [])
            needed = {
                one["name"]: "a" for one in operation.get("parameters", ()) if one["required"] and one["in"] == "query"
            }
            answer = client.request(method.upper(), address, params=needed | {"runs": runs}, **body)
            check(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0


def _body(operation: dict[str, Any]) -> dict[str, Any]:
    """A request body that a route takes, so that it reaches the database."""
    content = operation.get("requestBody", {}).get("content", {})
    bodies: dict[str, Any] = {
        "create_run": {"name": "x"},
        "open_segment": {"from_step": 1},
        "choose_probe_set": {"probe_set": "00"},
        "create_probe_set": {"slices": {"text": {"tokens": [[1, 2]]}}},
        "create_checkpoint": {"step": 1},
        "create_channel": {"name": "c", "url": "https://93.184.215.14/"},
        "create_group": {"name": "g", "group": {"ids": [1]}},
        "request_measures": {"measures": ["icl_score"]},
        "create_monitor": {"name": "m", "kind": "scan", "selector": {"all": True}, "trigger": {"every_s": 60}},
        "create_token": {"name": "x", "scope": "admin"},
        "sign_in": {"token": "x"},
        "add_series": {"points": [{"step": 1, "values": {"a": 1}}]},
        "add_measurements": {"step": 1, "measurements": {"a": {"values": 1}}},
    }
    if "application/json" in content:
        return {"json": bodies.get(operation["operationId"], {})}
    if "application/x-npy" in content:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}\n"
        npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        return {"content": npy, "headers": {"Content-Type": "application/x-npy"}}
    if content:
        return {"content": (2).to_bytes(8, "little") + b"{}"}
    return {}


def test_the_document_names_every_error_and_describes_every_field(
    sqlite_database: Database, sqlite_client: TestClient
) -> None:
    document = sqlite_client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for method, path, operation in operations(sqlite_client):
        responses = operation["responses"]
        assert set(responses) >= ALWAYS, (method, path)
        for status, response in responses.items():
            if int(status) >= 400:
                (content,) = response["content"].items()
                assert content == ("application/problem+json", {"schema": {"$ref": "#/components/schemas/Problem"}})
        if "requestBody" in operation:
            assert set(responses) >= {"413", "415"}, (method, path)
        assert operation["description"], (method, path)
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, parameter)
        ok = next(response for status, response in responses.items() if int(status) < 300)
        assert all(content.get("schema") or content.get("itemSchema") for content in ok.get("content", {}).values()), (
            method,
            path,
        )
    for name, schema in schemas.items():
        for field, described in schema.get("properties", {}).items():
            assert name in _LIBRARY or "description" in described, (name, field)
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert references <= set(schemas)
    assert "HTTPValidationError" not in schemas


_LIBRARY = {"TrainingConfig", "ModelConfig", "DataConfig", "OptimizerConfig", "RecordingConfig", "Schedule", "Window"}


def test_every_error_of_the_library_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind: status_of(kind("x")) for kind in kinds} == {
        errors.PhasewatchError: 422,
        errors.InvalidInput: 422,
        errors.UnsupportedMedia: 415,
        errors.TooLarge: 413,
        errors.AddressRefused: 422,
        errors.InvalidSignature: 422,
        errors.UnknownSlice: 422,
        errors.NotFound: 404,
        errors.Conflict: 409,
        errors.Unavailable: 503,
        errors.AttentionNotSeen: 422,
        errors.ModelNotRebuilt: 422,
        errors.SchemaMismatch: 503,
        errors.RecorderClosed: 422,
    }
    assert set(STATUS_OF.values()) <= set(NAMES)
    assert status_of(ZeroDivisionError()) == 500


def test_an_unexpected_error_says_nothing_of_its_inside(sqlite_database: Database, artifacts: Artifacts) -> None:
    app = make_app(sqlite_database, artifacts)

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("the secret of /etc/passwd")

    client = TestClient(app, base_url=ADDRESS, raise_server_exceptions=False)
    answer = client.get("/broken")
    check(answer, 500)
    assert "secret" not in answer.text


def test_a_schema_that_is_not_the_code_s_is_not_ready(bare_database_url: str, artifacts: Artifacts) -> None:
    database = Database(bare_database_url)
    client = TestClient(make_app(database, artifacts), base_url=ADDRESS)
    answer = client.get("/api/v1/ready")
    database.close()
    check(answer, 503)
