"""`phasewatch channel` and `phasewatch alerts` against the real API."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from typer.testing import CliRunner

from phasewatch.cli import app
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.phase_changes import store_scan
from phasewatch.webhooks import verify_signature
from tests.cli.conftest import Call
from tests.conftest import MakeRun
from tests.live_server import LiveServer
from tests.storage.test_phase_changes import STEPS, change
from tests.webhook_receiver import Receiver

PUBLIC = "https://93.184.215.14/hooks/very-secret"


@pytest.fixture
def live(sqlite_database: Database, artifacts: Artifacts) -> Iterator[LiveServer]:
    """A server that may send to this machine."""
    settings = {"secret_key": "k" * 32, "allow_private_webhooks": True}
    server = LiveServer(sqlite_database, artifacts, **settings)
    yield server
    server.stop()


@pytest.fixture
def found(sqlite_database: Database, make_run: MakeRun) -> UUID:
    """A run named two-layer."""
    return make_run(name="two-layer")


def scan(database: Database, run_id: UUID) -> None:
    with database.transaction() as session:
        store_scan(session, run_id, [change()], STEPS, detector_version=1, ended=True)


class TestChannel:
    def test_add_shows_the_secret_and_list_does_not(self, phasewatch: Call) -> None:
        assert "no channels yet" in phasewatch("channel", "list").out
        made = phasewatch("channel", "add", "team", PUBLIC, "--quiet", "22:00-07:00", "--zone", "Europe/Berlin")
        assert made.status == 0
        assert "channel 1: team, webhook to https://93.184.215.14/…" in made.out
        secret = made.out.split("signed with ")[1].split()[0]
        listed = phasewatch("channel", "list").out
        assert "22:00-07:00 Europe/Berlin" in listed
        assert "everything" in listed
        for text in (secret, "very-secret"):
            assert text not in listed

    def test_add_takes_every_rule(self, phasewatch: Call, found: UUID) -> None:
        options = ["--kind", "phase_change", "--run", "two-layer", "--state", "provisional", "--state", "confirmed"]
        options += ["--induction-only", "--min-effect", "0.1", "--max-q", "0"]
        made = phasewatch("channel", "add", "team", PUBLIC, *options, "--json").json
        assert made["rules"] == {
            "kinds": ["phase_change"],
            "runs": {"run": str(found)},
            "states": ["provisional", "confirmed"],
            "change_kinds": None,
            "induction_only": True,
            "min_effect": 0.1,
            "max_q": 0.0,
        }
        said = phasewatch("channel", "list").out
        for words in ("phase_change", f"of run {found}"[:20], "induction only", "size from 0.1", "q up to 0"):
            assert words in said

    def test_add_reads_the_address_from_standard_input(self, phasewatch: Call, live: LiveServer) -> None:
        arguments = ["channel", "add", "team", "-", "--tag", "nightly"]
        result = CliRunner().invoke(app, arguments, input=f"{PUBLIC}\n", env={"PHASEWATCH_URL": live.url})
        assert result.exit_code == 0
        (made,) = live.get("/channels")["items"]
        assert (made["address"], made["rules"]["runs"]) == ("https://93.184.215.14/…", {"tag": "nightly"})

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["http://0x7f000001/"], "is no IPv4 address of four decimal numbers"),
            ([PUBLIC, "--kind", "mail"], "rules.kinds"),
            ([PUBLIC, "--quiet", "night"], "give them as 22:00-07:00"),
            ([PUBLIC, "--run", "a", "--tag", "b"], "not both"),
        ],
    )
    def test_add_says_what_is_wrong(self, phasewatch: Call, arguments: list[str], said: str) -> None:
        answer = phasewatch("channel", "add", "team", *arguments)
        assert (answer.status, answer.out) == (1, "")
        assert said in answer.err

    def test_test_says_how_it_went_and_remove_removes(self, phasewatch: Call) -> None:
        with Receiver(answers=[(204, {}), (500, {})]) as receiver:
            secret = phasewatch("channel", "add", "here", receiver.url, "--json").json["secret"]
            well, badly = phasewatch("channel", "test", "1"), phasewatch("channel", "test", "1")
        assert (well.status, badly.status) == (0, 1)
        assert well.out.startswith("delivered with status 204")
        assert "channel 1: refused with status 500" in badly.err
        assert verify_signature(secret, receiver.received[0].headers, receiver.received[0].body)
        assert "channel 1 is deleted, and 0 alerts" in phasewatch("channel", "remove", "1").out
        assert phasewatch("channel", "test", "1").status == 1


class TestAlerts:
    def test_lists_what_was_told(self, phasewatch: Call, sqlite_database: Database, found: UUID) -> None:
        assert phasewatch("alerts").out == "no alerts\n"
        phasewatch("channel", "add", "team", PUBLIC)
        scan(sqlite_database, found)
        answer = phasewatch("alerts", "--run", "two-layer", "--channel", "1", "--state", "waiting")
        assert "Phase change (level) in two-layer: mean_loss:text drop at step 200" in answer.out
        (alert,) = phasewatch("alerts", "--json").json["items"]
        assert (alert["state"], alert["run"]) == ("waiting", str(found))
        assert phasewatch("alerts", "--state", "sent").out == "no alerts\n"
