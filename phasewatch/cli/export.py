"""`phasewatch export`: a run as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from phasewatch.cli.options import TokenOption, UrlOption, connect
from phasewatch.cli.runs import RunArgument, find_run
from phasewatch.cli.tables import console, plain
from phasewatch.errors import InvalidInput


def export(
    ctx: typer.Context,
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")],
    form: Annotated[
        Literal["parquet", "npz"], typer.Option("--format", help="A zip of Parquet tables, or arrays for numpy.load.")
    ] = "parquet",
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Write a run into one file: losses, series, measurements, changes and metadata."""
    if out.exists():
        raise InvalidInput(f"{out} is there already; name a new file")
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with connect(ctx, url, token) as client:
        found = find_run(client, run)
        with Progress(*columns, console=console(stderr=True), transient=True) as bars:
            bar = bars.add_task(f"exporting {plain(found['name'])}", total=None)
            size = client.download(
                f"/runs/{found['id']}/export", out, lambda n: bars.update(bar, completed=n), format=form
            )
    console().print(plain(f"{out}: {size:,} bytes"), soft_wrap=True)
