"""`phasewatch monitor`: scheduled watches on runs, when each was due, and firing one by hand."""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any

import typer

from phasewatch.cli.options import JsonOption, TokenOption, UrlOption, connect, echo_json
from phasewatch.cli.runs import find_run
from phasewatch.cli.tables import console, new_table, plain, short_time
from phasewatch.client import Client
from phasewatch.errors import InvalidInput

monitor = typer.Typer(name="monitor", help="Scheduled watches on runs.", no_args_is_help=True)

MonitorArgument = Annotated[int, typer.Argument(metavar="MONITOR", min=1, help="A monitor's id.")]
RunOption = Annotated[str | None, typer.Option("--run", help="Watch one run: its id or its name.")]
TagOption = Annotated[str | None, typer.Option("--tag", help="Watch the runs with this tag.")]
AllOption = Annotated[bool, typer.Option("--all", help="Watch every run.")]
EveryOption = Annotated[float | None, typer.Option("--every", metavar="SECONDS", help="Fire at this interval.")]
CronOption = Annotated[
    str | None, typer.Option("--cron", help="Fire by the clock, in UTC: minute, hour, day, month, weekday.")
]
EachOption = Annotated[bool, typer.Option("--each-checkpoint", help="Fire as soon as there is a new checkpoint.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the kind, such as after_s=600. May be repeated."),
]


@monitor.command("list")
def list_monitors(
    ctx: typer.Context, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """List monitors, oldest first."""
    with connect(ctx, url, token) as client:
        found = list(client.items("/monitors"))
    if as_json:
        echo_json({"items": found, "next": None})
        return
    table = new_table(">id", "name", "kind", "runs", "when", "parameters", "")
    for one in found:
        table.add_row(
            str(one["id"]), plain(one["name"]), plain(one["kind"]), plain(_words(one["selector"])),
            plain(_words(one["trigger"])), plain(_words(one["parameters"])), "" if one["enabled"] else "off",
        )  # fmt: skip
    console().print(table)


@monitor.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    kind: Annotated[
        str,
        typer.Option(help="score, scan, ablate_on_change, compare, retention, watch_folder, stale_run or divergence."),
    ],
    run: RunOption = None,
    tag: TagOption = None,
    every_run: AllOption = False,
    every: EveryOption = None,
    cron: CronOption = None,
    each_checkpoint: EachOption = False,
    parameters: SetOption = None,
    off: Annotated[bool, typer.Option("--off", help="Make it, but do not let it fire yet.")] = False,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a monitor."""
    trigger = _one_of({"--every": every, "--cron": cron, "--each-checkpoint": each_checkpoint or None}, needed=True)
    with connect(ctx, url, token) as client:
        body = {
            "name": name, "kind": kind, "selector": _selector(client, run, tag, every_run, needed=True),
            "trigger": trigger, "parameters": _parameters(parameters or []), "enabled": not off,
        }  # fmt: skip
        made = client.post("/monitors", body)
    _say(made, as_json)


@monitor.command("edit")
def edit(
    ctx: typer.Context,
    which: MonitorArgument,
    name: Annotated[str | None, typer.Option(help="Call it this.")] = None,
    run: RunOption = None,
    tag: TagOption = None,
    every_run: AllOption = False,
    every: EveryOption = None,
    cron: CronOption = None,
    each_checkpoint: EachOption = False,
    parameters: SetOption = None,
    on: Annotated[bool | None, typer.Option("--on/--off", help="Let it fire, or not.")] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a monitor. --set replaces all parameters it had; what is left out stays as it is."""
    trigger = _one_of({"--every": every, "--cron": cron, "--each-checkpoint": each_checkpoint or None}, needed=False)
    with connect(ctx, url, token) as client:
        changes = {
            "name": name, "selector": _selector(client, run, tag, every_run, needed=False), "trigger": trigger,
            "parameters": None if parameters is None else _parameters(parameters), "enabled": on,
        }  # fmt: skip
        given = {field: value for field, value in changes.items() if value is not None}
        if not given:
            raise InvalidInput(f"nothing was named that is to change in monitor {which}; --help lists what can")
        made = client.patch(f"/monitors/{which}", given)
    _say(made, as_json)


@monitor.command("remove")
def remove(ctx: typer.Context, which: MonitorArgument, url: UrlOption = None, token: TokenOption = None) -> None:
    """Delete a monitor and the history of its firings."""
    with connect(ctx, url, token) as client:
        gone = client.delete(f"/monitors/{which}")
    console().print(plain(f"monitor {which} is deleted, and {gone['firings']:,} firings of it"))


@monitor.command("fire")
def fire(
    ctx: typer.Context,
    which: MonitorArgument,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fire a monitor now."""
    with connect(ctx, url, token) as client:
        fired = client.post(f"/monitors/{which}/fire")
    if as_json:
        echo_json(fired)
        return
    jobs = ", ".join(map(str, fired["jobs"])) or "none: there was nothing to do"
    console().print(plain(f"firing {fired['firing']}; jobs: {jobs}"), soft_wrap=True)


@monitor.command("firings")
def firings(
    ctx: typer.Context,
    which: MonitorArgument,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List when a monitor was due, newest first, and what became of the jobs it asked for."""
    with connect(ctx, url, token) as client:
        found = list(islice(client.items(f"/monitors/{which}/firings"), limit))
    if as_json:
        echo_json({"items": found, "next": None})
        return
    table = new_table(">firing", "due", "", "jobs")
    for one in found:
        states = [job["state"] for job in one["jobs"]]
        counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        missed = "for earlier ones, too" if one["coalesced"] else ""
        table.add_row(str(one["id"]), short_time(one["scheduled_at"]), missed, plain(counted or "–"))
    console().print(table)


def _say(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(made)
    else:
        state = "" if made["enabled"] else ", off"
        words = f"{_words(made['selector'])}, {_words(made['trigger'])}{state}"
        console().print(plain(f"monitor {made['id']} ({made['kind']}) {made['name']}: {words}"), soft_wrap=True)


_FIELDS = {"--every": "every_s", "--cron": "cron", "--each-checkpoint": "each_checkpoint"}


def _one_of(given: dict[str, Any], *, needed: bool) -> dict[str, Any] | None:
    """The trigger that the options describe. Raises InvalidInput for several, or for none where one is needed."""
    named = {_FIELDS[option]: value for option, value in given.items() if value is not None}
    if len(named) > 1 or (needed and not named):
        raise InvalidInput(f"say when in exactly one way, not {len(named)}: {', '.join(given)}")
    return named or None


def _selector(
    client: Client, run: str | None, tag: str | None, every_run: bool, *, needed: bool
) -> dict[str, Any] | None:
    options = {"run": run, "tag": tag, "all": every_run or None}
    named = {name: value for name, value in options.items() if value is not None}
    if len(named) > 1 or (needed and not named):
        raise InvalidInput(f"name the runs in exactly one way, not {len(named)}: --run, --tag, --all")
    return {"run": find_run(client, run)["id"]} if run is not None else named or None


def _parameters(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE as parameters: a value that is JSON is what JSON says, any other is text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InvalidInput(f"--set {text!r} cannot be read; write NAME=VALUE, such as after_s=600")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _words(values: dict[str, Any]) -> str:
    """{"every_s": 60} as `every_s 60`."""
    shown = {name: value for name, value in values.items() if value is not None}
    return ", ".join(name if value is True else f"{name} {value}" for name, value in shown.items())
