"""The pages: shells without data, which their script fills from the public API; and the API's own description."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

import phasewatch

WEB = Path(__file__).parent.parent / "web"

router = APIRouter(include_in_schema=False)
_templates = Jinja2Templates(WEB / "templates")
_templates.env.globals["version"] = phasewatch.__version__


@router.get("/")
def show_runs(request: Request) -> Response:
    """The list of runs."""
    return _shell(request, "runs.html")


@router.get("/runs/{run}")
def show_run(request: Request, run: UUID) -> Response:
    """One run: its curves, its heads, and the changes found in it."""
    return _shell(request, "run.html", run=str(run))


@router.get("/docs")
def show_docs(request: Request) -> Response:
    """Every route of the API, from its OpenAPI document."""
    document = request.app.openapi()
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return _templates.TemplateResponse(request, "docs.html", {"info": document["info"], "operations": operations})


def mount_static(app: FastAPI) -> None:
    """Serves the pages' scripts and styles under /static."""
    app.mount("/static", StaticFiles(directory=WEB / "static"))


def _shell(request: Request, template: str, **context: Any) -> Response:
    """A page without data. Where a token is needed it is a 401 all the same, and its script asks for the token."""
    needed = getattr(request.state, "token_needed", False)
    headers = {"WWW-Authenticate": 'Bearer realm="phasewatch"'} if needed else {}
    context["token_needed"] = needed
    return _templates.TemplateResponse(request, template, context, status_code=401 if needed else 200, headers=headers)
