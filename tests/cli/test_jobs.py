"""`phasewatch jobs`: the queue on a terminal."""

from __future__ import annotations

import pytest

from phasewatch.storage import jobs as queue
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob, claim_jobs, enqueue, fail_attempt, note_progress
from tests.cli.conftest import Call


@pytest.fixture
def job(phasewatch: Call, sqlite_database: Database) -> int:
    """A job that runs, and says how far it is."""
    with sqlite_database.transaction() as session:
        enqueue(session, NewJob("scan:x", "scan"))
        (row,) = claim_jobs(session, "worker", 1, 60.0)
        assert note_progress(session, row.id, "worker", 0.25, "reading losses")
        return row.id


def test_jobs_are_listed_with_how_far_they_are(phasewatch: Call, job: int) -> None:
    (line,) = [line for line in phasewatch("jobs", "list").out.splitlines() if "scan" in line]
    assert line.split()[:6] == [str(job), "scan", "–", "–", "running", "1"]
    assert line.rstrip().endswith("25% reading losses")
    assert phasewatch("jobs", "list", "--state", "waiting", "--json").json["items"] == []
    (found,) = phasewatch("jobs", "list", "--kind", "scan", "--json").json["items"]
    assert (found["progress"], found["progress_text"]) == (0.25, "reading losses")


def test_a_failed_job_is_shown_with_its_traceback_and_tried_again(
    phasewatch: Call, sqlite_database: Database, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_ATTEMPTS", 1)
    with sqlite_database.transaction() as session:
        fail_attempt(session, job, "worker", "ValueError: no\nmore", "File x.py, line 3\nValueError: no")
    shown = phasewatch("jobs", "show", str(job)).out.splitlines()
    assert "state: failed" in shown
    assert shown[-3:] == ["ValueError: no", "File x.py, line 3", "ValueError: no"]
    assert phasewatch("jobs", "cancel", str(job)).status == 1
    assert phasewatch("jobs", "retry", str(job)).out == f"job {job} (scan) is waiting\n"
    assert phasewatch("jobs", "cancel", str(job)).out == f"job {job} (scan) is cancelled\n"
    assert phasewatch("jobs", "show", str(job), "--json").json["state"] == "cancelled"
