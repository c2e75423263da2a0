"""Errors as answers: one table from error class to status, one shape (RFC 9457), one handler for all of them.

Separate from phasewatch/errors.py because that tree also lives in users' processes, where a status means nothing.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy import exc as sql
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from phasewatch import errors as library

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2


class TokenNeeded(library.PhasewatchError):
    """No bearer token was sent, or one that is not valid."""


class Forbidden(library.PhasewatchError):
    """The token's scope, or the address a request came to, does not allow it."""


class NotAcceptable(library.PhasewatchError):
    """The Accept header names no form in which the thing can be answered."""


class TooManyRequests(library.PhasewatchError):
    """Somebody asks more often than a limit allows; `wait_s` says when there is room again."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


STATUS_OF: dict[type[Exception], int] = {
    TokenNeeded: 401,
    Forbidden: 403,
    NotAcceptable: 406,
    TooManyRequests: 429,
    library.InvalidInput: 422,
    library.UnsupportedMedia: 415,
    library.TooLarge: 413,
    library.NotFound: 404,
    library.Conflict: 409,
    library.Unavailable: 503,
    library.SchemaMismatch: 503,
    library.PhasewatchError: 422,
    sql.DataError: 422,
    sql.IntegrityError: 409,
    sql.OperationalError: 503,
    sql.InterfaceError: 503,
    sql.TimeoutError: 503,
    ClientDisconnect: 400,
}
"""The status of each error; a class without an entry has its nearest base's."""

NAMES = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    409: "conflict",
    413: "too-large",
    415: "unsupported-media",
    422: "invalid-input",
    429: "too-many-requests",
    500: "internal-error",
    503: "unavailable",
}
"""The last part of a problem's type, `urn:phasewatch:NAME`."""

_DATABASE_DETAIL = {
    409: "something this request refers to was changed or deleted at the same time; read it again",
    422: "a value lies outside what the database can store",
    503: "the database is out of reach, busy or full; nothing was written, try again",
}
EVERYWHERE = (400, 401, 403, 404, 405, 422, 429, 503)
_INTERNAL = "the server failed in a way it should not; its log says how. Nothing was written"


class FieldError(BaseModel):
    """One value of a request that cannot be used."""

    loc: list[str | int] = Field(description="where it stands: body, query or path, then names and indices")
    msg: str = Field(description="what is wrong with it")


class Problem(BaseModel):
    """Why a request was refused (RFC 9457)."""

    type: str = Field(description="urn:phasewatch: and the kind of problem, such as not-found")
    title: str = Field(description="the kind in words")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="the thing, the number, and what to do")
    errors: list[FieldError] | None = Field(None, description="each wrong value of an invalid request")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that can answer these statuses beyond those that every route can."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _title(status), "content": content} for status in sorted({*EVERYWHERE, *statuses})}


def status_of(error: Exception) -> int:
    """The status of an error, by its class or the nearest base that has one; 500 for anything unexpected."""
    return next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)


def problem(
    status: int,
    detail: str,
    *,
    wrong: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem as a response. ASCII only, so that no text a client sent can fail to be encoded."""
    body: dict[str, Any] = {
        "type": f"urn:phasewatch:{NAMES.get(status, 'error')}",
        "title": _title(status),
        "status": status,
        "detail": detail,
    }
    if wrong is not None:
        body["errors"] = wrong
    extra = dict(headers or {})
    if status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="phasewatch"'
    if status == 503:
        extra["Retry-After"] = str(RETRY_AFTER_S)
    return Response(json.dumps(body), status, extra, MEDIA_TYPE)


def problem_of(error: Exception) -> Response:
    """The answer to an error of the table."""
    status = status_of(error)
    if isinstance(error, sql.SQLAlchemyError):
        logger.warning("answered %d: %s", status, getattr(error, "orig", error))  # not its values, which are the users'
        return problem(status, _DATABASE_DETAIL[status])
    if status == 503:
        logger.warning("answered 503: %s", error)
    headers = {"Retry-After": str(math.ceil(error.wait_s))} if isinstance(error, TooManyRequests) else None
    return problem(status, str(error) or _title(status), headers=headers)


def install(app: FastAPI) -> None:
    """Makes every error of an application a problem, the framework's own included."""
    for kind in STATUS_OF:
        app.add_exception_handler(kind, _on_known)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_known(request: Request, error: Exception) -> Response:
    return problem_of(error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if detail == HTTPStatus(error.status_code).phrase:
        detail = f"{request.method} {request.url.path}: {detail.lower()}; /openapi.json lists what there is"
    return problem(error.status_code, detail, headers=error.headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes) and error.body:
        given = request.headers.get("content-type", "no content type")
        return problem(415, f"{request.method} {request.url.path} takes application/json; {given[:80]} was sent")
    wrong = [{"loc": list(item["loc"]), "msg": item["msg"]} for item in error.errors()]
    first = wrong[0]
    where = ".".join(str(part)[:80] for part in first["loc"])
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return problem(422, f"{where}: {first['msg']}{more}", wrong=wrong[:100])


async def _on_unexpected(request: Request, error: Exception) -> Response:
    return problem(500, _INTERNAL)


def _title(status: int) -> str:
    return NAMES.get(status, HTTPStatus(status).phrase).replace("-", " ").capitalize()
