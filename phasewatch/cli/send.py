"""`phasewatch send`: what recorders left on a spool, sent without a new training."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from phasewatch.cli.options import TokenOption, UrlOption, connect
from phasewatch.cli.tables import console
from phasewatch.earlier import route_of
from phasewatch.errors import PhasewatchError, Unavailable
from phasewatch.journal import checked_folder
from phasewatch.recorder import DEFAULT_SPOOL
from phasewatch.spool import left_behind
from phasewatch.transport import Route, Sender

_LOOK_S = 0.1


def send(
    ctx: typer.Context,
    spool: Annotated[str, typer.Argument(metavar="FOLDER", help="The recorder's spool.")] = DEFAULT_SPOOL,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that is away.")] = 60.0,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Send what recorders could not send before their process ended."""
    folder = checked_folder(spool)
    with connect(ctx, url, token) as client:
        found = [route_of(journal) for journal in left_behind(folder, client.url)]
        n_found = _n_waiting(found)
        sender = Sender(found, client.connection())
        sender.start()
        try:
            _watch(sender, found, timeout)
        finally:
            sender.stop()
            for route in found:
                route.outbox.close()
    n_left = _n_waiting(found)
    typer.echo(f"{n_found - n_left} messages of {len(found)} recorders sent to {client.url}")
    if n_left:
        raise Unavailable(f"{n_left} messages stay in {folder}: {client.url} took nothing for {timeout:g} s")
    if sender.refused:
        raise PhasewatchError(f"{sender.refused} of them were refused; the last: {sender.errors[-1]}")


def _n_waiting(routes: list[Route]) -> int:
    return sum(len(route.outbox) for route in routes)


def _watch(sender: Sender, routes: list[Route], timeout_s: float) -> None:
    """Returns once everything is sent, or nothing was for so many seconds."""
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    total = left = _n_waiting(routes)
    moved = time.monotonic()
    out_to = console(stderr=True)
    with Progress(*columns, console=out_to, transient=True, disable=not out_to.is_terminal) as progress:
        task = progress.add_task("", total=total)
        while sender.is_alive and time.monotonic() - moved < timeout_s:
            time.sleep(_LOOK_S)
            if (now := _n_waiting(routes)) != left:
                left, moved = now, time.monotonic()
            progress.update(task, completed=total - left)
