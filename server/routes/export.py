"""The route that gives a run as one file."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from phasewatch.storage.runs import get_run
from server.dependencies import Parts, ReadSession, RunId
from server.export import SUFFIX, Format, export_run
from server.problems import errors

ZIP = "application/zip"

router = APIRouter(prefix="/runs/{run}/export", tags=["export"], responses=errors(404))


@router.get(
    "",
    response_class=StreamingResponse,
    responses={200: {"content": {ZIP: {"schema": {"type": "string", "format": "binary"}}}}},
)
def export(
    run: RunId,
    parts: Parts,
    session: ReadSession,
    format: Annotated[Format, Query(description="parquet: a zip of tables; npz: arrays for numpy.load")] = "parquet",
) -> StreamingResponse:
    """A run as one file: losses of each slice, series, measurements, changes and metadata, as they are now."""
    get_run(session, run)
    named = {"Content-Disposition": f'attachment; filename="{run}.{SUFFIX[format]}"'}
    return StreamingResponse(export_run(parts.database, run, format), media_type=ZIP, headers=named)
