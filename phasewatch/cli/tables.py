"""How the command prints: tables and sentences on a terminal, and nothing that a name could do to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phasewatch.cli.summary import Course, LastValue, RunSummary

_PIPED_WIDTH = 160
_ID_LENGTH = 13  # the whole of a UUIDv7's time, which tells runs apart
_COLOURS = {"running": "cyan", "completed": "green", "failed": "red", "cancelled": "yellow", "paused": "yellow"}


def console(*, stderr: bool = False) -> Console:
    """A console without markup, so that brackets in names stay brackets; wide where no terminal says otherwise."""
    found = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not found.is_terminal:
        found.width = _PIPED_WIDTH
    return found


def plain(text: object, style: str = "") -> Text:
    """Text of the server's on one line, without characters that would steer the terminal."""
    return Text(re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]+", " ", str(text)), style=style)


def print_runs(out: Console, runs: Sequence[dict[str, Any]], changes: Sequence[list[dict[str, Any]]]) -> None:
    """A line a run."""
    if not runs:
        out.print("no runs yet; `phasewatch train CONFIG.toml` queues one, and a Recorder makes one")
        return
    table = new_table("run", "id", "status", ">step", "created", "phase changes")
    for run, of_run in zip(runs, changes, strict=True):
        table.add_row(
            plain(run["name"]), plain(run["id"][:_ID_LENGTH]), _status(run["status"]), _progress(run),
            short_time(run["created_at"]), _counted(of_run),
        )  # fmt: skip
    out.print(table)


def print_summary(out: Console, summary: RunSummary) -> None:
    """A run from its name to its phase changes."""
    run = summary.run
    out.print(plain(run["name"], "bold"), plain(run["id"]), _status(run["status"]), Text("step"), _progress(run))
    if run["tags"]:
        out.print(plain("tags: " + ", ".join(run["tags"])))
    if run["failure"]:
        out.print(plain(run["failure"], "red"))
    if summary.series:
        out.print(_series_table(summary.series))
    heads = [found for found in summary.measures if found.head is not None]
    numbers = [found for found in summary.measures if found.head is None]
    if heads:
        out.print(_heads_table(heads))
    if numbers:
        out.print(_numbers_table(numbers))
    out.print(plain("phase changes", "bold"))
    if not summary.phase_changes:
        out.print("none found" if run["last_step"] is not None else "nothing recorded yet")
    for change in summary.phase_changes:
        out.print(sentence(change), soft_wrap=True)
    for note in summary.notes if run["last_step"] is not None else ():
        out.print(plain(f"note: {note}", "dim"), soft_wrap=True)


def print_measures(out: Console, measures: Sequence[dict[str, Any]]) -> None:
    """A line a measure."""
    rows = new_table("measure", "needs", "measured", "shape", "unit", ">chance", ">perfect")
    for one in measures:
        shape = " × ".join(one["shape"]) or "one number"
        rows.add_row(
            plain(one["parameters"] or one["name"]), plain(one["needs"]), plain(one["cost"].replace("_", " ")),
            plain(shape), plain(one["unit"]), _number(one["chance"], ""), _number(one["perfect"], ""),
        )  # fmt: skip
    out.print(rows)


def print_groups(out: Console, groups: Sequence[dict[str, Any]]) -> None:
    """A line a token group."""
    if not groups:
        out.print("no token groups yet; `phasewatch group add` defines one")
        return
    rows = new_table("group", "described by", "tokens", "measured as")
    for one in groups:
        described = ", ".join(f"{way}: {value}" for way, value in one["group"].items() if value not in (None, False))
        members = ", ".join(f"{n:,} of {part}" for part, n in one["n_members"].items())
        rows.add_row(plain(one["name"]), plain(described), plain(members), plain(", ".join(one["measures"].values())))
    out.print(rows)


def sentence(change: dict[str, Any]) -> Text:
    """A phase change in words."""
    notes = [note for note in (change["state"], change["review"]) if note not in (None, "confirmed")]
    marked = f" ({', '.join(notes)})" if notes else ""
    return Text("• ").append_text(plain(change["explanation"])).append(plain(marked, "dim"))


def _series_table(series: Iterable[LastValue]) -> Table:
    table = new_table("metric", ">step", ">last")
    for metric in series:
        table.add_row(plain(metric.name), str(metric.step), _number(metric.value))
    return table


def _heads_table(courses: Iterable[Course]) -> Table:
    table = new_table("highest head", ">first", ">last", ">highest", "head", ">chance", ">checkpoints")
    for found in courses:
        head = "" if found.head is None else f"L{found.head[0]}H{found.head[1]}"
        table.add_row(
            plain(found.measure), _number(found.first), _number(found.last), _number(found.highest), head,
            _number(found.chance, ""), str(found.n_steps),
        )  # fmt: skip
    return table


def _numbers_table(courses: Iterable[Course]) -> Table:
    table = new_table("measure", ">first", ">last", "unit", ">checkpoints")
    for found in courses:
        unit = plain(found.unit or "")
        table.add_row(plain(found.measure), _number(found.first), _number(found.last), unit, str(found.n_steps))
    return table


def new_table(*columns: str) -> Table:
    """A table; a column whose name begins with > is aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def _status(status: str) -> Text:
    return plain(status, _COLOURS.get(status, ""))


def _progress(run: dict[str, Any]) -> Text:
    if run["last_step"] is None:
        return Text("–")
    return Text(f"{run['last_step']}" + (f"/{run['n_steps']}" if run["n_steps"] is not None else ""))


def short_time(moment: str) -> Text:
    """A time of the API's, in this machine's time zone."""
    return Text(datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M"))


def _counted(changes: Sequence[dict[str, Any]]) -> Text:
    induction = [change["step"] for change in changes if change["induction"]]
    if not changes:
        return Text("–")
    words = f" (induction at step {', '.join(map(str, induction))})" if induction else ""
    return Text(f"{len(changes)}{words}")


def _number(value: float | str | None, missing: str = "nan") -> str:
    if value is None:
        return missing
    return str(value) if isinstance(value, str) else f"{value:.4g}"
