"""`phasewatch channel` and `phasewatch alerts`: where the server sends alerts, and what it sent."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Annotated, Any

import typer

from phasewatch.cli.options import JsonOption, TokenOption, UrlOption, connect, echo_json
from phasewatch.cli.runs import find_run
from phasewatch.cli.tables import console, new_table, plain, short_time
from phasewatch.client import Client
from phasewatch.errors import InvalidInput, Unavailable

channel = typer.Typer(name="channel", help="Where alerts go: webhooks, mail, Slack and others.", no_args_is_help=True)

ChannelArgument = Annotated[int, typer.Argument(metavar="CHANNEL", min=1, help="A channel's id.")]


KindOption = Annotated[
    list[str] | None,
    typer.Option("--kind", help="phase_change, stale_run, divergence or job_failed; may be repeated [default: all]."),
]
StateOption = Annotated[
    list[str] | None,
    typer.Option("--state", help="provisional, confirmed or withdrawn; may be repeated [default: confirmed]."),
]
AddressArgument = Annotated[
    str,
    typer.Argument(
        metavar="ADDRESS",
        help="https://… for a signed webhook, or an Apprise URL: mailto://, slack://, ntfy:// … (-: standard input)",
    ),
]


@channel.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    address: AddressArgument,
    kind: KindOption = None,
    run: Annotated[str | None, typer.Option("--run", help="Only of one run: its id or its name.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only of runs with this tag.")] = None,
    state: StateOption = None,
    induction_only: Annotated[
        bool, typer.Option("--induction-only", help="Of phase changes only the formation of induction heads.")
    ] = False,
    min_effect: Annotated[float | None, typer.Option(help="Only phase changes of at least this size.")] = None,
    max_q: Annotated[float | None, typer.Option(help="Only phase changes with a q-value of at most this.")] = None,
    quiet: Annotated[
        str | None, typer.Option(metavar="FROM-TO", help="Hours in which nothing is sent, such as 22:00-07:00.")
    ] = None,
    zone: Annotated[str, typer.Option(help="The time zone of these, such as Europe/Berlin.")] = "UTC",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a channel. The secret of a webhook is shown once, here."""
    given = {"kinds": kind or None, "states": state or None, "min_effect": min_effect, "max_q": max_q}
    rules: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    address = sys.stdin.readline().strip() if address == "-" else address
    with connect(ctx, url, token) as client:
        rules |= {"induction_only": induction_only, "runs": _selector(client, run, tag)}
        body = {"name": name, "url": address, "rules": rules, "quiet_hours": _quiet(quiet, zone)}
        made = client.post("/channels", body)
    if as_json:
        echo_json(made)
        return
    out = console()
    out.print(plain(f"channel {made['id']}: {made['name']}, {made['kind']} to {made['address']}"), soft_wrap=True)
    if made["secret"] is not None:
        out.print(plain(f"its messages are signed with {made['secret']} (shown this once)"), soft_wrap=True)


@channel.command("list")
def list_channels(
    ctx: typer.Context, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """List channels, oldest first."""
    with connect(ctx, url, token) as client:
        found = list(client.items("/channels"))
    if as_json:
        echo_json({"items": found, "next": None})
        return
    if not found:
        console().print("no channels yet; `phasewatch channel add NAME ADDRESS` makes one")
        return
    table = new_table(">id", "name", "kind", "address", "told of", "quiet", "")
    for one in found:
        quiet = one["quiet_hours"]
        table.add_row(
            str(one["id"]), plain(one["name"]), one["kind"], plain(one["address"]), plain(_words(one["rules"])),
            plain("" if quiet is None else f"{quiet['from']}-{quiet['to']} {quiet['zone']}"),
            "" if one["enabled"] else "off",
        )  # fmt: skip
    console().print(table)


@channel.command("test")
def send_test(
    ctx: typer.Context, channel_id: ChannelArgument, url: UrlOption = None, token: TokenOption = None
) -> None:
    """Send a test message now; exit status 1 where it does not arrive."""
    with connect(ctx, url, token) as client:
        found = client.post(f"/channels/{channel_id}/test", {})
    status = "" if found["status_code"] is None else f" with status {found['status_code']}"
    said = f"{found['outcome']}{status} after {found['took_ms']:.0f} ms"
    if found["outcome"] != "delivered":
        raise Unavailable(f"channel {channel_id}: {said}" + (f": {found['detail']}" if found["detail"] else ""))
    console().print(plain(said))


@channel.command("remove")
def remove(ctx: typer.Context, channel_id: ChannelArgument, url: UrlOption = None, token: TokenOption = None) -> None:
    """Delete a channel, with its alerts and their log."""
    with connect(ctx, url, token) as client:
        gone = client.delete(f"/channels/{channel_id}")
    console().print(plain(f"channel {channel_id} is deleted, and {gone['alerts']:,} alerts"))


def alerts(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Option("--run", help="Only about one run: its id or its name.")] = None,
    channel_id: Annotated[int | None, typer.Option("--channel", min=1, help="Only for this channel.")] = None,
    state: Annotated[str | None, typer.Option(help="Only waiting, sending, sent or failed ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List alerts, newest first: what channels were told of, and whether it arrived."""
    with connect(ctx, url, token) as client:
        found = list(islice(client.items("/alerts", **_asked(client, run, channel_id, state)), limit))
    if as_json:
        echo_json({"items": found, "next": None})
        return
    if not found:
        console().print("no alerts")
        return
    table = new_table(">id", "raised", ">channel", "state", ">attempts", "what")
    for one in found:
        table.add_row(
            str(one["id"]), short_time(one["created_at"]), str(one["channel"]), one["state"], str(one["attempts"]),
            plain(one["title"]),
        )  # fmt: skip
    console().print(table)


def _asked(client: Client, run: str | None, channel_id: int | None, state: str | None) -> dict[str, Any]:
    wanted = {"run": None if run is None else find_run(client, run)["id"], "channel": channel_id, "state": state}
    return {name: value for name, value in wanted.items() if value is not None}


def _selector(client: Client, run: str | None, tag: str | None) -> dict[str, Any]:
    if run is not None and tag is not None:
        raise InvalidInput("give --run or --tag, not both")
    if run is not None:
        return {"run": find_run(client, run)["id"]}
    return {"all": True} if tag is None else {"tag": tag}


def _quiet(text: str | None, zone: str) -> dict[str, str] | None:
    if text is None:
        return None
    begin, between, end = text.partition("-")
    if not between:
        raise InvalidInput(f"quiet hours {text!r} cannot be read; give them as 22:00-07:00")
    return {"from": begin, "to": end, "zone": zone}


def _words(rules: dict[str, Any]) -> str:
    """What a channel is told of, on one line."""
    which = ", ".join(rules["kinds"]) if len(rules["kinds"]) < 4 else "everything"
    runs = [f"of {what} {value}" for what, value in rules["runs"].items() if what != "all"]
    limits = ["induction only"] if rules["induction_only"] else []
    limits += [f"{word} {rules[name]:g}" for name, word in (("min_effect", "size from"), ("max_q", "q up to"))
               if rules[name] is not None]  # fmt: skip
    return "; ".join([which, *runs, *limits])
