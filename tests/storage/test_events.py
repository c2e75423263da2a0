"""Events: a reader that asks for what lies beyond the last id it saw misses nothing, whatever commits meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select, update

from phasewatch.storage.checkpoints import NewCheckpoint, put_checkpoint
from phasewatch.storage.database import Database
from phasewatch.storage.events import emit, events_after, last_event_id, trim_events
from phasewatch.storage.jobs import NewJob, enqueue
from phasewatch.storage.schema import Event, utc_now
from tests.conftest import MakeRun


def told(database: Database, after: int = 0) -> list[object]:
    with database.reading() as session:
        return [event.payload["number"] for event in events_after(session, after)]


class TestEmit:
    def test_events_come_in_the_order_they_were_emitted(self, database: Database) -> None:
        for first in (0, 3):
            with database.transaction() as session:
                for number in range(first, first + 3):
                    emit(session, "test", None, {"number": number})
        assert told(database) == list(range(6))

    def test_each_says_what_when_and_of_which_run(self, database: Database, make_run: MakeRun) -> None:
        before = utc_now()
        run_id = make_run(name="my run")
        with database.reading() as session:
            (event,) = events_after(session, 0)
        assert (event.kind, event.run_id) == ("run", run_id)
        assert event.payload == {"status": "running", "name": "my run"}
        assert before <= event.time <= utc_now()

    def test_pages_go_on_where_the_last_ended(self, database: Database) -> None:
        with database.transaction() as session:
            for number in range(5):
                emit(session, "test", None, {"number": number})
        with database.reading() as session:
            page = events_after(session, 0, limit=2)
            assert last_event_id(session) > page[-1].id
        assert told(database, page[-1].id) == [2, 3, 4]

    def test_an_id_is_never_given_twice(self, database: Database) -> None:
        for _ in range(2):
            with database.transaction() as session:
                emit(session, "test", None, {"number": 0})
            with database.transaction() as session:
                last = last_event_id(session)
                session.execute(update(Event).values(time=utc_now() - timedelta(days=2)))
                assert trim_events(session) == 1
                assert last_event_id(session) == 0
        assert last == 2

    def test_trimming_keeps_a_day(self, database: Database) -> None:
        with database.transaction() as session:
            for number in range(3):
                emit(session, "test", None, {"number": number})
        for number, age in enumerate((timedelta(hours=25), timedelta(hours=23))):
            with database.transaction() as session:
                event = session.scalars(select(Event).order_by(Event.id).offset(number).limit(1)).one()
                event.time = utc_now() - age
        with database.transaction() as session:
            assert trim_events(session) == 1
        assert told(database) == [1, 2]


class TestOrderUnderConcurrentCommits:
    N_WRITERS, N_EVENTS = 6, 25

    def test_a_poller_misses_nothing_and_sees_nothing_twice(self, database: Database) -> None:
        stop = threading.Event()
        seen: list[object] = []

        def write(writer: int) -> None:
            for number in range(self.N_EVENTS):
                with database.transaction() as session:
                    emit(session, "test", None, {"number": f"{writer} {number}"})
                    time.sleep(0.001 * (writer % 3))

        def poll() -> None:
            last, ended = 0, False
            while not ended:
                ended = stop.is_set()  # one more look after the last commit
                with database.reading() as session:
                    events = events_after(session, last)
                seen.extend(event.payload["number"] for event in events)
                last = events[-1].id if events else last

        poller = threading.Thread(target=poll)
        poller.start()
        with ThreadPoolExecutor(self.N_WRITERS) as pool:
            list(pool.map(write, range(self.N_WRITERS)))
        stop.set()
        poller.join()
        assert len(seen) == len(set(seen)) == self.N_WRITERS * self.N_EVENTS

    def test_a_slow_transaction_does_not_hold_back_the_events_of_others(self, postgresql_url: str) -> None:
        """Only the commit itself is serialised: what a transaction emits early waits for its end."""
        database = Database(postgresql_url)
        with database.transaction() as slow:
            emit(slow, "test", None, {"number": "slow"})
            with database.transaction() as quick:
                emit(quick, "test", None, {"number": "quick"})
            assert told(database) == ["quick"]
        assert told(database) == ["quick", "slow"]
        database.close()

    def test_a_tick_and_a_checkpoint_do_not_wait_for_each_other_for_ever(
        self, database: Database, make_run: MakeRun
    ) -> None:
        """The tick queues jobs of many runs, one after the other, while every run gets its checkpoints."""
        runs = [make_run() for _ in range(4)]

        def tick() -> None:
            for number in range(10):
                with database.transaction() as session:
                    for run_id in runs:
                        enqueue(session, NewJob(key=f"{number} {run_id}", kind="score", run_id=run_id))

        def train(run_id: UUID) -> None:
            for step in range(10):
                with database.transaction() as session:
                    put_checkpoint(session, run_id, NewCheckpoint(step))

        with ThreadPoolExecutor(len(runs) + 1) as pool:
            ended = [*(pool.submit(train, run_id) for run_id in runs), pool.submit(tick)]
            for future in ended:
                future.result()
        with database.reading() as session:
            assert len(events_after(session, 0)) == 4 + 4 * 10 + 4 * 10
