"""A client that openapi-python-client generates from the OpenAPI document, unchanged, against a real server."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from server.schemas.arrays import read_npy, write_npy
from tests.server.conftest import make_app, serving

TOKEN = "an-admin-token-for-the-generated-client"
OMITTED = {
    "PUT /api/v1/runs/{run}/losses/{slice}/{step}",  # of its two media types the one, application/x-npy
    "GET /api/v1/runs/{run}/export",  # the zip's bytes stay in `content`
}


class Generated:
    """The generated package: `call("runs.create_run", …)` is one of its functions, `models` its classes."""

    def __init__(self, package: str, warnings: set[str]) -> None:
        self.package = package
        self.warnings = warnings
        self.models: Any = self.module("models")

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.package}.{name}")

    def call(self, operation: str, **arguments: Any) -> Any:
        return self.module(f"api.{operation}").sync_detailed(**arguments)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    folder = tmp_path_factory.mktemp("generated")
    nowhere = Database("postgresql://nobody@127.0.0.1:9/none")
    (folder / "openapi.json").write_text(json.dumps(make_app(nowhere, Artifacts("unused")).openapi()))
    (folder / "config.yaml").write_text("post_hooks: []\n")  # that would only be formatting
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"]
    done = subprocess.run(
        [*command, "--output-path", "observatory_client", "--config", "config.yaml"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    warnings = {line.removeprefix("WARNING parsing ").partition(" within ")[0] for line in said if "WARNING" in line}
    assert not [line for line in said if line.startswith("Unable to parse")]
    sys.path.insert(0, str(folder))
    yield Generated("observatory_client", warnings)
    sys.path.remove(str(folder))


@pytest.fixture
def address(sqlite_database: Database, artifacts: Artifacts) -> Iterator[str]:
    app = make_app(sqlite_database, artifacts, admin_token=TOKEN)
    with serving(app) as address:
        yield address


@contextmanager
def signed_in(generated: Generated, address: str, token: str = TOKEN) -> Iterator[Any]:
    with generated.module("client").AuthenticatedClient(base_url=address, token=token) as client:
        yield client


def test_every_operation_is_in_the_client(generated: Generated) -> None:
    assert generated.warnings == OMITTED
    document = make_app(Database("postgresql://nobody@127.0.0.1:9/none"), Artifacts("unused")).openapi()
    for methods in document["paths"].values():
        for operation in methods.values():
            tag, name = operation["tags"][0].replace(" ", "_"), operation["operationId"]
            assert callable(generated.module(f"api.{tag}.{name}").sync_detailed)


def test_a_run_is_recorded_and_read_with_it(generated: Generated, address: str) -> None:
    models = generated.models
    file = generated.module("types").File
    with signed_in(generated, address) as client:
        made = generated.call("runs.create_run", client=client, body=models.RunCreate(name="outside", tags=["a", "b"]))
        assert made.status_code == 201
        assert isinstance(made.parsed.id, UUID)
        assert made.parsed.tags == ["a", "b"]

        slices = models.ProbeSetCreateSlices.from_dict({"text": {"tokens": [[1, 2, 3, 4], [5, 6, 7, 8]]}})
        probes = generated.call("probe_sets.create_probe_set", client=client, body=models.ProbeSetCreate(slices=slices))
        assert probes.status_code == 201
        choice = models.ProbeSetChoice(probe_set=probes.parsed.id)
        chosen = generated.call("runs.choose_probe_set", client=client, run=made.parsed.id, body=choice)
        assert chosen.parsed.probe_set == probes.parsed.id

        values = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
        where = {"client": client, "run": made.parsed.id, "slice_": "text", "step": 10}
        put = generated.call("losses.put_losses", **where, body=file(payload=io.BytesIO(write_npy(values))))
        assert put.status_code == 201
        read = generated.call("losses.get_losses", **where)
        assert read.parsed.values == values.reshape(-1).tolist()
        as_npy = client.get_httpx_client().get(
            f"/api/v1/runs/{made.parsed.id}/losses/text/10", headers={"Accept": "application/x-npy"}
        )
        assert np.array_equal(read_npy(as_npy.content, as_npy.headers["content-type"], 1_000), values)

        point = models.PointCreate.from_dict({"step": 10, "values": {"learning_rate": 0.5}})
        added = generated.call(
            "series.add_series", client=client, run=made.parsed.id, body=models.SeriesCreate(points=[point])
        )
        assert added.parsed.new == 1
        series = generated.call("series.get_series", client=client, run=made.parsed.id, name=["learning_rate"])
        (found,) = series.parsed.items
        assert (found.name, found.steps, found.values) == ("learning_rate", [10], [0.5])


def test_its_pages_end(generated: Generated, address: str) -> None:
    models = generated.models
    with signed_in(generated, address) as client:
        for number in range(5):
            generated.call("runs.create_run", client=client, body=models.RunCreate(name=f"run {number}"))
        names: list[str] = []
        cursor: Any = generated.module("types").UNSET
        while cursor is not None:
            page = generated.call("runs.list_runs", client=client, cursor=cursor, limit=2).parsed
            names += [run.name for run in page.items]
            cursor = page.next_
    assert sorted(names) == [f"run {number}" for number in range(5)]


def test_a_monitor_is_made_and_read_with_it(generated: Generated, address: str) -> None:
    models = generated.models
    with signed_in(generated, address) as client:
        body = models.ScanMonitor.from_dict(
            {"name": "hourly", "kind": "scan", "selector": {"all": True}, "trigger": {"every_s": 3600}}
        )
        made = generated.call("monitors.create_monitor", client=client, body=body)
        assert made.status_code == 201
        assert made.parsed.trigger["every_s"] == 3600
        again = generated.call("monitors.get_monitor", client=client, monitor=made.parsed.id)
        assert again.parsed == made.parsed


def test_a_refusal_is_a_problem(generated: Generated, address: str) -> None:
    with signed_in(generated, address) as client:
        missing = generated.call("runs.get_run", client=client, run=UUID(int=7))
        assert missing.status_code == 404
        assert isinstance(missing.parsed, generated.models.Problem)
        assert missing.parsed.type_ == "urn:phasewatch:not-found"
    with signed_in(generated, address, token="wrong") as client:
        assert isinstance(generated.call("runs.list_runs", client=client).parsed, generated.models.Problem)
