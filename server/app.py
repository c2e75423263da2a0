"""The application: routes, errors, access and pages put together over one database and one artifacts folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

import phasewatch
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.loss_writes import store_losses
from phasewatch.storage.together import Together
from server import problems
from server.audit import Audit
from server.auth import Access, Gate
from server.bodies import BodyLimit
from server.dependencies import SESSIONS, Service, known_query
from server.events import EventHub
from server.headers import SecurityHeaders
from server.metrics import Metrics
from server.openapi import document_of
from server.rate_limits import RateLimits
from server.requests import PREFIX, Requests
from server.routes import (
    administration,
    alerts,
    audit,
    channels,
    checkpoints,
    compare,
    events,
    export,
    health,
    jobs,
    losses,
    measures,
    monitors,
    pages,
    phase_changes,
    probe_sets,
    registry,
    retention,
    runs,
    series,
    session,
    token_groups,
    tokens,
    trajectories,
)
from server.routes import metrics as metrics_route
from server.routing import add_flat
from server.settings import Settings

_MODULES = (
    runs,
    retention,
    export,
    probe_sets,
    token_groups,
    losses,
    checkpoints,
    series,
    measures,
    registry,
    trajectories,
    phase_changes,
    compare,
    jobs,
    monitors,
    channels,
    alerts,
    events,
    administration,
    health,
    tokens,
    session,
    audit,
)
_bearer = HTTPBearer(auto_error=False, description="a token of this server; needed as soon as there is one")


def _operation_id(route: APIRoute) -> str:
    return route.name  # what a generated client calls it


def _assemble() -> APIRouter:
    whole = APIRouter(generate_unique_id_function=_operation_id)
    common = [Depends(_bearer), Depends(known_query)]
    add_flat(whole, [module.router for module in _MODULES], SESSIONS, prefix=PREFIX, dependencies=common)
    add_flat(whole, [pages.router, metrics_route.router], SESSIONS)
    return whole


_ROUTER = _assemble()  # once: routes know nothing of the application that a request comes to


def create_app(settings: Settings, database: Database, artifacts: Artifacts) -> FastAPI:
    """The service over a migrated database. Call `app.state.service.events.close()` when a shutdown begins."""
    service = Service(
        settings=settings,
        database=database,
        artifacts=artifacts,
        gate=Gate(settings, database),
        events=EventHub(database),
        metrics=Metrics(database, artifacts),
        losses=Together(database, store_losses),
    )
    app = _bare()
    app.state.service = service
    pages.mount_static(app)
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Access, gate=service.gate, limits=RateLimits(settings))
    app.add_middleware(Audit, database=database, find_paths=lambda: _document()["paths"])
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Requests, metrics=service.metrics)
    app.openapi = _document  # type: ignore[method-assign]  # FastAPI's own way to extend the document
    return app


def _bare() -> FastAPI:
    return FastAPI(
        title="phasewatch",
        version=phasewatch.__version__,
        summary="Training runs, what was measured on them, and the phase changes found.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        routes=list(_ROUTER.routes),
    )


@cache
def _document() -> dict[str, Any]:
    return document_of(_bare())  # the same for every application


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await to_thread.run_sync(service.gate.install_tokens)
    await to_thread.run_sync(_document)  # which takes longer than the first request should
    yield
    service.events.close()
