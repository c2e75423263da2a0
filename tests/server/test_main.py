"""`python -m server` as a user runs it: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from phasewatch.errors import InvalidInput, SchemaMismatch, Unavailable
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.measurements import list_measures
from phasewatch.storage.schema import REVISION, Job
from phasewatch.storage.tokens import find_token
from server import commands
from server.commands import app, open_database
from server.service import serve
from server.settings import Settings
from server.trainer_process import TrainerProcess
from tests.server.small_run import SmallRun
from tests.server.test_scheduler import until

ROOT = Path(__file__).parent.parent.parent


class Service:
    """A process of `python -m server`; its lines of standard output come as they are printed."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        with (folder / "log").open("w") as log:
            self.process = self._start(folder, log, arguments, environment)
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @staticmethod
    def _start(
        folder: Path, log: IO[str], arguments: tuple[str, ...], environment: dict[str, str]
    ) -> subprocess.Popen[str]:
        settings = {"PHASEWATCH_DATA": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "server", *arguments],
            cwd=folder,  # its own files are found from anywhere
            env=os.environ | settings | environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip())

    def line(self) -> str:
        """The next line it prints."""
        return self._lines.get(timeout=60)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def make(*arguments: str, **environment: str) -> Service:
        started.append(Service(tmp_path, *arguments, **environment))
        return started[-1]

    yield make
    for service in started:
        service.process.kill()
        service.process.wait()
        service._reader.join()
        assert service.process.stdout is not None
        service.process.stdout.close()


def children_of(process_id: int) -> list[int]:
    listed = Path(f"/proc/{process_id}/task/{process_id}/children")
    own = [int(text) for text in listed.read_text().split()] if listed.exists() else []
    return own or [pid for pid, parent in all_parents().items() if parent == process_id]


def all_parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_command_serves_schedules_and_works_and_ends_in_order(start: Callable[..., Service]) -> None:
    service = start("--port", "0")
    announced = re.fullmatch(r"phasewatch listens on (http://127\.0\.0\.1:\d+)", service.line())
    assert announced is not None
    database = Database(f"sqlite:///{service.folder / 'phasewatch.db'}")
    assert database.schema_revision() == REVISION  # brought up to date by itself
    run = SmallRun.create(database, Artifacts(str(service.folder / "artifacts")))
    run.record(0)
    until(lambda: "done" in states(database), 60)
    with httpx.Client(base_url=announced[1], timeout=20) as client:
        ready = client.get("/api/v1/ready").json()
        assert (ready["status"], ready["last_tick"] is None) == ("ready", False)
    with database.reading() as session:
        assert {"prefix_matching", "icl_score"} <= {name for name, *_ in list_measures(session, run.run_id)}
    database.close()
    workers = children_of(service.process.pid)
    assert workers
    begin = time.monotonic()
    assert service.end() == 0
    assert time.monotonic() - begin < 10
    until(lambda: not any(is_running(worker) for worker in workers))
    for line in service.log.splitlines():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ [A-Z]+ [\w.]+: .*", line)


def states(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(Job.state)))


def test_children_end_with_a_service_that_is_killed(start: Callable[..., Service], artifacts: Artifacts) -> None:
    service = start("worker")
    assert service.line() == "phasewatch worker runs"
    database = Database(f"sqlite:///{service.folder / 'phasewatch.db'}")
    run = SmallRun.create(database, artifacts)
    with database.transaction() as session:
        session.add(job_row(run))
    until(lambda: bool(children_of(service.process.pid)), 60)
    workers = children_of(service.process.pid)
    database.close()
    service.end(signal.SIGKILL)
    until(lambda: not any(is_running(worker) for worker in workers))


def job_row(run: SmallRun) -> Job:
    return Job(
        key="k",
        kind="score",
        run_id=run.run_id,
        segment=0,
        step=0,
        parameters={},
        priority=0,
        state="waiting",
        attempts=0,
    )


def test_a_part_alone_ends_at_an_interrupt(start: Callable[..., Service]) -> None:
    service = start("scheduler")
    assert service.line() == "phasewatch scheduler runs"
    assert service.end(signal.SIGINT) == 0


