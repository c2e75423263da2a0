"""Alerts of `python -m server` as a user runs it: the process that schedules sends, under the key that all have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from phasewatch.storage.alerts import Occurrence, raise_alert
from phasewatch.storage.database import Database
from phasewatch.storage.deliveries import list_alerts
from phasewatch.webhooks import verify_signature
from server.alerts.channels import add_channel
from server.migrations import upgrade
from server.settings import Settings
from tests.server.test_scheduler import until
from tests.webhook_receiver import Receiver

ROOT = Path(__file__).parent.parent.parent.parent
START_S = 150  # most of it torch's, where many tests run at once


def states(database: Database) -> set[str]:
    with database.reading() as session:
        return {alert.state for alert in list_alerts(session)}


def test_the_scheduler_sends_what_another_process_raised(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, allow_private_webhooks=True)
    database = settings.open_database()
    upgrade(database)
    own = {"PHASEWATCH_ALLOW_PRIVATE_WEBHOOKS": "1", "PHASEWATCH_DATA": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with Receiver() as receiver:
        content = {"name": "here", "url": receiver.url, "kind": None, "rules": {}, "quiet_hours": None}
        _, secret = add_channel(database, settings, **content, enabled=True)  # type: ignore[arg-type]
        with database.transaction() as session:
            raise_alert(session, Occurrence("stale_run", None, "key", "a run is stale"))
        command = [sys.executable, "-m", "server", "scheduler"]
        with subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, stdout=subprocess.DEVNULL) as scheduler:
            try:
                until(lambda: states(database) == {"sent"}, START_S)
            finally:
                scheduler.terminate()
        database.close()
    assert scheduler.returncode == 0
    (came,) = receiver.received
    assert verify_signature(secret or "", came.headers, came.body)
    assert (tmp_path / "secret-key").stat().st_mode & 0o777 == 0o600
