"""Requests made up from the OpenAPI document, right ones and wrong ones, to every operation: Schemathesis' checks.

No answer is a 5xx, every status and body is one that the document names, what it calls invalid is refused and what it
calls valid is taken. `make test` sends 20 requests an operation, always the same; `make fuzz` sends 200.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis import Case, GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.server.conftest import ADDRESS, make_app
from tests.server.small_run import SmallRun

N_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
TOKEN = "an-admin-token"
JSON = "application/json"

_nowhere = Database("postgresql://nobody@127.0.0.1:9/none")
DOCUMENT = make_app(_nowhere, Artifacts("unused")).openapi()
OPERATIONS = [f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item]
PROVEN_ELSEWHERE = {"POST /api/v1/runs"}  # that a TrainingConfig fits together is no matter of its schema

_BACKWARDS = "runs backwards"
BEYOND_SCHEMA = {
    "POST /api/v1/probe-sets": "cut them alike|the vocabulary has",
    "GET /api/v1/probe-sets/{probe_set}/slices/{slice}": "has sequences 0 to 5",
    "GET /api/v1/probe-sets/{probe_set}/slices/{slice}/search": "has no pieces",
    "POST /api/v1/probe-sets/{probe_set}/groups": "exactly one way|no regular|is empty|needs the text",
    "PATCH /api/v1/runs/{run}": "failure goes with status failed",
    "POST /api/v1/runs/{run}/checkpoints": "half of a surrogate pair",
    "GET /api/v1/runs/{run}/losses/{slice}": _BACKWARDS + "|asked for",
    "GET /api/v1/runs/{run}/losses/{slice}/means": _BACKWARDS,
    "GET /api/v1/runs/{run}/series": _BACKWARDS,
    "GET /api/v1/runs/{run}/measures/{measure}": _BACKWARDS,
    "POST /api/v1/runs/{run}/measures": "no measure is called",
    "POST /api/v1/runs/{run}/measurements": "nested lists of numbers|shape",
    "GET /api/v1/compare": "not both and not neither|is no run id",
    "GET /api/v1/compare/tokens": "two different runs|is no run id",
    "POST /api/v1/channels": "^url: |time zone|have no length",
    "PATCH /api/v1/channels/{channel}": "^url: |time zone|have no length",
    "POST /api/v1/monitors": "WATCH_ROOT",
    "PATCH /api/v1/monitors/{monitor}": "WATCH_ROOT",
    "PATCH /api/v1/tokens/{token}": "is over; give a time to come",
    "POST /api/v1/tokens": "is over; give a time to come",
}
"""What an operation may refuse although its schema takes it: the rule, as its answer words it."""


def settings() -> hypothesis.settings:
    """The same examples at every run, and none shrunk: the first failure says enough."""
    return hypothesis.settings(
        max_examples=N_EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )


@cache
def read_document() -> Any:
    """What Schemathesis makes of the document, once: it takes as long as a test."""
    return schemathesis.openapi.from_dict(DOCUMENT)


class Fuzzed:
    """One operation of a service with a run in it."""

    def __init__(self, label: str, database: Database, artifacts: Artifacts) -> None:
        method, _, path = label.partition(" ")
        limits = {"rate_limit": 0, "attempt_limit": 0, "ingest_rate_limit": 0}
        self.app = make_app(database, artifacts, admin_token=TOKEN, **limits)
        self.app.state.service.gate.install_tokens()
        self.app.state.service.events.close()  # so that a stream ends
        schema = read_document()
        schema.app = self.app
        self.operation: Any = schema[path][method.lower()]
        self.client = asgi.get_client(self.app)
        small = SmallRun.create(database, artifacts, tags=("a",))
        for step in range(3):
            small.record(step)
        there = {"run": str(small.run_id), "step": 1, "slice": "text", "probe_set": small.probes.sha256, "monitor": 1}
        there |= {"measure": "prefix_matching", "token": 1}
        self.there = {one.name: there[one.name] for one in self.operation.path_parameters if one.name in there}

    @property
    def takes_json_or_nothing(self) -> bool:
        return all(body.media_type == JSON for body in self.operation.body)

    def cases(self) -> st.SearchStrategy[Case]:
        """Requests that the document calls valid or invalid, half of them to things that are there."""
        found = []
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            for there in [{}, self.there] if self.there else [{}]:
                found.append(self.operation.as_strategy(mode, path_parameters=there or None))
        return st.one_of(found)

    def send(self, case: Case, headers: dict[str, str]) -> Any:
        """Sends a request and checks the answer."""
        answer = case.call(base_url=ADDRESS, session=self.client, headers=headers)
        sent = {"headers": headers, "base_url": ADDRESS, "session": self.client}
        rule = BEYOND_SCHEMA.get(self.operation.label)
        beyond = rule is not None and answer.status_code in (413, 422) and re.search(rule, answer.json()["detail"])
        excluded = [positive_data_acceptance] if beyond or self.operation.label in PROVEN_ELSEWHERE else []
        excluded += [negative_data_rejection] if self._reads_as_valid(answer.request.url) else []
        case.validate_response(answer, headers=headers, transport_kwargs=sent, excluded_checks=excluded)
        return answer

    def _reads_as_valid(self, url: str) -> bool:
        """True where only a query is sent and it is right as text: "75" in place of 75 is no other request."""
        given = parse_qs(urlsplit(url).query, keep_blank_values=True)
        parameters = {one.name: one.definition for one in self.operation.query}
        if self.operation.body or not given.keys() <= parameters.keys():
            return False
        return all(_fits(parameters[name]["schema"], texts) for name, texts in given.items())


def _fits(schema: dict[str, Any], texts: list[str]) -> bool:
    validator = Draft202012Validator(schema | {"components": DOCUMENT["components"]})
    readings: list[Any] = [texts, texts[-1]]
    if texts[-1].isascii() and texts[-1].isdecimal():
        readings.append(int(texts[-1]))
    return any(validator.is_valid(reading) for reading in readings)


@pytest.mark.parametrize("label", OPERATIONS)
def test_an_operation_keeps_to_its_document(label: str, sqlite_database: Database, artifacts: Artifacts) -> None:
    """Each request is sent twice: by whoever has no token, who gets nothing done, and with one."""
    fuzzed = Fuzzed(label, sqlite_database, artifacts)
    statuses = []
    if not fuzzed.takes_json_or_nothing:
        _send_octets(fuzzed)
        return
    method, _, path = label.partition(" ")
    public = DOCUMENT["paths"][path][method.lower()].get("security") == []

    @settings()
    @hypothesis.given(case=fuzzed.cases())
    def send(case: Case) -> None:
        made_up = case.headers.pop("Authorization", None)
        answer = case.call(base_url=ADDRESS, session=fuzzed.client)
        assert answer.status_code < 500
        assert public or answer.status_code in (400, 401, 404, 405), (case.method, case.path)
        if made_up is not None:
            case.headers["Authorization"] = made_up  # the checks look whether it was what is wrong with the request
        statuses.append(fuzzed.send(case, {"Authorization": f"Bearer {TOKEN}"}).status_code)

    send()
    assert statuses


def _send_octets(fuzzed: Fuzzed) -> None:
    """Any bytes as a binary body: refused by a status that the document names, without a token by 401."""
    method, _, template = fuzzed.operation.label.partition(" ")
    media = next(body.media_type for body in fuzzed.operation.body)
    named = {int(status) for status in DOCUMENT["paths"][template][method.lower()]["responses"]}
    url = ADDRESS + template.format_map(fuzzed.there)

    @settings()
    @hypothesis.given(body=st.binary(max_size=200))
    def send(body: bytes) -> None:
        headers = {"Content-Type": media}
        assert fuzzed.client.request(method, url, data=body, headers=headers).status_code == 401
        answer = fuzzed.client.request(method, url, data=body, headers=headers | {"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code in named
        assert 400 <= answer.status_code < 500
        assert answer.json()["type"].startswith("urn:phasewatch:")

    send()
