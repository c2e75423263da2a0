"""The parts of the service as one running process: what is started in which order, and stopped in the other.

Signals reach the main thread, which does nothing but wait; every part has threads or processes of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import typer
import uvicorn
from fastapi import FastAPI

from phasewatch.errors import Unavailable
from phasewatch.storage.database import Database
from server.alerts.sender import Courier, Sender
from server.app import create_app
from server.auth import check_address
from server.dispatcher import Dispatcher, owner_name
from server.executors import make_executor
from server.jobs import checked_limits
from server.scheduler import Scheduler
from server.settings import Settings
from server.trainer_process import TrainerProcess

GRACE_S = 5  # how long requests and streams under way may take at the end
START_S = 60.0
CHECK_S = 1.0

log = logging.getLogger(__name__)


def serve(
    settings: Settings, database: Database, parts: frozenset[str], *, with_trainer: bool = False, slots: int = 1
) -> None:
    """Runs `parts` ("api", "scheduler", "worker") until SIGTERM or SIGINT.

    Raises InvalidInput where the address needs a token, Unavailable where the port is taken or the API does not start.
    """
    artifacts = settings.open_artifacts()
    dispatcher = None
    with _stop_signals() as stop, ExitStack() as running:
        http = None
        if "api" in parts:
            check_address(settings, database)
            http = HttpServer(settings, create_app(settings, database, artifacts))
            running.callback(http.stop)
        trainer = TrainerProcess() if with_trainer else None
        if trainer is not None:
            running.callback(trainer.stop)
        if http is not None:
            http.start()
        if "scheduler" in parts:
            scheduler = Scheduler(database, owner_name("scheduler"))
            scheduler.start()
            running.callback(scheduler.stop)
            sender = Sender(database, Courier(settings), owner_name("sender"))
            sender.start()
            running.callback(sender.stop)
        if "worker" in parts:
            executor = make_executor(settings, database, artifacts, slots)
            dispatcher = Dispatcher(
                database,
                executor,
                limits=checked_limits(settings.limits),
                lease_s=settings.worker_lease_s,
                watch_root=settings.watch_root or None,
            )
            dispatcher.start()
            running.callback(dispatcher.stop)
        typer.echo(f"phasewatch listens on {http.url}" if http is not None else f"phasewatch {', '.join(parts)} runs")
        while not stop.wait(CHECK_S):
            if trainer is not None:
                trainer.restart_if_ended()
            if http is not None and not http.is_alive:
                raise Unavailable("the API ended by itself; the log above says why")
        log.info("stopping")
    if dispatcher is not None and dispatcher.is_busy:  # a thread that computes would hold the exit up until it is done
        log.info("left a job that was given back")
        logging.shutdown()
        os._exit(0)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop = threading.Event()
    previous = {}

    def note(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class HttpServer:
    """uvicorn in a thread of its own, on a port that is taken from the moment this object is made."""

    def __init__(self, settings: Settings, application: FastAPI) -> None:
        self._application = application
        self._socket = _listen(settings.host, settings.port)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
            forwarded_allow_ips=settings.trusted_proxies,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    @property
    def is_alive(self) -> bool:
        """False once the server has ended, for whatever reason."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Returns once requests are answered. Raises Unavailable where that does not happen."""
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise Unavailable("the API did not start; the log above says why")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends event streams at once, and gives requests under way a few seconds."""
        self._application.state.service.events.close()
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=2_048)
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error})"
        raise Unavailable(
            f"port {port} on {host} {reason}; stop what listens there, or choose another with --port (0 for a free one)"
        ) from error
