"""`phasewatch runs` and `phasewatch show`."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal

import typer

from phasewatch.cli.options import JsonOption, TokenOption, UrlOption, connect, echo_json
from phasewatch.cli.summary import phase_changes, summarise
from phasewatch.cli.tables import console, print_runs, print_summary
from phasewatch.client import Client
from phasewatch.errors import InvalidInput, NotFound

Status = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of one, or a name.")]
_SHOWN_CANDIDATES = 5
_LONGEST_NAME = 200


def runs(
    ctx: typer.Context,
    status: Annotated[Status | None, typer.Option(help="Only runs in this status.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    name: Annotated[str | None, typer.Option(help="Only runs of this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    with connect(ctx, url, token) as client:
        found = list(islice(client.items("/runs", status=status, tag=tag, name=name), limit))
        changes = [phase_changes(client, run["id"]) for run in found]
    if as_json:
        items = [{**run, "phase_changes": len(of_run)} for run, of_run in zip(found, changes, strict=True)]
        echo_json({"items": items, "next": None})
    else:
        print_runs(console(), found, changes)


def show(
    ctx: typer.Context,
    run: RunArgument,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one run: its metrics, its measures and its phase changes."""
    with connect(ctx, url, token) as client:
        summary = summarise(client, find_run(client, run)["id"])
    if as_json:
        echo_json(summary.to_dict())
    else:
        print_summary(console(), summary)


def find_run(client: Client, wanted: str) -> dict[str, Any]:
    """The run of that id, beginning of an id, or name. Raises NotFound, or InvalidInput where several fit."""
    could_be_name = wanted.isprintable() and 0 < len(wanted) <= _LONGEST_NAME
    named = list(islice(client.items("/runs", name=wanted), _SHOWN_CANDIDATES + 1)) if could_be_name else []
    prefix = wanted.lower().replace("-", "")
    is_prefix = bool(prefix) and set(prefix) <= set("0123456789abcdef")
    found = named or [
        run for run in (client.items("/runs") if is_prefix else ()) if run["id"].replace("-", "").startswith(prefix)
    ]
    if not found:
        raise NotFound(f"no run on {client.url} has the id or the name {wanted!r}; `phasewatch runs` lists them")
    if len(found) > 1:
        shown = ", ".join(run["id"] for run in found[:_SHOWN_CANDIDATES])
        more = " …" if len(found) > _SHOWN_CANDIDATES else ""
        raise InvalidInput(f"{wanted!r} could be any of several runs; give an id: {shown}{more}")
    return found[0]
