"""Routes of measures: what a recorder measured comes in, what is known of a run goes out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from phasewatch.storage import measurements, runs
from phasewatch.storage.limits import MAX_STEP
from server import measuring
from server.dependencies import Ingested, ReadSession, RunId, SegmentNumber, WriteSession
from server.problems import errors
from server.schemas.arrays import NPY, wants_npy, write_npy
from server.schemas.measures import (
    Excess,
    MeasureHistoryOut,
    MeasureLabel,
    MeasurementsCreate,
    MeasureOut,
    MeasuresRequest,
    MeasuresRequested,
    answered,
    as_records,
)
from server.schemas.page import Page
from server.schemas.series import NewCount
from server.windows import Windowed

router = APIRouter(prefix="/runs/{run}", tags=["measures"], responses=errors(404))

MeasureName = Annotated[MeasureLabel, Path(description="a measure's name, such as prefix_matching")]


@router.post("/measurements", responses=errors(404, 409, 413, 415))
def add_measurements(
    run: RunId, body: MeasurementsCreate, session: WriteSession, ingested: Ingested, segment: SegmentNumber = None
) -> NewCount:
    """Stores what was measured on a checkpoint in the training process; other values for the same are 409."""
    found = body.to_storage()
    new = measurements.put_measurements(session, run, body.step, found, segment=segment, source="recorder")
    ingested["measurements"] = new
    return NewCount(new=new)


@router.get("/measures")
def list_measures(run: RunId, session: ReadSession) -> Page[MeasureOut]:
    """What was measured on a run."""
    runs.get_run(session, run)
    return Page(items=[MeasureOut.of(row) for row in measurements.list_measures(session, run)])


@router.post("/measures", status_code=202, responses=errors(404, 413, 415))
def request_measures(run: RunId, body: MeasuresRequest, session: WriteSession) -> MeasuresRequested:
    """Queues jobs that measure what is named, one a checkpoint. The same again answers with the same jobs."""
    return MeasuresRequested(jobs=measuring.request_measures(session, run, body.measures, body.steps))


@router.get(
    "/measures/{measure}",
    response_model=MeasureHistoryOut,
    responses={
        200: {
            "content": {NPY: {"schema": {"type": "string", "format": "binary"}}},
            "description": "JSON, or by Accept .npy records (n_steps,) of `step` and `values`, float32",
        },
        **errors(404, 406),
    },
)
def get_measure(
    run: RunId,
    measure: MeasureName,
    session: ReadSession,
    window: Windowed,
    excess: Annotated[Excess | None, Query(description="subtract the chance level, or the first step's values")] = None,
    version: Annotated[int | None, Query(ge=1, lt=2**31, description="default: the newest there is")] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> MeasureHistoryOut | Response:
    """One measure along a run's visible history: values by step (× layers × heads for a head score)."""
    npy = wants_npy(accept)
    bounds = (0, MAX_STEP) if excess == "initial" else (window.first, window.last)  # the first step is subtracted
    history = measurements.load_measure(session, run, measure, version, first=bounds[0], last=bounds[1])
    if npy:
        return Response(write_npy(as_records(answered(history, excess, window))), media_type=NPY)
    return MeasureHistoryOut.of(history, excess, window)
