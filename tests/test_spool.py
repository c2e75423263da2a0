"""A recorder's queue on disk: what the loop was told is kept is kept, whatever dies."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from phasewatch.errors import PhasewatchError, Unavailable
from phasewatch.journal import Journal, journals
from phasewatch.outbox import Point
from phasewatch.recorder import Recorder
from phasewatch.spool import Spool, to_item
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.cli.conftest import call
from tests.fake_api import FakeServer
from tests.live_server import LiveServer

TEXT = np.arange(39).reshape(3, 13)
PATIENCE_S = 60.0
REFUSED = httpx.ConnectError("connection refused")


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def make(server: FakeServer, spool: Path) -> Callable[..., Recorder]:
    usual = {"transport": server.transport, "spool": spool, "flush_timeout": PATIENCE_S}
    return lambda **more: Recorder("http://pw.test", run="tiny", **{**usual, **more})


@pytest.fixture
def sqlite_server(sqlite_database: Database, artifacts: Artifacts) -> Iterator[LiveServer]:
    server = LiveServer(sqlite_database, artifacts)
    yield server
    server.stop()


def away(server: FakeServer) -> None:
    server.faults = [*[REFUSED] * 10_000]


def back(server: FakeServer) -> None:
    server.faults = []


def points_in(spool: Path) -> list[tuple[int, Any]]:
    """Steps and metrics that lie in the files of a spool, read beside their owner."""
    found = []
    for folder in journals(spool):
        with (folder / "lock").open("rb") as lock:
            journal = Journal(folder, lock, {})
            position = journal.begin
            while record := journal.read(position):
                item = to_item(record.head, record.body)
                found += [(item.step, dict(item.values))] if isinstance(item, Point) else []
                position = record.end
            journal.close(remove=False)
    return found


class Slow:
    """A metric on a device that has it once `arrived` is set."""

    device = type("Device", (), {"type": "mps"})()

    def __init__(self, value: float, arrived: threading.Event) -> None:
        self.value, self.arrived = value, arrived

    def numel(self) -> int:
        return 1

    def is_complex(self) -> bool:
        return False

    def cpu(self) -> Slow:
        assert self.arrived.wait(PATIENCE_S)
        return self

    def item(self) -> float:
        return self.value

    def reshape(self, shape: tuple[int, ...]) -> Slow:
        return self

    ndim = 0
    detach = double = clone = lambda self: self


class TestBeforeTheCallReturns:
    def test_metrics_and_losses_are_in_the_files(
        self, server: FakeServer, make: Callable[..., Recorder], spool: Path
    ) -> None:
        away(server)
        recorder = make(flush_timeout=0.0)
        recorder.probe(TEXT)
        for step in range(5):
            recorder.log(step, {"loss": step / 2, "odd": float("nan")})
            assert [step for step, _ in points_in(spool)] == list(range(step + 1))
        recorder.record_losses(3, np.full((3, 12), 7.25))
        [folder] = journals(spool)
        content = b"".join(path.read_bytes() for path in folder.glob("*.records"))
        assert np.full((3, 12), 7.25, "<f4").tobytes() in content
        recorder.close()

    def test_but_it_waits_for_no_device_and_keeps_the_order(
        self, server: FakeServer, make: Callable[..., Recorder], spool: Path
    ) -> None:
        away(server)
        arrived = threading.Event()
        recorder = make()
        recorder.log(0, {"loss": 0.0})
        recorder.log(1, {"loss": Slow(1.0, arrived)})
        recorder.log(2, {"loss": 2.0})
        assert [step for step, _ in points_in(spool)] == [0]
        assert recorder.pending == 4  # with the run
        arrived.set()
        back(server)
        recorder.close()
        assert server.series == [(0, "loss", 0.0), (1, "loss", 1.0), (2, "loss", 2.0)]

    def test_a_value_that_cannot_be_read_costs_only_itself(
        self, server: FakeServer, make: Callable[..., Recorder]
    ) -> None:
        class Lost(Slow):
            def cpu(self) -> Slow:
                raise RuntimeError("device lost")

        with make() as recorder:
            recorder.log(1, {"loss": Lost(1.0, threading.Event())})
            recorder.log(2, {"loss": 2.0})
        assert server.series == [(2, "loss", 2.0)]
        assert recorder.failed == 1


class TestWhatIsLeft:
    def test_nothing_where_everything_was_sent(self, make: Callable[..., Recorder], spool: Path) -> None:
        with make() as recorder:
            recorder.log(1, {"loss": 2.0})
            assert spool.exists()
        assert not spool.exists()

    def test_goes_out_with_the_next_recorder_of_that_spool(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
    ) -> None:
        away(server)
        first = make(flush_timeout=0.0)
        first.log(1, {"loss": 2.0})
        first.close()
        assert (first.dropped, first.pending) == (0, 3)
        assert f"3 messages of run {first.run_id} were not sent" in caplog.text
        back(server)
        with make():
            pass
        assert _eventually(lambda: f"PATCH /runs/{first.run_id}" in server.paths)
        assert (1, "loss", 2.0) in server.series

    def test_of_the_same_run_goes_before_anything_new(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        away(server)
        first = make(flush_timeout=0.0)
        first.log(1, {"loss": 2.0})
        first.close("RuntimeError: node lost")
        back(server)
        with make(run_id=first.run_id, resume_from=1) as second:
            second.log(1, {"loss": 3.0})
        run = f"/runs/{first.run_id}"
        assert server.paths == [
            "POST /runs", f"POST {run}/series?segment=0", f"PATCH {run}",
            f"POST {run}/resume", f"POST {run}/segments", f"POST {run}/series?segment=3", f"PATCH {run}",
        ]  # fmt: skip

    def test_is_sent_from_where_its_sender_stopped_into_the_segment_it_had(
        self, server: FakeServer, make: Callable[..., Recorder]
    ) -> None:
        first = make(run_id="018f0000-0000-7000-8000-000000000000", resume_from=5, flush_timeout=0.0)
        first.log(5, {"loss": 5.0})
        assert first.flush(PATIENCE_S)
        away(server)
        first.log(6, {"loss": 6.0})
        first.close()
        back(server)
        n_before = len(server.paths)
        with make():
            pass
        run = f"/runs/{first.run_id}"
        assert _eventually(lambda: f"PATCH {run}" in server.paths)
        beside = [path for path in server.paths[n_before:] if run in path]
        assert beside == [f"POST {run}/series?segment=3", f"PATCH {run}"]

    def test_for_another_server_waits_for_that(
        self, server: FakeServer, make: Callable[..., Recorder], spool: Path
    ) -> None:
        away(server)
        make(flush_timeout=0.0).close()
        first = make(flush_timeout=0.0)
        first.log(1, {"loss": 2.0})
        first.close()
        back(server)
        with Recorder("http://other.test", transport=server.transport, spool=spool, flush_timeout=PATIENCE_S):
            pass
        assert len(journals(spool)) == 1
        assert server.series == []

    def test_of_a_live_recorder_is_its_own(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        with make() as first, make() as second:
            first.log(1, {"loss": 1.0})
            second.log(1, {"loss": 2.0})
        assert sorted(server.series) == [(1, "loss", 1.0), (1, "loss", 2.0)]
        assert sum(path == "POST /runs" for path in server.paths) == 2

    def test_is_sent_by_the_command(self, sqlite_server: LiveServer, spool: Path) -> None:
        url = sqlite_server.url
        sqlite_server.stop()
        recorder = Recorder(url, run="left", spool=spool, flush_timeout=0.0)
        for step in range(700):
            recorder.log(step, {"loss": float(step)})
        recorder.close()
        refused = call("send", str(spool), "--timeout", "0.2", env={"PHASEWATCH_URL": url})
        assert refused.status == 1
        assert "702 messages stay" in refused.err
        sqlite_server.start()
        sent = call("send", str(spool), env={"PHASEWATCH_URL": url})
        assert sent.out == f"702 messages of 1 recorders sent to {url}\n"
        [series] = sqlite_server.get(f"/runs/{recorder.run_id}/series", name="loss")["items"]
        assert series["values"] == [float(step) for step in range(700)]
        assert call("send", str(spool), env={"PHASEWATCH_URL": url}).out.startswith("0 messages of 0")


class TestFaults:
    def test_a_killed_training_loses_nothing_that_it_recorded(self, sqlite_server: LiveServer, spool: Path) -> None:
        url = sqlite_server.url
        sqlite_server.stop()
        script = """
            import os, signal, sys
            import numpy as np
            from phasewatch import Recorder
            recorder = Recorder(sys.argv[1], run="killed", spool=sys.argv[2])
            recorder.probe(np.arange(39).reshape(3, 13))
            for step in range(300):
                recorder.log(step, {"loss": float(step)})
            recorder.record_losses(200, np.arange(36.0))
            sys.stdout.write(recorder.run_id)
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """
        command = [sys.executable, "-c", textwrap.dedent(script), url, str(spool)]
        run_id = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        sqlite_server.start()
        with Recorder(url, run_id=run_id, resume_from=250, spool=spool, flush_timeout=PATIENCE_S) as second:
            second.log(250, {"loss": -1.0})
        [series] = sqlite_server.get(f"/runs/{run_id}/series", name="loss")["items"]
        assert series["steps"] == list(range(251))
        assert series["values"] == [*map(float, range(250)), -1.0]
        losses = sqlite_server.get(f"/runs/{run_id}/losses/text/200")
        assert losses["values"] == list(map(float, range(36)))
        assert not spool.exists()

    def test_a_full_spool_is_said_and_counted_and_takes_again_what_fits(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
    ) -> None:
        away(server)
        recorder = make(max_bytes=5000)
        for step in range(200):
            recorder.log(step, {"loss": 1.0})
        n_kept = 200 - recorder.dropped
        assert 20 < n_kept < 100
        assert "is full (5,000 bytes)" in caplog.text
        back(server)
        assert recorder.flush()
        recorder.log(300, {"loss": 1.0})
        recorder.close()
        assert [step for step, _, _ in server.series] == [*range(n_kept), 300]

    def test_a_full_disk_is_said_once_and_nothing_is_lost(
        self,
        server: FakeServer,
        make: Callable[..., Recorder],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        recorder = make()
        recorder.log(0, {"loss": 0.0})

        def full(self: Journal, head: bytes, body: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", full)
            for step in range(1, 50):
                recorder.log(step, {"loss": float(step)})
            assert recorder.flush(PATIENCE_S)  # out of memory
        recorder.log(50, {"loss": 50.0})
        recorder.close()
        assert server.series == [(step, "loss", float(step)) for step in range(51)]
        assert sum("No space left on device" in entry.getMessage() for entry in caplog.records) == 1

    def test_a_spool_that_cannot_be_made_leaves_the_queue_in_memory(
        self, server: FakeServer, make: Callable[..., Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        with make(spool=tmp_path / "file" / "spool") as recorder:
            recorder.log(1, {"loss": 2.0})
        assert server.series == [(1, "loss", 2.0)]
        assert "is in memory, and lost with this process" in caplog.text
        with pytest.raises(Unavailable, match="cannot be written"):
            make(spool=tmp_path / "file" / "spool", strict=True).log(1, {"loss": 2.0})

    def test_a_refused_token_costs_nothing(
        self, server: FakeServer, make: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
    ) -> None:
        server.veto = lambda method, path, content: 401
        with make(flush_timeout=0.5) as recorder:
            recorder.log(1, {"loss": 2.0})
        assert (recorder.failed, recorder.dropped, recorder.pending) == (0, 0, 3)
        assert "give a token that may do this" in caplog.text
        server.veto = lambda method, path, content: None
        with make(run_id=recorder.run_id):
            pass
        assert server.series == [(1, "loss", 2.0)]

    def test_a_strict_recorder_raises_a_refused_token(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        server.veto = lambda method, path, content: 403
        with pytest.raises(PhasewatchError, match="give a token"), make(flush_timeout=0.5, strict=True) as recorder:
            recorder.log(1, {"loss": 2.0})

    def test_a_fork_writes_nothing(self, server: FakeServer, make: Callable[..., Recorder]) -> None:
        with make() as recorder:
            recorder.log(1, {"loss": 1.0})
            child = os.fork()
            if not child:
                recorder.log(2, {"loss": 2.0})
                recorder.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            recorder.log(3, {"loss": 3.0})
        assert server.series == [(1, "loss", 1.0), (3, "loss", 3.0)]

    def test_a_record_of_another_version_is_left_out(self, spool: Path, caplog: pytest.LogCaptureFixture) -> None:
        journal = Journal.create(spool, {})
        journal.append(b'{"kind": "thought"}', b"")
        queue = Spool(journal, 1000, sealed=True)
        with caplog.at_level(logging.ERROR):
            assert [item.values for item in queue.head() if isinstance(item, Point)] == [{}]
        queue.drop(1)
        assert queue.head() == []
        assert queue.close() == 0
        assert not spool.exists()
        assert "a record of the spool is left out" in caplog.text


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return condition()
