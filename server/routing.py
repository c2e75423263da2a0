"""The routes of all routers as one flat list, each with its session opened, used and closed in one thread.

FastAPI keeps included routers as a tree, which it walks several times a request, at more than all else that a small
answer costs; and it opens, uses and closes what a dependency yields in threads of their own. Requests that hold a
connection would wait for a thread, and threads for a connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, get_type_hints

from fastapi import APIRouter
from fastapi.params import Depends
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session

Endpoint = Callable[..., Any]
SessionScope = AbstractContextManager[Session]


def add_flat(
    whole: APIRouter,
    routers: Iterable[APIRouter],
    sessions: Sequence[Endpoint],
    *,
    prefix: str = "",
    dependencies: Sequence[Depends] = (),
) -> None:
    """Adds every route of the routers to `whole`, behind a prefix and dependencies.

    sessions: the dependencies that give an endpoint no session but a context manager that makes one.
    """
    for router in routers:
        for route in router.routes:
            assert isinstance(route, APIRoute), "only routes of our own are flat"
            whole.add_api_route(
                prefix + route.path,
                _within_session(route.endpoint, sessions),
                methods=sorted(route.methods or ()),
                name=route.name,
                tags=route.tags,
                dependencies=[*dependencies, *route.dependencies],
                response_model=route.response_model,
                response_class=route.response_class,
                status_code=route.status_code,
                responses=route.responses,
                openapi_extra=route.openapi_extra,
                include_in_schema=route.include_in_schema,
            )


def _within_session(endpoint: Endpoint, sessions: Sequence[Endpoint]) -> Endpoint:
    """The endpoint, called within the session that it names; itself where it names none."""
    hints = get_type_hints(endpoint, include_extras=True)
    names = [name for name, hint in hints.items() if _dependency(hint) in sessions]
    if not names:
        return endpoint
    (name,) = names
    assert not iscoroutinefunction(endpoint), "what waits for the database runs in a thread"

    @wraps(endpoint)
    def call(**arguments: Any) -> Any:
        scope: SessionScope = arguments.pop(name)
        with scope as session:
            return endpoint(**arguments, **{name: session})

    return call


def _dependency(hint: Any) -> Any:
    return next((one.dependency for one in getattr(hint, "__metadata__", ()) if isinstance(one, Depends)), None)
