"""The commands put together, and what an error of the library becomes on a terminal."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import phasewatch
from phasewatch.cli.alerts import alerts, channel
from phasewatch.cli.compare import compare
from phasewatch.cli.export import export
from phasewatch.cli.groups import group
from phasewatch.cli.jobs import jobs
from phasewatch.cli.measures import measure, measures
from phasewatch.cli.monitors import monitor
from phasewatch.cli.options import Connection, TokenOption, UrlOption
from phasewatch.cli.report import report
from phasewatch.cli.runs import runs, show
from phasewatch.cli.send import send
from phasewatch.cli.study import study
from phasewatch.cli.tokens import token as token_commands
from phasewatch.cli.train import train
from phasewatch.errors import PhasewatchError


class _Commands(TyperGroup):
    """Commands whose errors are a line to read, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PhasewatchError as error:
            typer.echo(f"phasewatch: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="phasewatch",
    cls=_Commands,
    help="Watch training runs and the phase changes in them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phasewatch {phasewatch.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    url: UrlOption = None,
    token: TokenOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Say the version and end.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    ctx.obj = Connection(url, token)


app.command()(runs)
app.command()(show)
app.command()(train)
app.command()(compare)
app.command()(study)
app.command()(report)
app.command()(export)
app.command()(measures)
app.command()(measure)
app.command()(send)
app.command()(alerts)
app.add_typer(channel)
app.add_typer(group)
app.add_typer(token_commands)
app.add_typer(monitor)
app.add_typer(jobs)
