"""Options that every command has: which server, who asks, and whether a program or a person reads the answer.

`--url` and `--token` may stand before the command or after it; the environment is read where neither is given.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from phasewatch.client import DEFAULT_URL, Client

UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help=f"The server. [env: PHASEWATCH_URL; default: {DEFAULT_URL}]"),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", metavar="TOKEN", help="A token of the server. [env: PHASEWATCH_TOKEN, or PHASEWATCH_TOKEN_FILE]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of tables.")]


@dataclass(frozen=True)
class Connection:
    """What stood before the command."""

    url: str | None = None
    token: str | None = None


def connect(ctx: typer.Context, url: str | None, token: str | None) -> Client:
    """A client of the server that the call names; what stands after the command counts first."""
    before = ctx.obj if isinstance(ctx.obj, Connection) else Connection()
    return Client(url or before.url, token or before.token)


def echo_json(content: Any) -> None:
    """`content` on standard output, indented."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
