"""`phasewatch jobs`: the queue, and what became of each piece of work."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal

import typer

from phasewatch.cli.options import JsonOption, TokenOption, UrlOption, connect, echo_json
from phasewatch.cli.runs import find_run
from phasewatch.cli.tables import console, new_table, plain, short_time

jobs = typer.Typer(name="jobs", help="The queue: what waits, runs, is done or failed.", no_args_is_help=True)

State = Literal["waiting", "running", "done", "failed", "cancelled"]
JobArgument = Annotated[int, typer.Argument(metavar="JOB", min=1, help="A job's id.")]
_COLOURS = {"running": "cyan", "done": "green", "failed": "red", "cancelled": "yellow"}


@jobs.command("list")
def list_jobs(
    ctx: typer.Context,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind.")] = None,
    run: Annotated[str | None, typer.Option(help="Only jobs of this run.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connect(ctx, url, token) as client:
        run_id = None if run is None else find_run(client, run)["id"]
        found = list(islice(client.items("/jobs", state=state, kind=kind, run=run_id), limit))
    if as_json:
        echo_json({"items": found, "next": None})
        return
    table = new_table(">id", "kind", "run", ">step", "state", ">attempts", "queued", "")
    for one in found:
        table.add_row(
            str(one["id"]), plain(one["kind"]), plain((one["run"] or "–")[:13]), str(one["step"] or "–"),
            plain(one["state"], _COLOURS.get(one["state"], "")), str(one["attempts"]), short_time(one["created_at"]),
            plain(_remark(one)),
        )  # fmt: skip
    console().print(table)


@jobs.command("show")
def show(
    ctx: typer.Context, job: JobArgument, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Show one job: where it stands, its result, its error; and the traceback to a token of scope admin."""
    with connect(ctx, url, token) as client:
        found = client.get(f"/jobs/{job}")
    if as_json:
        echo_json(found)
        return
    out = console()
    for name in ("id", "kind", "key", "run", "step", "state", "attempts", "parameters", "result"):
        if found[name] is not None:
            out.print(plain(f"{name}: {found[name]}"), soft_wrap=True)
    if _remark(found):
        out.print(plain(_remark(found)), soft_wrap=True)
    for line in (found["traceback"] or "").splitlines():
        out.print(plain(line, "dim"), soft_wrap=True)


@jobs.command("retry")
def retry(ctx: typer.Context, job: JobArgument, url: UrlOption = None, token: TokenOption = None) -> None:
    """Queue a failed or cancelled job again, with three fresh attempts."""
    with connect(ctx, url, token) as client:
        _say(client.post(f"/jobs/{job}/retry"))


@jobs.command("cancel")
def cancel(ctx: typer.Context, job: JobArgument, url: UrlOption = None, token: TokenOption = None) -> None:
    """Cancel a job that waits or runs; what a running one finds is dropped."""
    with connect(ctx, url, token) as client:
        _say(client.post(f"/jobs/{job}/cancel"))


def _say(found: dict[str, Any]) -> None:
    console().print(plain(f"job {found['id']} ({found['kind']}) is {found['state']}"))


def _remark(job: dict[str, Any]) -> str:
    """Why it failed, or how far it is."""
    if job["error"]:
        return str(job["error"]).partition("\n")[0]
    if job["state"] == "running" and job["progress"] is not None:
        return f"{job['progress']:.0%} {job['progress_text'] or ''}".rstrip()
    return ""
