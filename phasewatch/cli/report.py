"""`phasewatch report`: one run as a file that can be read offline and attached to a paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from phasewatch.cli.options import JsonOption, TokenOption, UrlOption, connect, echo_json
from phasewatch.cli.runs import RunArgument, find_run
from phasewatch.cli.tables import console, plain
from phasewatch.client import Client
from phasewatch.errors import PhasewatchError

if TYPE_CHECKING:  # the report loads matplotlib, which the other commands do without
    from phasewatch.report.run import Tell

Reporter = Callable[[Client, str, Path, dict[str, Path], bool], list[Path]]


def report(
    ctx: typer.Context,
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="The file.  [default: report-RUN.html]")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also its pictures, as PNG at 300 dpi.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also its pictures, as SVG files.")] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what was found in a run as one HTML file: verdict, changes, curves, measures, method."""
    write = _reporter()
    with connect(ctx, url, token) as client:
        run_id = find_run(client, run)["id"]
        folders = {name: folder for name, folder in (("png", png), ("svg", svg)) if folder is not None}
        paths = write(client, run_id, out or Path(f"report-{run_id}.html"), folders, as_json)
    if as_json:
        echo_json({"run": run_id, "paths": [str(path) for path in paths]})
    else:
        console().print(plain("written: " + ", ".join(map(str, paths))), soft_wrap=True)


def _reporter() -> Reporter:
    """Raises PhasewatchError where pictures cannot be drawn."""
    try:
        from phasewatch.report.run import read_run
        from phasewatch.report.run_files import write_report
    except ImportError as error:
        raise PhasewatchError(f"a report has pictures: pip install 'phasewatch[report]' ({error})") from error

    def write(client: Client, run_id: str, out: Path, folders: dict[str, Path], to_stderr: bool) -> list[Path]:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        out_to = console(stderr=to_stderr)
        with Progress(*columns, console=out_to, transient=True, disable=not out_to.is_terminal) as progress:
            facts = read_run(client, run_id, _telling(progress, "reading"))
            return write_report(facts, out, folders, _telling(progress, "drawing"))

    return write


def _telling(progress: Progress, what: str) -> Tell:
    task = progress.add_task(what, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)
