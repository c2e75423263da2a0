"""Routes of training metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from phasewatch.storage import runs, series
from server.dependencies import Ingested, ReadSession, RunId, SegmentNumber, WriteSession
from server.problems import errors
from server.schemas.page import Page
from server.schemas.series import NewCount, SeriesCreate, SeriesOut
from server.schemas.values import Name
from server.windows import Windowed

router = APIRouter(prefix="/runs/{run}/series", tags=["series"], responses=errors(404))


@router.post("", responses=errors(404, 409, 413, 415))
def add_series(
    run: RunId, body: SeriesCreate, session: WriteSession, ingested: Ingested, segment: SegmentNumber = None
) -> NewCount:
    """Stores a batch of metrics, all or none. What is there already is not counted; another value for it is 409."""
    new = ingested["series"] = series.put_series(session, run, body.to_storage(), segment=segment)
    return NewCount(new=new)


@router.get("")
def get_series(
    run: RunId,
    session: ReadSession,
    window: Windowed,
    name: Annotated[list[Name] | None, Query(max_length=100, description="only these, may be repeated")] = None,
) -> Page[SeriesOut]:
    """A run's metrics along its visible history, by name."""
    runs.get_run(session, run)
    found = series.load_series(session, run, name, first=window.first, last=window.last)
    return Page(items=[SeriesOut.of(one, steps, values, window) for one, (steps, values) in found.items()])
