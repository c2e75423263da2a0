"""What routes are handed: the service's parts, sessions that end before the answer is made, and common parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from sqlalchemy.orm import Session

from phasewatch.errors import InvalidInput
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.limits import MAX_STEP
from phasewatch.storage.loss_writes import LossWrite
from phasewatch.storage.schema import LossSlice
from phasewatch.storage.together import Together
from server import callers
from server.audit import note_in_transaction
from server.auth import Gate
from server.events import EventHub
from server.metrics import Metrics
from server.problems import Forbidden, TokenNeeded
from server.requests import route_template
from server.routing import SessionScope
from server.settings import Settings


@dataclass(frozen=True)
class Service:
    """The parts that one application is made of."""

    settings: Settings
    database: Database
    artifacts: Artifacts
    gate: Gate
    events: EventHub
    metrics: Metrics
    losses: Together[LossWrite, tuple[LossSlice, bool]]


def get_service(request: Request) -> Service:
    """The parts of the application that a request came to."""
    service: Service = request.app.state.service
    return service


async def _service(request: Request) -> Service:
    return get_service(request)


async def _reading(request: Request) -> SessionScope:
    return get_service(request).database.reading()


async def _writing(request: Request, response: Response) -> SessionScope:
    return _noted_transaction(request, response)


@contextmanager
def _noted_transaction(request: Request, response: Response) -> Iterator[Session]:
    with get_service(request).database.transaction() as session:
        yield session
        status = response.status_code or getattr(request.scope.get("route"), "status_code", None) or 200
        note_in_transaction(session, request.scope, status)


async def _body(request: Request) -> bytes:
    return await request.body()


async def _ingested(request: Request) -> dict[str, int]:
    found: dict[str, int] = request.scope.setdefault("state", {}).setdefault("ingested", {})
    return found


async def _target(request: Request) -> Callable[[object], None]:
    def name(target: object) -> None:
        request.scope.setdefault("state", {})["audit_target"] = str(target)

    return name


async def known_query(request: Request) -> None:
    """Raises InvalidInput for a query parameter that the route does not have: a filter in vain would answer wrongly.

    `limit` and `cursor` may be given to every list: a short one comes whole.
    """
    if request.query_params:
        operation = request.app.openapi()["paths"][route_template(request.scope)][request.method.lower()]
        names = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
        unknown = [name for name in request.query_params if name not in names | {"limit", "cursor"}]
        if unknown:
            known = ", ".join(sorted(names)) or "none"
            raise InvalidInput(f"{request.url.path} has no parameter {unknown[0][:40]!r}; there are: {known}")


async def _caller(request: Request) -> callers.Caller:
    found: callers.Caller | None = request.scope.get("state", {}).get("caller")
    if found is None:
        raise TokenNeeded("nobody is known to ask; send `Authorization: Bearer TOKEN`")
    return found


async def _needs_admin(request: Request) -> None:
    caller = await _caller(request)
    if not caller.is_admin:
        path = request.url.path
        raise Forbidden(f"{request.method} {path} needs a token of scope admin; this one has scope {caller.scope}")


ADMIN_ONLY = [Depends(_needs_admin)]
"""The `dependencies` of a router or a route that only scope admin may ask."""

Caller = Annotated[callers.Caller, Depends(_caller)]  # who asks: name, scope, is_admin, token_id
Parts = Annotated[Service, Depends(_service)]
ReadSession = Annotated[Session, Depends(_reading)]
WriteSession = Annotated[Session, Depends(_writing)]
SESSIONS = (_reading, _writing)  # what these ask for is a scope; the endpoint is called within it
Body = Annotated[bytes, Depends(_body)]
AuditTarget = Annotated[Callable[[object], None], Depends(_target)]  # names what was made, for the audit log
Ingested = Annotated[dict[str, int], Depends(_ingested)]  # what a request brought in, counted once it is acknowledged

RunId = Annotated[UUID, Path(description="the run's id")]
Step = Annotated[int, Path(ge=0, le=MAX_STEP, description="optimizer steps completed; 0 is the model at its start")]
SliceName = Annotated[str, Path(max_length=64, description="name of a slice of the run's probe set, such as text")]
SegmentNumber = Annotated[
    int | None, Query(alias="segment", ge=0, lt=2**31, description="the segment written to; default: the newest")
]
