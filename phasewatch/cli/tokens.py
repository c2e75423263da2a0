"""`phasewatch token`: who may ask a server, listed, made and revoked by its admins."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from phasewatch.cli.options import JsonOption, TokenOption, UrlOption, connect, echo_json
from phasewatch.cli.tables import console, new_table, plain, short_time

token = typer.Typer(name="token", help="Tokens of the server; an admin's is needed.", no_args_is_help=True)


@token.command("list")
def list_tokens(
    ctx: typer.Context,
    revoked: Annotated[bool, typer.Option("--revoked", help="Also those that were revoked.")] = False,
    url: UrlOption = None,
    with_token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tokens, oldest first; their text is kept nowhere."""
    with connect(ctx, url, with_token) as client:
        found = list(client.items("/tokens", revoked=revoked or None))
    if as_json:
        echo_json({"items": found, "next": None})
        return
    table = new_table(">id", "name", "scope", "made by", "last used", "ends", "revoked")
    for one in found:
        times = [_time(one[name]) for name in ("last_used_at", "expires_at", "revoked_at")]
        table.add_row(str(one["id"]), plain(one["name"]), one["scope"], plain(one["made_by"] or ""), *times)
    console().print(table)


@token.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")],
    scope: Annotated[Literal["read", "write", "admin"], typer.Option(help="What it allows.")] = "read",
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends, such as 2027-06-30T00:00:00Z.")
    ] = None,
    url: UrlOption = None,
    with_token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it; it is not shown again."""
    with connect(ctx, url, with_token) as client:
        made = client.post("/tokens", {"name": name, "scope": scope, "expires_at": expires_at})
    if as_json:
        echo_json(made)
    else:
        typer.echo(made["token"])


@token.command("revoke")
def revoke(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", help="The token's id, as `list` shows it.")],
    last_admin: Annotated[
        bool, typer.Option("--last-admin", help="Also the last one of scope admin; then nobody can make another.")
    ] = False,
    url: UrlOption = None,
    with_token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a token, and the sessions opened with it."""
    with connect(ctx, url, with_token) as client:
        ended: Any = client.delete(f"/tokens/{number}" + ("?last_admin=true" if last_admin else ""))
    if as_json:
        echo_json(ended)
    else:
        console().print(plain(f"token {number} ({ended['name']}) is revoked"))


def _time(time: str | None) -> Text:
    return Text() if time is None else short_time(time)
