"""A training worker as a child process beside the service (`--with-trainer`): `python -m trainer`, replaced if lost.

The two packages do not import one another; this knows only the command.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import time

RESTART_S = 5.0  # shortest time between two starts
STOP_S = 15.0  # a trainer writes a checkpoint and gives its run back
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

log = logging.getLogger(__name__)


class TrainerProcess:
    """One child, from the object's making to `stop`."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "trainer")) -> None:
        self._command = command
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._start()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def restart_if_ended(self) -> None:
        """Starts another where the child has ended by itself, at most every few seconds."""
        if self._process.poll() is None or time.monotonic() < self._started + RESTART_S:
            return
        log.warning("the trainer ended with status %s; starting another", self._process.returncode)
        self._start()

    def stop(self) -> None:
        """Asks the child to checkpoint and end; kills it after a while."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            log.warning("the trainer did not end within %g s; killed, its run is resumed by the next", STOP_S)
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(self._command, process_group=0, preexec_fn=self._end_with_parent)

    def _end_with_parent(self) -> None:
        """In the child, before its program: the kernel ends it when the service is killed and cannot."""
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
