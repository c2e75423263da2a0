"""GET /metrics: what was asked, brought in and done, as Prometheus reads it, and cheap to ask for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, update

from phasewatch.errors import InvalidInput
from phasewatch.storage.alerts import Occurrence, raise_alert
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.deliveries import Attempt, claim_messages, record_attempt
from phasewatch.storage.jobs import NewJob, claim_jobs, enqueue, finish_job, note_tick
from phasewatch.storage.monitors import insert_firing
from phasewatch.storage.runs import get_run, set_status
from phasewatch.storage.schema import Alert, Job, utc_now
from phasewatch.storage.tokens import put_token
from server import metrics
from server.auth import check_address
from server.settings import Settings
from tests.server.conftest import NPY, MakeClient, losses, make_app, npy
from tests.storage.test_alerts import add_channel

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CACHE_S", 0.0)


def samples(client: TestClient, **headers: str) -> Samples:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: Any) -> float | None:
    return found.get((f"phasewatch_{name}", frozenset((key, str(label)) for key, label in labels.items())))


def requests(found: Samples, method: str, route: str, status: int) -> float | None:
    return value(found, "http_request_seconds_count", method=method, route=route, status=status)


class TestRequests:
    def test_are_counted_by_the_template_of_their_route(self, sqlite_client: TestClient, run: UUID) -> None:
        for path in (f"/api/v1/runs/{run}", f"/api/v1/runs/{run}", "/api/v1/runs/nobody", "/nothing/here/1"):
            sqlite_client.get(path)
        sqlite_client.request("BREW", "/api/v1/runs")
        found = samples(sqlite_client)
        assert requests(found, "GET", "/api/v1/runs/{run}", 200) == 2
        assert requests(found, "GET", "/api/v1/runs/{run}", 422) == 1
        assert requests(found, "GET", "none", 404) == 1
        assert requests(found, "other", "/api/v1/runs", 405) == 1
        seconds = value(found, "http_request_seconds_sum", method="GET", route="/api/v1/runs/{run}", status=200)
        assert seconds is not None
        assert 0 < seconds < 10

    def test_refused_ones_are_counted_too(self, sqlite_database: Database, make_client: MakeClient) -> None:
        with sqlite_database.transaction() as session:
            put_token(session, "secret", name="prometheus", scope="read")
        client = make_client(sqlite_database)
        assert client.get("/metrics").status_code == 401
        found = samples(client, Authorization="Bearer secret")
        assert requests(found, "GET", "none", 401) == 1

    def test_one_that_fails_is_a_500(self, sqlite_database: Database, artifacts: Artifacts) -> None:
        app = make_app(sqlite_database, artifacts)

        @app.get("/broken")
        def broken() -> None:
            raise RuntimeError("on purpose")

        with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
            assert client.get("/broken").status_code == 500
            assert requests(samples(client), "GET", "/broken", 500) == 1

    def test_the_newer_format_is_there_for_the_asking(self, sqlite_client: TestClient) -> None:
        answer = sqlite_client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert {family.name for family in open_metrics(answer.text)} >= {"phasewatch_ingested_values"}


class TestIngest:
    def test_counts_what_is_new_and_kept(self, client: TestClient, run: UUID) -> None:
        for step in (1, 2, 2):
            client.put(f"/api/v1/runs/{run}/losses/text/{step}", content=npy(losses(step)), headers=NPY)
        client.put(f"/api/v1/runs/{run}/losses/text/2", content=npy(losses(9)), headers=NPY)
        batch = {"points": [{"step": 1, "values": {"loss": 2.5, "lr": 0.1}}]}
        sent = [client.post(f"/api/v1/runs/{run}/series", json=batch).status_code for _ in range(2)]
        assert sent == [200, 200]
        measured: dict[str, Any] = {"step": 1, "measurements": {"icl_score": {"values": 0.5}}}
        assert client.post(f"/api/v1/runs/{run}/measurements", json=measured).status_code == 200
        found = samples(client)
        assert value(found, "ingested_values_total", what="losses") == 2 * 16
        assert value(found, "ingested_values_total", what="series") == 2
        assert value(found, "ingested_values_total", what="measurements") == 1

    def test_starts_at_zero(self, sqlite_client: TestClient) -> None:
        assert value(samples(sqlite_client), "ingested_values_total", what="losses") == 0


class TestState:
    def test_of_the_queue_and_of_jobs_that_ended_anywhere(
        self, client: TestClient, database: Database, run: UUID
    ) -> None:
        assert value(samples(client), "jobs", kind="score", state="waiting") is None
        with database.transaction() as session:
            for key in ("a", "b", "c"):
                enqueue(session, NewJob(key, "score", run))
            oldest = session.get_one(Job, 1)
            oldest.created_at = utc_now() - timedelta(minutes=2)
        found = samples(client)
        assert value(found, "jobs", kind="score", state="waiting") == 3
        assert value(found, "oldest_waiting_job_seconds", kind="score") == pytest.approx(120, abs=30)
        with database.transaction() as session:
            (job,) = claim_jobs(session, "worker elsewhere", 1, 60)
            job.started_at = utc_now() - timedelta(seconds=20)
            finish_job(session, job.id, "worker elsewhere")
        samples(client)
        found = samples(client)
        assert value(found, "jobs", kind="score", state="waiting") == 2
        assert value(found, "job_seconds_count", kind="score", state="done") == 1
        assert value(found, "job_seconds_sum", kind="score", state="done") == pytest.approx(20, abs=10)

    def test_of_alerts_sent_and_given_up_by_any_sender(self, client: TestClient, database: Database) -> None:
        add_channel(database)
        assert value(samples(client), "alerts_total", kind="stale_run", state="failed") == 0
        with database.transaction() as session:
            for key in ("a", "b", "c"):
                raise_alert(session, Occurrence("stale_run", None, key, "a run is stale"))
            session.execute(update(Alert).values(not_before=utc_now() - timedelta(minutes=5)))
        assert value(samples(client), "oldest_due_alert_seconds") == pytest.approx(300, abs=30)
        for outcome in ("delivered", "delivered", "forbidden"):
            with database.transaction() as session:
                (message,) = claim_messages(session, "sender elsewhere", 1, 60, now=utc_now())
                attempt = Attempt(utc_now(), outcome, 1.0)
                record_attempt(session, message, "sender elsewhere", attempt, now=utc_now())
        samples(client)
        found = samples(client)
        assert value(found, "alerts_total", kind="stale_run", state="sent") == 2
        assert value(found, "alerts_total", kind="stale_run", state="failed") == 1
        assert value(found, "alerts_total", kind="phase_change", state="sent") == 0
        assert value(found, "oldest_due_alert_seconds") == 0

    def test_of_schedulers(self, client: TestClient, database: Database) -> None:
        with database.transaction() as session:
            note_tick(session, "scheduler@here")
            insert_firing(session, 1, utc_now() - timedelta(seconds=40))
        found = samples(client)
        age = value(found, "scheduler_tick_age_seconds", scheduler="scheduler@here")
        assert age is not None
        assert 0 <= age < 30
        assert value(found, "scheduler_lag_seconds") == pytest.approx(40, abs=20)

    def test_of_runs_disks_and_the_database(self, client: TestClient, database: Database, run: UUID) -> None:
        with database.transaction() as session:
            set_status(session, get_run(session, run, lock=True), "failed")
        found = samples(client)
        assert value(found, "runs", status="failed") == 1
        assert value(found, "database_up") == 1
        assert (value(found, "database_size_bytes") or 0) > 100_000
        disks = {"artifacts"} | ({"database"} if database.is_sqlite else set())
        for holds in disks:
            free, size = (value(found, f"disk_{what}_bytes", holds=holds) for what in ("free", "size"))
            assert free is not None
            assert size is not None
            assert 0 <= free <= size

    def test_is_read_once_in_a_while_however_often_it_is_asked_for(
        self, sqlite_client: TestClient, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(metrics, "CACHE_S", 60.0)
        statements = []
        samples(sqlite_client)
        event.listen(sqlite_database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        for _ in range(5):
            samples(sqlite_client)
        assert [text for text in statements if "jobs" in text] == []

    def test_is_left_out_while_the_database_is_away(
        self, sqlite_client: TestClient, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        samples(sqlite_client)
        away = Database(f"sqlite:///{Path.cwd()}/empty.db")
        monkeypatch.setattr(sqlite_database, "reading", away.reading)
        found = samples(sqlite_client)
        away.close()
        assert value(found, "database_up") == 0
        assert value(found, "database_size_bytes") is None
        assert (requests(found, "GET", "/metrics", 200) or 0) >= 1


class TestToken:
    def test_the_one_of_the_settings_reads_and_does_not_write(
        self, sqlite_database: Database, make_client: MakeClient
    ) -> None:
        client = make_client(sqlite_database, metrics_token="for prometheus")
        client.headers["Authorization"] = "Bearer for prometheus"
        assert client.get("/metrics").status_code == 200
        assert client.post("/api/v1/runs", json={"name": "x"}).status_code == 403

    def test_an_empty_variable_is_no_token(
        self, sqlite_database: Database, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("METRICS", "ADMIN"):
            monkeypatch.setenv(f"PHASEWATCH_{name}_TOKEN", "")
        client = make_client(sqlite_database)
        assert client.get("/metrics").status_code == 200
        with pytest.raises(InvalidInput, match="without a token"):
            check_address(Settings(host="0.0.0.0"), sqlite_database)
