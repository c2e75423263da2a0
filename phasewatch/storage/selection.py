"""Which runs a monitor's selector means: one, those with a tag, or all; and which of them anything happened to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from phasewatch.errors import InvalidInput
from phasewatch.storage.schema import Event, Run


def select_runs(session: Session, selector: Mapping[str, Any], since: datetime | None = None) -> set[UUID] | None:
    """The runs that {"run": id}, {"tag": text} or {"all": true} means; None for all there are.

    since: only those that something happened to from then on. Raises InvalidInput for another selector.
    """
    active = None if since is None else active_runs(session, since)
    match dict(selector):
        case {"all": True}:
            return active
        case {"run": str() as run_id}:
            chosen = set(session.scalars(select(Run.id).where(Run.id == _run_id(run_id))))
        case {"tag": str() as tag}:
            chosen = runs_tagged(session, tag)
        case _:
            raise InvalidInput(
                f'selector {dict(selector)} is not known; use {{"run": id}}, {{"tag": t}} or {{"all": true}}'
            )
    return chosen if active is None else chosen & active


def _run_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInput(f"selector names run {text!r}, which is no UUID") from error


def active_runs(session: Session, since: datetime) -> set[UUID]:
    """Runs that were heard from, or that an event tells of, at `since` or later."""
    heard = select(Run.id).where(Run.heartbeat_at >= since)
    told = select(Event.run_id).where(Event.time >= since, Event.run_id.is_not(None))
    return {run_id for (run_id,) in session.execute(heard.union(told)) if run_id is not None}


def runs_tagged(session: Session, tag: str) -> set[UUID]:
    """Runs that carry a tag."""
    # Tags are a JSON list, which the two databases search differently; runs are few enough to look at.
    return {run_id for run_id, tags in session.execute(select(Run.id, Run.tags)) if tag in tags}


def newest_runs(session: Session, selector: Mapping[str, Any]) -> list[UUID]:
    """Every run that a selector means, newest first."""
    query = select(Run.id).order_by(Run.created_at.desc(), Run.id.desc())
    chosen = select_runs(session, selector)
    return [run_id for run_id in session.scalars(query) if chosen is None or run_id in chosen]
