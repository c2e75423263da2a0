"""python -m trainer: claims queued runs and trains them until it is told to stop.

    python -m trainer                  one run at a time
    python -m trainer --processes 2    two runs side by side
    python -m trainer --once           leaves when no run is waiting

SIGTERM and Ctrl-C make it write a checkpoint, give its run back and leave.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
import threading

from pydantic import ValidationError

from phasewatch.errors import PhasewatchError, SchemaMismatch
from phasewatch.storage.database import Database
from trainer.settings import Settings
from trainer.worker import Worker


def main() -> int:
    """Runs the worker; 0 when it was told to stop, 1 when it could not start."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=1, help="how many runs to train side by side (default 1)")
    parser.add_argument("--once", action="store_true", help="leave when no run is waiting")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if arguments.processes > 1:
        return _run_several(arguments.processes, once=arguments.once)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = Settings()
        database = settings.open_database()
        wait_for_schema(database, stop)
        Worker(database, settings.open_artifacts(), settings).work(stop, once=arguments.once)
    except (PhasewatchError, ValidationError, OSError) as error:
        logging.getLogger("trainer").error("%s", error)
        return 1
    return 0


def wait_for_schema(database: Database, stop: threading.Event) -> None:
    """Returns once an empty database has been migrated: a service may be starting beside this.

    Raises SchemaMismatch for a schema that is there and not this code's.
    """
    told = False
    while not stop.is_set():
        try:
            return database.check_schema()
        except SchemaMismatch as error:
            if database.schema_revision() is not None:
                raise
            if not told:
                logging.getLogger("trainer").info("waiting: %s", error)
            told = True
        stop.wait(0.2)


def _run_several(processes: int, *, once: bool) -> int:
    """Each process is a worker of its own, so that nothing of one run can disturb another's."""
    command = [sys.executable, "-m", "trainer", *(["--once"] if once else [])]
    children = [subprocess.Popen(command) for _ in range(processes)]

    def stop(*_: object) -> None:
        for child in children:
            child.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return max(child.wait() for child in children)


if __name__ == "__main__":
    sys.exit(main())
