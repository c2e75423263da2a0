"""Routes of per-token losses: .npy in, and out as .npy or JSON, by step or as histories of tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from phasewatch.storage import losses
from phasewatch.storage.loss_writes import prepare_losses
from server.dependencies import Body, Ingested, Parts, ReadSession, RunId, SegmentNumber, SliceName, Step
from server.problems import errors
from server.schemas.arrays import JSON, NPY, OCTETS, chosen_media, read_npy, write_npy
from server.schemas.arrow import ARROW, histories_to_arrow, losses_to_arrow
from server.schemas.losses import (
    RANGES,
    LossHistories,
    LossSliceOut,
    LossValues,
    check_size,
    chosen_steps,
    token_numbers,
)
from server.schemas.mean_losses import MeanLosses
from server.schemas.page import IntCursor, Limit, Page
from server.windows import Steps, Windowed

router = APIRouter(prefix="/runs/{run}/losses/{slice}", tags=["losses"], responses=errors(404))

_BINARY = {"schema": {"type": "string", "format": "binary"}}
FORMS = (JSON, NPY, ARROW)
_NPY_BODY = {"requestBody": {"required": True, "content": {NPY: _BINARY, OCTETS: _BINARY}}}

Accept = Annotated[str | None, Header(include_in_schema=False)]
ContentType = Annotated[str | None, Header(include_in_schema=False)]


@router.put(
    "/{step}",
    status_code=201,
    response_model=LossSliceOut,
    openapi_extra=_NPY_BODY,
    responses={200: {"model": LossSliceOut}, **errors(404, 409, 413, 415)},
)
def put_losses(
    run: RunId,
    slice: SliceName,
    step: Step,
    body: Body,
    parts: Parts,
    ingested: Ingested,
    segment: SegmentNumber = None,
    content_type: ContentType = None,
) -> Response:
    """Stores the losses of a slice at a step. The same values again answer 200, other values 409."""
    values = read_npy(body, content_type, parts.settings.max_body_bytes)
    row, created = parts.losses.put(prepare_losses(run, slice, step, values, segment=segment))
    ingested["losses"] = row.n_values if created else 0
    # Written out here: what a training sends most often is not validated once more
    content = LossSliceOut.of(row, slice).model_dump_json()
    return Response(content, 201 if created else 200, media_type="application/json")


@router.get("/means")
def get_mean_losses(run: RunId, slice: SliceName, session: ReadSession, window: Windowed) -> MeanLosses:
    """The mean losses of a slice, by step."""
    means = losses.mean_losses(session, run, slice, first=window.first, last=window.last)
    return MeanLosses.of(slice, *means, window)


@router.get(
    "/{step}",
    response_model=LossValues,
    responses={
        200: {"content": {NPY: _BINARY, ARROW: _BINARY}, "description": "(n_sequences, n_positions)"},
        **errors(404, 406),
    },
)
def get_losses(
    run: RunId, slice: SliceName, step: Step, session: ReadSession, accept: Accept = None
) -> LossValues | Response:
    """The losses of a slice at a step, in nats: JSON, or by Accept .npy or an Arrow stream.

    .npy: float32 (n_sequences, n_positions). Arrow: columns token, its index in the flat slice, and loss.
    """
    media = chosen_media(accept, FORMS)
    values = losses.get_losses(session, run, slice, step)
    if media == ARROW:
        return Response(losses_to_arrow(slice, step, values), media_type=ARROW)
    return Response(write_npy(values), media_type=NPY) if media == NPY else LossValues.of(step, slice, values)


@router.get(
    "",
    response_model=Page[LossSliceOut] | LossHistories,
    responses={
        200: {"content": {NPY: _BINARY, ARROW: _BINARY}, "description": "histories: (n_steps, n_tokens)"},
        **errors(404, 406, 413),
    },
)
def list_losses(
    run: RunId,
    slice: SliceName,
    session: ReadSession,
    tokens: Annotated[
        str | None,
        Query(max_length=20_000, json_schema_extra=RANGES, description="positions in the flat slice: 0,5,7-20"),
    ] = None,
    steps: Steps = None,
    cursor: IntCursor = None,
    limit: Limit = 50,
    accept: Accept = None,
) -> Page[LossSliceOut] | LossHistories | Response:
    """Without `tokens` the loss slices there are, by step; with it the histories of these tokens.

    Histories are JSON, or by Accept float32 .npy (n_steps, n_tokens), a row for each of the steps asked for that there
    is, ascending; or an Arrow stream of columns step, token and loss.
    """
    if tokens is None and steps is None:
        shown = losses.list_loss_slices(session, run, slice, after=cursor, limit=limit + 1)
        return Page[LossSliceOut].of(shown, limit, lambda row: LossSliceOut.of(row, slice), lambda row: row.step)
    found = losses.list_loss_slices(session, run, slice)
    chosen = chosen_steps(steps, [row.step for row in found])
    if tokens is None:
        asked_for = set(chosen)
        shown = [row for row in found if row.step in asked_for and (cursor is None or row.step > cursor)]
        return Page[LossSliceOut].of(shown, limit, lambda row: LossSliceOut.of(row, slice), lambda row: row.step)
    wanted = token_numbers(tokens)
    check_size(len(chosen), wanted.size)
    media = chosen_media(accept, FORMS)
    history = losses.loss_history(session, run, slice, tokens=wanted, steps=chosen)
    if media == ARROW:
        return Response(histories_to_arrow(history), media_type=ARROW)
    return Response(write_npy(history.values), media_type=NPY) if media == NPY else LossHistories.of(history)
