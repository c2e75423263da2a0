"""Keeps of old runs what the rules say, run after run; the result says what that freed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from phasewatch.errors import NotFound
from phasewatch.ids import new_id
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob
from phasewatch.storage.retention import Retained, RetentionRules, apply_retention
from phasewatch.storage.runs import get_run
from phasewatch.storage.selection import newest_runs
from server.jobs.work import Progress, Store, Work, job

KIND = "retention"
SHOWN_RUNS = 100  # in the result; the totals are of all


@job(KIND)
def retention(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """Removes weights and makes losses smaller, in transactions of its own; a repeat finishes what was cut short."""
    rules = RetentionRules.model_validate(
        {name: value for name, value in work.parameters.items() if name in RetentionRules.model_fields}
    )
    with database.reading() as session:
        runs = newest_runs(session, work.parameters["selector"])
    tell = Progress(work, database)
    total, each = Retained(), []
    for number, run_id in enumerate(runs):

        def tell_of_run(done: float, text: str, number: int = number) -> None:
            tell((number + done) / len(runs), f"run {number + 1} of {len(runs)}: {text}")

        tell_of_run(0.0, "looking")
        try:
            done = apply_retention(database, artifacts, run_id, rules, tell_of_run)
        except NotFound:  # deleted meanwhile
            continue
        total += done
        if done != Retained():
            each.append({"run": str(run_id), **vars(done)})

    def store(session: Session) -> dict[str, Any]:
        return {"n_runs": len(runs), **vars(total), "runs": each[:SHOWN_RUNS]}

    return store


def retention_job(session: Session, run_id: UUID, rules: RetentionRules) -> NewJob:
    """A job that does this to one run. Raises NotFound."""
    get_run(session, run_id)
    parameters = rules.model_dump(mode="json") | {"selector": {"run": str(run_id)}}
    return NewJob(f"{KIND}:{new_id().hex}", KIND, run_id, parameters=parameters)
