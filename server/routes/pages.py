"""The pages: shells without data, which their script fills from the public API; and the API's own description."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

import phasewatch
from server.callers import LOCAL, Caller

WEB = Path(__file__).parent.parent / "web"

NAVIGATION = (
    ("/", "Runs"),
    ("/compare", "Compare"),
    ("/monitors", "Monitors"),
    ("/jobs", "Jobs"),
    ("/alerts", "Alerts"),
    ("/tokens", "API tokens"),
    ("/settings", "Settings"),
)

router = APIRouter(include_in_schema=False)
_templates = Jinja2Templates(WEB / "templates")
_templates.env.globals |= {"version": phasewatch.__version__, "navigation": NAVIGATION}


@router.get("/")
def show_runs(request: Request) -> Response:
    """The list of runs."""
    return _shell(request, "runs.html", "/")


@router.get("/runs/{run}")
def show_run(request: Request, run: UUID) -> Response:
    """One run: its curves, its heads, and the changes found in it."""
    return _shell(request, "run.html", "/", run=str(run))


@router.get("/runs/{run}/tokens")
def show_run_tokens(request: Request, run: UUID) -> Response:
    """The probe text of a run, coloured by its losses."""
    return _shell(request, "tokens.html", "/", run=str(run))


@router.get("/changes/{change}")
def show_change(request: Request, change: UUID) -> Response:
    """One phase change: what, when, and the evidence."""
    return _shell(request, "change.html", "/", change=str(change))


@router.get("/compare")
def show_compare(request: Request) -> Response:
    """Runs side by side."""
    return _shell(request, "compare.html", "/compare")


@router.get("/monitors")
def show_monitors(request: Request) -> Response:
    """The monitors, and what they fired."""
    return _shell(request, "monitors.html", "/monitors")


@router.get("/jobs")
def show_jobs(request: Request) -> Response:
    """The queue."""
    return _shell(request, "jobs.html", "/jobs")


@router.get("/alerts")
def show_alerts(request: Request) -> Response:
    """Channels, and what was sent."""
    return _shell(request, "alerts.html", "/alerts")


@router.get("/tokens")
def show_api_tokens(request: Request) -> Response:
    """Who may use the API."""
    return _shell(request, "api_tokens.html", "/tokens")


@router.get("/settings")
def show_settings(request: Request) -> Response:
    """How this server is set up."""
    return _shell(request, "settings.html", "/settings")


@router.get("/docs")
def show_docs(request: Request) -> Response:
    """Every route of the API, from its OpenAPI document."""
    document = request.app.openapi()
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    context = {"info": document["info"], "operations": operations, "access": "open"}
    return _templates.TemplateResponse(request, "docs.html", context)


def mount_static(app: FastAPI) -> None:
    """Serves the pages' scripts and styles under /static."""
    app.mount("/static", GZipMiddleware(StaticFiles(directory=WEB / "static"), minimum_size=500))


def _shell(request: Request, template: str, section: str, **context: Any) -> Response:
    """A page without data. Where a token is needed it is a 401 all the same, and its script asks for the token.

    section: the address in the navigation that the page belongs to.
    """
    needed = getattr(request.state, "token_needed", False)
    headers = {"WWW-Authenticate": 'Bearer realm="phasewatch"'} if needed else {}
    caller: Caller = getattr(request.state, "caller", LOCAL)
    context |= {"access": "needed" if needed else "token" if caller.token_id else "open", "section": section}
    return _templates.TemplateResponse(request, template, context, status_code=401 if needed else 200, headers=headers)
