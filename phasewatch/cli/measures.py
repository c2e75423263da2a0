"""`phasewatch measures` and `phasewatch measure`: what can be measured, and asking for it at checkpoints of a run."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from phasewatch.cli.options import JsonOption, TokenOption, UrlOption, connect, echo_json
from phasewatch.cli.runs import RunArgument, find_run
from phasewatch.cli.tables import console, plain, print_measures
from phasewatch.client import Client
from phasewatch.errors import InvalidInput

POLL_S: float = 0.5
HINT_S: float = 15.0  # that nobody took a job before it is said
_OVER = ("done", "failed", "cancelled")
_NOBODY = "no worker has taken a job yet; `python -m server worker` starts one"


def measures(ctx: typer.Context, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """List every measure the server knows: what it needs, and when it is measured."""
    with connect(ctx, url, token) as client:
        found = list(client.items("/measures"))
    if as_json:
        echo_json({"items": found, "next": None})
    else:
        print_measures(console(), found)


def measure(
    ctx: typer.Context,
    run: RunArgument,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Measures, such as copying, ablation:L1H0, token_group:x.")
    ],
    steps: Annotated[
        str | None, typer.Option(help="Steps, such as 0,100,200. [default: every checkpoint where it can be measured]")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Stay until it is measured.")] = True,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure something at checkpoints of a run. The status is 1 where a job fails."""
    with connect(ctx, url, token) as client:
        run_id = find_run(client, run)["id"]
        body = {"measures": names, "steps": None if steps is None else _step_numbers(steps)}
        jobs: list[int] = client.post(f"/runs/{run_id}/measures", body)["jobs"]
        states = _wait(client, jobs, to_stderr=as_json) if wait else [client.get(f"/jobs/{job}") for job in jobs]
    failed = [job for job in states if job["state"] == "failed"]
    if as_json:
        echo_json({"items": states, "next": None})
    else:
        out = console()
        for job in failed:
            words = str(job["error"]).partition("\n")[0]
            out.print(plain(f"step {job['step']}: {words}", "red"), soft_wrap=True)
        done = sum(job["state"] == "done" for job in states)
        after = f"`phasewatch show {run_id}` shows it" if wait else f"{len(states)} jobs are queued"
        out.print(plain(f"measured at {done} of {len(states)} checkpoints; {after}"), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _step_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInput(f"steps {text!r} cannot be read; give numbers with commas between, such as 0,100") from error


def _wait(client: Client, jobs: list[int], *, to_stderr: bool) -> list[dict[str, Any]]:
    """The jobs once all of them are over, whatever became of them."""
    columns = (
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("checkpoints"),
        TimeElapsedColumn(),
    )
    over: dict[int, dict[str, Any]] = {}
    begun, hinted = time.monotonic(), False
    with Progress(*columns, console=console(stderr=to_stderr)) as progress:
        task = progress.add_task("", total=len(jobs))
        while True:
            for job in jobs:
                if job not in over:
                    found = client.get(f"/jobs/{job}")
                    if found["state"] not in _OVER:
                        waits = found["state"] == "waiting" and not found["attempts"] and not over
                        if waits and not hinted and time.monotonic() - begun > HINT_S:
                            hinted = True
                            progress.console.print(_NOBODY)
                        break
                    over[job] = found
            progress.update(task, completed=len(over))
            if len(over) == len(jobs):
                return [over[job] for job in jobs]
            time.sleep(POLL_S)
