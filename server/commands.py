"""The commands of `python -m server`, apart from __main__.py so that child processes do not load them.

python -m server [--port N] [--with-trainer]     API, scheduler and job worker in one process
python -m server api | scheduler | worker        one part alone
python -m server migrate                         brings the database to this code's schema
python -m server backup FILE | restore FILE      everything there is in one file, and back into an empty place
python -m server doctor                          says what is wrong, and what to do
python -m server token create NAME --scope read  makes a token and prints it, once
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from phasewatch.errors import InvalidInput, NotFound, PhasewatchError
from phasewatch.storage.database import Database
from phasewatch.storage.schema import Scope
from phasewatch.storage.tokens import new_token, put_token
from server import backup as backups
from server.certificates import write_certificates
from server.doctor import examine
from server.logs import configure_logging
from server.migrations import upgrade
from server.progress import shown_progress
from server.settings import Settings

MAX_NAME = 200

Port = Annotated[
    int | None, typer.Option(min=0, max=65_535, help="Port to listen on, 0 for a free one; else PHASEWATCH_PORT.")
]
Slots = Annotated[int, typer.Option(min=1, max=256, help="Jobs done at once.")]

app = typer.Typer(
    help="The phasewatch service: API, scheduler and job worker. Without a command, all three in one process.",
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
)
tokens = typer.Typer(help="API tokens.", no_args_is_help=True)
app.add_typer(tokens, name="token")


def main() -> None:
    """Runs the command line; an error of ours or of the database is one line and exit status 1."""
    with _errors_as_a_line():
        app(prog_name="python -m server")


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    port: Port = None,
    with_trainer: Annotated[bool, typer.Option("--with-trainer", help="Also train queued runs, beside it.")] = False,
) -> None:
    """API, scheduler and job worker in one process."""
    if context.invoked_subcommand is None:
        _serve("api", "scheduler", "worker", port=port, with_trainer=with_trainer)


@app.command()
def api(port: Port = None) -> None:
    """The REST API and the page alone."""
    _serve("api", port=port)


@app.command()
def scheduler() -> None:
    """The scheduler alone; any number may run on one database."""
    _serve("scheduler")


@app.command()
def worker(slots: Slots = 1) -> None:
    """A job worker alone; any number may run on one database."""
    _serve("worker", slots=slots)


@app.command()
def migrate() -> None:
    """Brings the database to this code's schema."""
    configure_logging()
    database = Settings().open_database(unhurried=True)
    try:
        before = database.schema_revision()
        upgrade(database)
        typer.echo(f"schema {before or 'none'} -> {database.schema_revision()}")
    finally:
        database.close()


@app.command()
def certificates(folder: Annotated[Path, typer.Argument(help="Where they go.")]) -> None:
    """Makes the certificates that a dask cluster needs, where good ones are not there yet."""
    made = write_certificates(folder)
    typer.echo(f"{'made' if made else 'kept'} ca.pem, cert.pem and key.pem in {folder}")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="A new file, or a folder for a file named after the time.")],
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave out artifacts that are damaged.")] = False,
) -> None:
    """Writes database and artifacts into one file, while the service runs, and checks it."""
    configure_logging()
    settings = Settings()
    database = _existing_database(settings)
    try:
        with shown_progress() as progress:
            path, found = backups.backup(database, settings.open_artifacts(), target, progress, keep_going=keep_going)
        for file in found.left_out:
            typer.echo(f"left out {file.name}: {file.reason}", err=True)
        typer.echo(f"{path}: {found.rows['runs']} runs, {len(found.artifacts)} artifacts, {found.size_bytes} bytes")
    finally:
        database.close()


@app.command()
def restore(archive: Annotated[Path, typer.Argument(help="What `backup` wrote.")]) -> None:
    """Fills an empty database and artifacts folder from a backup; stop the service before."""
    configure_logging()
    settings = Settings()
    database = settings.open_database(unhurried=True)
    try:
        with shown_progress() as progress:
            found = backups.restore(database, settings.open_artifacts(), archive, progress)
        for file in found.left_out:
            typer.echo(f"not in the backup: {file.name}: {file.reason}", err=True)
        of = f"of {found.started_at:%Y-%m-%d %H:%M} UTC"
        typer.echo(f"restored {found.rows['runs']} runs and {len(found.artifacts)} artifacts {of}")
    finally:
        database.close()


@app.command()
def doctor(
    every: Annotated[bool, typer.Option("--all", help="Read every artifact, not only the newest.")] = False,
) -> None:
    """Looks the service over; exit status 1 where something is wrong, with what to do."""
    configure_logging()
    settings = Settings()
    database = _existing_database(settings)
    try:
        with shown_progress() as progress:
            found = list(examine(database, settings.open_artifacts(), progress, every_artifact=every))
    finally:
        database.close()
    for finding in found:
        typer.echo(str(finding))
    if not all(finding.is_well for finding in found):
        raise typer.Exit(1)


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Whose it is, for people to read.")],
    scope: Annotated[str, typer.Option(help="read, write or admin")] = "read",
) -> None:
    """Makes a token and prints it; it is not shown again."""
    if not 0 < len(name) <= MAX_NAME or "\x00" in name:
        raise InvalidInput(f"token name has {len(name)} characters; give 1 to {MAX_NAME}, none of them NUL")
    settings = Settings()
    database = open_database(settings)
    try:
        token = new_token()
        with database.transaction() as session:
            put_token(session, token, name=name, scope=_scope(scope))
        typer.echo(token)
    finally:
        database.close()


def _scope(text: str) -> Scope:
    match text:
        case "read" | "write" | "admin":
            return text
    raise InvalidInput(f"scope is {text!r}; give read, write or admin")


def open_database(settings: Settings) -> Database:
    """The settings' database: the embedded one is brought up to date, another is refused unless it is.

    Raises SchemaMismatch, which names the command that mends it.
    """
    database = settings.open_database()
    try:
        if settings.is_embedded:
            upgrade(database)
        database.check_schema()
    except BaseException:
        database.close()
        raise
    return database


def _existing_database(settings: Settings) -> Database:
    """The settings' database as it is; a SQLite file is not made by looking at it. Raises NotFound without one."""
    path = make_url(settings.database_url).database
    if settings.is_embedded and path is not None and not Path(path).exists():
        raise NotFound(f"{path} does not exist; go to the service's folder, or name it with PHASEWATCH_DATA")
    return settings.open_database(unhurried=True)


def _serve(*parts: str, port: int | None = None, with_trainer: bool = False, slots: int = 1) -> None:
    from server.service import serve  # loads torch and FastAPI, which the short commands do without

    configure_logging()
    settings = Settings() if port is None else Settings(port=port)
    database = open_database(settings)
    try:
        serve(settings, database, frozenset(parts), with_trainer=with_trainer, slots=slots)
    finally:
        database.close()


@contextmanager
def _errors_as_a_line() -> Iterator[None]:
    try:
        yield
    except (PhasewatchError, OSError) as error:
        _fail(str(error))
    except ValidationError as error:
        _fail("; ".join(f"setting PHASEWATCH_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()))
    except SQLAlchemyError as error:
        _fail(f"the database cannot be used: {str(error).splitlines()[0]}")


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(1)
