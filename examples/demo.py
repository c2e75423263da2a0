"""The whole of phasewatch in under three minutes: a two-layer transformer learns induction, its control does not.

    make demo        or, with another seed: make demo SEED=3

Starts the service on SQLite and a trainer of two processes; trains a two-layer attention-only transformer and its
one-layer control side by side on the sources of Python's standard library; scores and scans them while they train, and
follows three groups of tokens; silences the heads of what it found, to see what they cause; ends with a table,
pictures, demo/summary.json and the report of the two-layer run, demo/report.html. In a terminal it goes on serving the
page until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from phasewatch.client import Client
from phasewatch.errors import PhasewatchError
from phasewatch.report import head_picture, loss_picture, position_picture, score_picture, token_picture
from phasewatch.report.history import RunHistory, load_gain, load_history
from phasewatch.report.run import read_run
from phasewatch.report.run_files import write_report

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "demo"
REPORT = FOLDER / "report.html"
FIRST_PORT = 8000
GIVE_UP_S = 900.0
MEASURES = ("icl_score", "repeat_gain", "prefix_matching", "natural_prefix_matching", "position_profile")
GROUPS: dict[str, dict[str, Any]] = {
    "after_self": {"pattern": r"\bself\.(.)"},
    "closing_brackets": {"pattern": r"[)\]}]"},
    "induction_predictable": {"induction_predictable": True},
}
DPI = 150
LOG_WIDTH = 120  # columns, where no terminal has its own


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of both runs (default 0)")
    seed: int = parser.parse_args().seed
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    data = FOLDER / "phasewatch-data"
    shutil.rmtree(data, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    port = free_port(FIRST_PORT)
    url = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    with processes(data, port), Client(url, token="") as client:
        wait_until_ready(client)
        console.print(f"phasewatch serves at {url}")
        run_ids = [client.post("/runs", body)["id"] for body in configurations(seed)]
        follow(client, run_ids, console)
        names = (*MEASURES, *(f"token_group:{name}" for name in GROUPS))
        histories = [load_history(client, run_id, names) for run_id in run_ids]
        pictures = draw(client, histories)
        write_report(read_run(client, run_ids[0]), REPORT)
        seconds = time.monotonic() - started
        summary = {"url": url, "seconds": round(seconds, 1), "runs": [summarise(history) for history in histories]}
        (FOLDER / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        report(console, histories, pictures, url, seconds)
        if sys.stdin.isatty() and sys.stdout.isatty():
            console.print(f"The page is at {url}; Ctrl-C ends it.")
            wait_for_interrupt()
    return 0


def configurations(seed: int) -> list[dict[str, Any]]:
    """The bodies of POST /runs: every field that is not named has the default that RECIPES of this demo are made of."""
    two = {"name": "two layers", "seed": seed, "model": {"sublayers": "aa"}}
    one = {"name": "one layer (control)", "seed": seed, "model": {"sublayers": "a"}}
    return [{"name": training["name"], "training": training, "tags": ["demo"]} for training in (two, one)]


# The processes.


@contextmanager
def processes(data: Path, port: int) -> Iterator[None]:
    """The service and a trainer of two processes, their output in demo/*.log; both end with the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PHASEWATCH_")} | {
        "PHASEWATCH_DATA": str(data),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }
    commands = {"server": ["server", "--port", str(port)], "trainer": ["trainer", "--processes", "2"]}
    children = []
    try:
        for name, arguments in commands.items():
            with (FOLDER / f"{name}.log").open("w") as log:
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    )
                )  # fmt: skip
        yield
    finally:
        for child in children:
            child.send_signal(signal.SIGTERM)
        for child in children:
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit(f"ports {first} to {first + 99} are all taken")


def wait_until_ready(client: Client) -> None:
    """Returns once the service answers; ends the demo with its log where it does not."""
    deadline = time.monotonic() + 60
    while True:
        try:
            client.get("/ready")
            return
        except PhasewatchError as error:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"the service did not start: {error}\n{(FOLDER / 'server.log').read_text()}"
                ) from error
            time.sleep(0.2)


def wait_for_interrupt() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        return


# Following the runs.


def follow(client: Client, run_ids: Sequence[str], console: Console) -> None:
    """Shows progress, and each change as it is found, until both runs are trained, finally scanned, and explained."""
    deadline = time.monotonic() + GIVE_UP_S
    told: set[str] = set()
    grouped: set[str] = set()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        tasks = {run_id: progress.add_task("waiting", total=None, loss="") for run_id in run_ids}
        waiting = set(run_ids)
        while waiting:
            for run_id in run_ids:
                run = client.get(f"/runs/{run_id}")
                if run["status"] in ("failed", "cancelled"):
                    raise SystemExit(f"run {run['name']} {run['status']}: {run['failure']}; see demo/trainer.log")
                progress.update(
                    tasks[run_id], description=run["name"], total=run["n_steps"], completed=run["last_step"] or 0,
                    loss=last_loss(client, run_id),
                )  # fmt: skip
                if run["probe_set"] is not None and run["probe_set"] not in grouped:
                    grouped.add(run["probe_set"])
                    define_groups(client, run["probe_set"])
                for change in client.items(f"/runs/{run_id}/phase-changes"):
                    if change["id"] not in told and change["induction"]:
                        told.add(change["id"])
                        progress.console.print(f"[bold]{run['name']}[/bold]: {change['explanation']}")
                if run["status"] == "completed" and is_scanned(client, run_id) and is_explained(client, run_id):
                    waiting.discard(run_id)
            if time.monotonic() > deadline:
                raise SystemExit(f"not done after {GIVE_UP_S:.0f} s; see demo/server.log and demo/trainer.log")
            time.sleep(0.5)


def last_loss(client: Client, run_id: str) -> str:
    """The newest training loss, as text."""
    items = client.get(f"/runs/{run_id}/series", name="loss")["items"]
    return f"loss {items[0]['values'][-1]:.2f}" if items and items[0]["values"] else ""


def define_groups(client: Client, probe_set: str) -> None:
    """Sets of tokens whose loss is followed from here on, and computed for the checkpoints that are there already."""
    for name, group in GROUPS.items():
        client.post(f"/probe-sets/{probe_set}/groups", {"name": name, "group": group})


def is_scanned(client: Client, run_id: str) -> bool:
    """True once the scan that saw the whole run is done."""
    return any(job["parameters"].get("ended") for job in done_jobs(client, run_id, "scan"))


def is_explained(client: Client, run_id: str) -> bool:
    """True once the heads of every change have been silenced, and what that took away is known."""
    done_jobs(client, run_id, "ablate_on_change")
    changes = client.items(f"/runs/{run_id}/phase-changes")
    return all(change["evidence"] for change in changes if change["heads"])


def done_jobs(client: Client, run_id: str, kind: str) -> list[dict[str, Any]]:
    """The run's jobs of a kind that are done; ends the demo where one has failed."""
    jobs = list(client.items("/jobs", run=run_id, kind=kind))
    failed = [job for job in jobs if job["state"] == "failed"]
    if failed:
        raise SystemExit(f"job {failed[0]['id']} failed: {failed[0]['error']}")
    return [job for job in jobs if job["state"] == "done"]


# What was found.


def draw(client: Client, histories: Sequence[RunHistory]) -> list[Path]:
    """Writes the pictures; their paths."""
    heads = ("natural_prefix_matching", "prefix_matching")
    figures: dict[str, Figure] = {
        "loss": loss_picture({h.name: (*h.loss, h.changes) for h in histories}),
        "icl_score": score_picture({h.name: curve(h, "icl_score") for h in histories}, "ICL score (nats)"),
        **{name: head_picture({h.name: (*h.measures[name], h.changes) for h in histories}, name) for name in heads},
        "position": position_picture({h.name: (*h.measures["position_profile"], h.changes) for h in histories}),
    }
    changed = next((h for h in histories if h.induction is not None), None)
    if changed is not None and changed.induction is not None:
        texts, gain = load_gain(client, changed, changed.induction)
        title = f"What each token of the probe text gained across the change of “{changed.name}”"
        figures["tokens"] = token_picture(texts, gain, title)
    paths = []
    for name, figure in figures.items():
        paths.append(FOLDER / f"{name}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths


def curve(history: RunHistory, measure: str) -> tuple[Any, dict[str, Any], Any]:
    """One scalar measure as `score_picture` takes it."""
    steps, values = history.measures[measure]
    return steps, {measure.replace("_", " "): values}, history.changes


def summarise(history: RunHistory) -> dict[str, Any]:
    """A run as demo/summary.json gives it."""
    model = history.run["training"]["model"]
    names = (
        "start_step", "step", "end_step", "kind", "induction", "signs", "heads", "n_tokens", "effect", "unit",
        "evidence",
    )  # fmt: skip
    return {
        "name": history.name,
        "sublayers": model["sublayers"],
        "steps": history.run["last_step"],
        "checkpoints": len(history.loss[0]),
        "icl_score": first_last(history, "icl_score"),
        "prefix_matching_max": first_last(history, "prefix_matching"),
        "natural_prefix_matching_max": first_last(history, "natural_prefix_matching"),
        "repeat_gain": first_last(history, "repeat_gain"),
        "token_groups": {name: first_last(history, f"token_group:{name}") for name in GROUPS},
        "phase_changes": [{name: change[name] for name in names} for change in history.raw_changes],
    }


def first_last(history: RunHistory, measure: str) -> dict[str, float]:
    """A measure at the first and the last checkpoint; of a head score the largest head's."""
    _, values = history.measures[measure]
    return {"first": round(float(values[0].max()), 4), "last": round(float(values[-1].max()), 4)}


def report(
    console: Console, histories: Sequence[RunHistory], pictures: Sequence[Path], url: str, seconds: float
) -> None:
    """The table, the changes in words, and where to look."""
    table = Table(
        title="Did it learn induction?", caption="* natural prefix matching of the largest head; first → last"
    )
    for heading in ("run", "checkpoints", "ICL score", "prefix matching*", "repeat gain", "induction"):
        table.add_column(heading)
    for history in histories:
        scores = [first_last(history, name) for name in ("icl_score", "natural_prefix_matching", "repeat_gain")]
        change = history.induction
        verdict = "none" if change is None else f"step {change.start_step} to {change.end_step}, middle {change.step}"
        cells = [f"{score['first']:+.2f} → {score['last']:+.2f}" for score in scores]
        table.add_row(history.name, str(len(history.loss[0])), *cells, verdict)
    console.print(table)
    console.print(group_table(histories))
    for history in histories:
        for found in history.raw_changes:
            console.print(f"[bold]{history.name}[/bold]: {found['explanation']}")
    console.print(f"{seconds:.0f} s; pictures: {', '.join(str(path.relative_to(ROOT)) for path in pictures)}")
    console.print(f"summary: demo/summary.json; report: {REPORT.relative_to(ROOT)}; page: {url}")


def group_table(histories: Sequence[RunHistory]) -> Table:
    """The mean loss of each group of tokens in each run."""
    table = Table(title="Loss of groups of tokens", caption="nats; first → last")
    for heading in ("run", *(name.replace("_", " ") for name in GROUPS)):
        table.add_column(heading)
    for history in histories:
        ends = [first_last(history, f"token_group:{name}") for name in GROUPS]
        table.add_row(history.name, *(f"{end['first']:.2f} → {end['last']:.2f}" for end in ends))
    return table


if __name__ == "__main__":
    sys.exit(main())