def test_importing_the_entry_point_does_and_loads_nothing() -> None:
    code = "import sys, server.__main__; print({'torch', 'fastapi', 'typer', 'sqlalchemy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# What it refuses.


def settings(folder: Path, **changes: object) -> Settings:
    return Settings(data=folder, **changes)  # type: ignore[arg-type]  # as environment variables would give them


def test_a_port_that_is_taken_is_named(tmp_path: Path, sqlite_database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"port {port} on 127\.0\.0\.1 is taken; .*--port"):
            serve(settings(tmp_path, port=port), sqlite_database, frozenset({"api"}))


def test_an_address_beyond_this_machine_needs_a_token(tmp_path: Path, sqlite_database: Database) -> None:
    with pytest.raises(InvalidInput, match="PHASEWATCH_ADMIN_TOKEN"):
        serve(settings(tmp_path, host="0.0.0.0"), sqlite_database, frozenset({"api"}))


def test_a_database_that_is_not_embedded_is_not_migrated_behind_anyones_back(
    bare_database_url: str, tmp_path: Path
) -> None:
    found = settings(tmp_path, database_url=bare_database_url)
    if found.is_embedded:
        database = open_database(found)
        assert database.schema_revision() == REVISION
        database.close()
    else:
        with pytest.raises(SchemaMismatch, match="`python -m server migrate`"):
            open_database(found)


def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHASEWATCH_DATA", str(tmp_path))
    monkeypatch.setenv("PHASEWATCH_PORT", "eighty")
    for arguments, message in (
        (["migrate"], r"error: setting PHASEWATCH_PORT: .*integer.*\n"),
        (["token", "create", "x", "--scope", "all"], r"error: scope is 'all'; give read, write or admin\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["server", *arguments])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == 1
        assert re.fullmatch(message, capsys.readouterr().err)
        monkeypatch.delenv("PHASEWATCH_PORT", raising=False)


# Commands that end.


def test_a_token_is_printed_once_and_kept_as_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEWATCH_DATA", str(tmp_path))
    result = CliRunner().invoke(app, ["token", "create", "bob", "--scope", "write"])
    assert result.exit_code == 0
    token = result.stdout.strip()
    database = Database(f"sqlite:///{tmp_path / 'phasewatch.db'}")
    with database.reading() as session:
        found = find_token(session, token)
        assert found is not None
        assert (found.name, found.scope) == ("bob", "write")
        assert token not in str(vars(found))
    database.close()


def test_migrate_says_from_what_to_what(
    bare_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "configure_logging", lambda: None)
    monkeypatch.setenv("PHASEWATCH_DATA", str(tmp_path))
    monkeypatch.setenv("PHASEWATCH_DATABASE_URL", bare_database_url)
    for before in ("none", REVISION):
        result = CliRunner().invoke(app, ["migrate"])
        assert (result.exit_code, result.stdout) == (0, f"schema {before} -> {REVISION}\n")


# The trainer beside it.

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


def test_a_trainer_that_is_lost_is_replaced_and_ends_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.trainer_process.RESTART_S", 0.0)
    trainer = TrainerProcess((sys.executable, "-c", SLEEP))
    first = trainer.process_id
    trainer.restart_if_ended()
    assert trainer.process_id == first
    os.kill(first, signal.SIGKILL)
    until(lambda: not is_running(first))
    trainer.restart_if_ended()
    second = trainer.process_id
    assert second != first
    assert is_running(second)
    trainer.stop()
    assert not is_running(second)


def test_a_trainer_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("server.trainer_process.STOP_S", 0.1)
    up = tmp_path / "up"
    stubborn = (
        f"import pathlib, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path({str(up)!r}).touch();"
    )
    trainer = TrainerProcess((sys.executable, "-c", stubborn + SLEEP))
    until(up.exists)
    trainer.stop()
    assert not is_running(trainer.process_id)


def test_a_trainer_ends_with_a_service_that_is_killed() -> None:
    code = f"""
import os, signal, sys
from server.trainer_process import TrainerProcess
print(TrainerProcess((sys.executable, "-c", {SLEEP.replace("print('up', flush=True);", "")!r})).process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    until(lambda: not is_running(int(result.stdout)))
