"""Compares runs as GET /compare does, and keeps the answer without its series as the job's result."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from phasewatch.errors import NotFound
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.comparison import MAX_RUNS, load_comparison
from phasewatch.storage.database import Database
from phasewatch.storage.selection import newest_runs
from server.jobs.work import Store, Work, job
from server.schemas.compare import ComparisonOut

_SERIES = {"values", "tokens"}  # as long as the runs; GET /compare has them


@job("compare")
def compare(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """Sets the newest of the selected runs beside one another; where none has the measure the result says so."""
    selector, measure = work.parameters["selector"], work.parameters["measure"]
    with database.reading() as session:
        found = newest_runs(session, selector)
        chosen = found[:MAX_RUNS][::-1]
        summary = _summary(session, chosen, measure) | {"n_left_out": len(found) - len(chosen)}

    def store(session: Session) -> dict[str, Any]:
        return summary

    return store


def _summary(session: Session, runs: list[UUID], measure: str) -> dict[str, Any]:
    try:
        compared = ComparisonOut.of(load_comparison(session, runs, measure))
    except NotFound as error:
        return {"measure": measure, "reason": str(error)}
    summary: dict[str, Any] = compared.model_dump(mode="json", exclude={"steps", "runs"})
    runs_out = [run.model_dump(mode="json", exclude=_SERIES) for run in compared.runs]
    return summary | {"runs": runs_out, "reason": None}
