"""The list of runs over HTTP: searched, sorted, page by page, with what a table shows of each."""

from __future__ import annotations

import math
from uuid import UUID

import numpy as np
import pytest
from fastapi.testclient import TestClient

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import review_phase_change, store_scan
from phasewatch.storage.runs import open_segment
from phasewatch.storage.schema import PhaseChangeRow
from phasewatch.storage.series import put_series
from tests.conftest import MakeRun, make_probes

RUNS = "/api/v1/runs"


def names(client: TestClient, **parameters: object) -> list[str]:
    """Names along all pages of two."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get(RUNS, params={"limit": 2, **parameters, **cursor}).json()  # type: ignore[arg-type]
        found += [item["name"] for item in page["items"]]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


@pytest.fixture
def some(database: Database, make_run: MakeRun) -> None:
    """Five runs, two of the same name, of different lengths, one without a step."""
    for name, step, tags in (
        ("b", 30, ["Grokking"]),
        ("a", 10, []),
        ("c_x", 20, ["demo"]),
        ("a", 40, []),
        ("d", None, []),
    ):
        run = make_run(name=name, tags=tuple(tags))
        if step is not None:
            with database.transaction() as session:
                put_series(session, run, {step: {"loss": 1.0}})


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("created", "d a c_x a b"), ("name", "a a b c_x d"), ("step", "a b c_x a d"), ("status", None)],
)
def test_it_is_sorted_across_pages(client: TestClient, some: None, sort: str, expected: str | None) -> None:
    found = names(client, sort=sort)
    assert sorted(found) == ["a", "a", "b", "c_x", "d"]
    assert expected is None or found == expected.split()


def test_a_search_looks_at_names_tags_and_ids_and_takes_no_wildcards(client: TestClient, some: None) -> None:
    assert names(client, q="GROK") == ["b"]
    assert names(client, q="c_") == ["c_x"]
    assert names(client, q="%") == []
    run = client.get(RUNS, params={"name": "d"}).json()["items"][0]["id"]
    assert names(client, q=run[-12:]) == ["d"]
    assert names(client, q="demo", tag="demo") == ["c_x"]
    assert names(client, q="demo", tag="other") == []


def change(step: int, *, induction: bool = False) -> PhaseChange:
    """A change around a step."""
    return PhaseChange(step - 1, step, step + 1, "level", "drop", 1.0, "nats", f"measure:{step}", induction=induction)


def test_the_summary_is_the_newest_of_what_is_visible(
    client: TestClient, database: Database, make_run: MakeRun
) -> None:
    run: UUID = make_run(probes=make_probes())
    bare: UUID = make_run(name="bare")
    steps = list(range(0, 400, 2))
    with database.transaction() as session:
        for step in steps:
            level = 9.0 if step == 222 else 3 - step / 400
            put_losses(session, run, "text", step, np.full((2, 8), level, np.float32))
        put_measurements(session, run, 8, {"icl_score": StoredMeasurement(1, np.array(-0.25))})
        put_measurements(session, run, 390, {"icl_score": StoredMeasurement(1, np.array(-9.0))})
        store_scan(
            session, run, [change(20), change(90, induction=True), change(200)], steps, detector_version=1, ended=True
        )
        dismissed = session.query(PhaseChangeRow).filter_by(step=20).one()
        review_phase_change(session, dismissed.id, "dismissed", None)
        open_segment(session, run, 300)
        put_series(session, bare, {1: {"loss": math.nan}, 2: {"loss": 2.5}})
    assert client.get(RUNS).json()["items"][0]["summary"] is None
    items = {item["id"]: item["summary"] for item in client.get(RUNS, params={"include": "summary"}).json()["items"]}
    found = items[str(run)]
    assert found["icl_score"] == -0.25  # that at 390 lies in a hidden part
    assert (found["n_changes"], found["induction_step"]) == (2, 90)
    assert found["loss"] == pytest.approx(3 - 298 / 400)
    assert len(found["loss_steps"]) <= 60
    assert 9.0 in found["loss_values"]
    assert items[str(bare)] == {
        "loss": 2.5,
        "loss_steps": [1, 2],
        "loss_values": [None, 2.5],
        "icl_score": None,
        "n_changes": 0,
        "induction_step": None,
    }


def test_static_files_are_compressed_for_who_takes_it(client: TestClient) -> None:
    plain = client.get("/static/page.css", headers={"Accept-Encoding": "identity"})
    packed = client.get("/static/page.css", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert packed.text == plain.text
