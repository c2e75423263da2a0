"""Transactions on both databases: what is kept, what is not, and what two writers do to each other."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from phasewatch.errors import InvalidInput
from phasewatch.storage.database import Database, Limits, database_answers, free_disk, insert_if_absent
from phasewatch.storage.runs import NewRun, create_run, get_run, list_runs
from phasewatch.storage.schema import ApiToken, Event, Run, Scheduler, utc_now
from phasewatch.storage.tokens import put_token
from tests.conftest import MakeRun
from tests.processes import write_rows


class Abandoned(Exception):
    """What a transaction that must not be kept raises."""


def scheduler(name: str) -> dict[str, Any]:
    return {"name": name, "ticked_at": utc_now()}


def abandon(database: Database, work: Callable[[Session], object]) -> None:
    """A transaction that does its work and then raises."""
    with database.transaction() as session:
        work(session)
        raise Abandoned


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(Scheduler.name).order_by(Scheduler.name)))


class TestTransaction:
    def test_is_kept_when_the_block_ends(self, database: Database) -> None:
        with database.transaction() as session:
            session.add(Scheduler(**scheduler("a")))
        assert names(database) == ["a"]

    def test_is_not_kept_when_the_block_raises(self, database: Database) -> None:
        with pytest.raises(Abandoned):
            abandon(database, lambda session: insert_if_absent(session, Scheduler, scheduler("a")))
        assert names(database) == []

    def test_events_of_an_abandoned_transaction_are_not_told(self, database: Database) -> None:
        with pytest.raises(Abandoned):
            abandon(database, lambda session: create_run(session, NewRun("run")))
        with database.transaction() as session:
            assert session.scalars(select(Event)).all() == []

    def test_rows_stay_readable_after_the_commit(self, database: Database) -> None:
        with database.transaction() as session:
            run, _ = create_run(session, NewRun("run"))
        assert run.name == "run"


class TestReading:
    def test_keeps_nothing(self, database: Database) -> None:
        with database.reading() as session:
            with suppress(DBAPIError):  # PostgreSQL refuses at once, SQLite forgets
                insert_if_absent(session, Scheduler, scheduler("a"))
        assert names(database) == []

    def test_sees_one_state_while_others_write(self, database: Database) -> None:
        with database.reading() as session:
            assert session.scalars(select(Scheduler)).all() == []
            with database.transaction() as other:
                insert_if_absent(other, Scheduler, scheduler("a"))
            assert session.scalars(select(Scheduler)).all() == []
        assert names(database) == ["a"]

    def test_does_not_wait_for_a_writer(self, database: Database) -> None:
        with database.transaction() as writer:
            insert_if_absent(writer, Scheduler, scheduler("a"))
            assert names(database) == []

    def test_a_reader_after_a_reader_may_write_again(self, database: Database) -> None:
        for name in ("a", "b"):
            names(database)
            with database.transaction() as session:
                insert_if_absent(session, Scheduler, scheduler(name))
        assert names(database) == ["a", "b"]


class TestIdleConnection:
    def test_one_that_has_gone_is_replaced(self, postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("phasewatch.storage.database.IDLE_S", -1.0)
        database = Database(postgresql_url)
        with database.reading() as session:
            first = session.scalar(text("SELECT pg_backend_pid()"))
        with psycopg.connect(database.url.set(drivername="postgresql").render_as_string(False)) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [first])
        with database.reading() as session:
            assert session.scalar(text("SELECT pg_backend_pid()")) != first
        database.close()


class TestInsertIfAbsent:
    def test_says_whether_it_inserted(self, database: Database) -> None:
        with database.transaction() as session:
            assert insert_if_absent(session, Scheduler, scheduler("a")) is True
            assert insert_if_absent(session, Scheduler, scheduler("a")) is False
            assert insert_if_absent(session, Scheduler, scheduler("b")) is True

    def test_a_unique_key_beside_the_primary_one_counts(self, database: Database) -> None:
        with database.transaction() as session:
            put_token(session, "secret", name="first", scope="read")
            values = {"name": "second", "scope": "admin", "created_at": utc_now()}
            sha256 = session.scalars(select(ApiToken.sha256)).one()
            assert insert_if_absent(session, ApiToken, values | {"sha256": sha256}) is False

    def test_sees_the_row_of_a_transaction_that_was_first(self, database: Database) -> None:
        """The second insert begins while the first is not committed: it waits, then finds the committed row."""
        begun, answers = threading.Event(), []

        def second() -> None:
            begun.wait()
            with database.transaction() as session:
                answers.append(insert_if_absent(session, Scheduler, scheduler("a")))
                answers.append(session.get(Scheduler, "a") is not None)

        thread = threading.Thread(target=second)
        thread.start()
        with database.transaction() as session:
            insert_if_absent(session, Scheduler, scheduler("a"))
            begun.set()
            thread.join(0.3)
            assert thread.is_alive()
        thread.join()
        assert answers == [False, True]

    def test_takes_the_place_of_a_transaction_that_was_abandoned(self, database: Database) -> None:
        begun, answers = threading.Event(), []

        def second() -> None:
            begun.wait()
            with database.transaction() as session:
                answers.append(insert_if_absent(session, Scheduler, scheduler("a")))

        thread = threading.Thread(target=second)
        thread.start()

        def first(session: Session) -> None:
            insert_if_absent(session, Scheduler, scheduler("a"))
            begun.set()
            thread.join(0.3)

        with pytest.raises(Abandoned):
            abandon(database, first)
        thread.join()
        assert answers == [True]


class TestManyWriters:
    def test_sixteen_threads(self, database: Database) -> None:
        def write(writer: int) -> None:
            for number in range(10):
                with database.transaction() as session:
                    insert_if_absent(session, Scheduler, scheduler(f"{writer:02d}-{number:02d}"))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(write, range(16)))
        assert len(names(database)) == 160

    def test_two_processes_of_eight_threads_on_one_file(
        self, sqlite_url: str, sqlite_database: Database, processes: ProcessPoolExecutor, tmp_path: Path
    ) -> None:
        """Sixteen writers, each with its own engine, none of which may see "database is locked"."""
        writers = [processes.submit(write_rows, sqlite_url, str(tmp_path), name, 8, 10) for name in ("a", "b")]
        assert [writer.result() for writer in writers] == [80, 80]
        assert len(names(sqlite_database)) == 160

    def test_readers_among_writers_see_whole_transactions(self, database: Database) -> None:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                with database.transaction() as session:
                    count = len(session.scalars(select(Scheduler.name)).all())
                    for number in range(2):
                        insert_if_absent(session, Scheduler, scheduler(f"{count + number:04d}"))

        thread = threading.Thread(target=write)
        thread.start()
        counts = [len(names(database)) for _ in range(50)]
        stop.set()
        thread.join()
        assert all(count % 2 == 0 for count in counts)
        assert counts == sorted(counts)


class TestSqlite:
    def test_file_has_the_layout_that_was_measured(self, sqlite_database: Database) -> None:
        expected = {"page_size": 16_384, "journal_mode": "wal", "synchronous": 2, "auto_vacuum": 2, "foreign_keys": 1}
        with sqlite_database.transaction() as session:
            found = {name: session.scalar(text(f"PRAGMA {name}")) for name in expected}
        assert found == expected

    def test_waits_for_a_writer_for_at_least_five_seconds(self, sqlite_database: Database) -> None:
        with sqlite_database.reading() as session:
            assert (session.scalar(text("PRAGMA busy_timeout")) or 0) >= 5_000

    def test_a_writer_holds_its_lock_from_its_beginning(self, sqlite_url: str, sqlite_database: Database) -> None:
        """A transaction that read first and turned writer later would fail instead of waiting."""
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), timeout=0)
        with sqlite_database.transaction() as session:
            session.connection()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        other.close()

    def test_makes_the_folder_it_lies_in(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "phasewatch.db"
        database = Database(f"sqlite:///{path}")
        assert database_answers(database)
        database.close()
        assert path.exists()

    def test_gives_emptied_pages_back(self, sqlite_database: Database) -> None:
        with sqlite_database.transaction() as session:
            session.execute(text("CREATE TABLE filler (content BLOB)"))
            session.execute(text("INSERT INTO filler VALUES (zeroblob(3000000))"))
        with sqlite_database.transaction() as session:
            before = session.scalar(text("PRAGMA page_count")) or 0
            session.execute(text("DROP TABLE filler"))
            freed = free_disk(session)
            assert session.scalar(text("PRAGMA page_count")) == before - freed // 16_384
        assert freed > 2_900_000

    def test_gives_no_more_pages_back_than_it_may(self, sqlite_database: Database) -> None:
        with sqlite_database.transaction() as session:
            session.execute(text("CREATE TABLE filler (content BLOB)"))
            session.execute(text("INSERT INTO filler VALUES (zeroblob(3000000))"))
        with sqlite_database.transaction() as session:
            session.execute(text("DROP TABLE filler"))
            assert free_disk(session, max_pages=10) == 10 * 16_384


class TestUrl:
    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
    def test_a_database_without_a_file_is_refused(self, url: str) -> None:
        with pytest.raises(InvalidInput, match="names no file"):
            Database(url)

    def test_another_database_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="'mysql' is not supported"):
            Database("mysql://localhost/x")

    def test_what_is_no_url_is_refused_without_repeating_its_password(self) -> None:
        with pytest.raises(InvalidInput, match="cannot be read") as caught:
            Database("postgresql//user:secret@host/name")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
    def test_every_spelling_of_postgresql_is_psycopg_3(self, scheme: str) -> None:
        database = Database(f"{scheme}://user:secret@host/name")
        assert database.url.drivername == "postgresql+psycopg"
        assert not database.is_sqlite
        database.close()


class TestOddValues:
    """Values that one of the two databases would refuse or change."""

    def put(self, database: Database, **content: Any) -> Run:
        with database.transaction() as session:
            run, _ = create_run(session, NewRun(**{"name": "run", **content}))
        with database.reading() as session:
            return get_run(session, run.id)

    def test_a_name_that_cannot_be_kept_is_refused(self, database: Database) -> None:
        for name in ["", "a\x00b", "half \ud83d", "x" * 201]:
            with pytest.raises(InvalidInput, match="run name"):
                self.put(database, name=name)
            with pytest.raises(InvalidInput, match="tag"):
                self.put(database, tags=(name,))

    def test_a_config_that_json_cannot_hold_is_refused(self, database: Database) -> None:
        for value in [float("nan"), float("inf"), object(), {1, 2}]:
            with pytest.raises(InvalidInput, match="config cannot be kept as JSON"):
                self.put(database, config={"x": value})

    def test_every_value_of_json_comes_back_as_it_was(self, database: Database) -> None:
        for value in ["a\x00b", "half \ud83d", "日本 😀", 2**70, -0.0, 1e308, None, [], {"": {}}, "x" * 100_000]:
            config = {"x": value}
            assert self.put(database, config=config).config == config

    def test_the_same_config_in_python_terms_is_the_same(
        self, database: Database, make_run: Callable[..., Any]
    ) -> None:
        config: dict[Any, Any] = {"betas": (0.9, 0.95), 1: "one"}
        run_id = make_run(config=config)
        with database.transaction() as session:
            _, created = create_run(session, NewRun("run", id=run_id, config=config))
        assert created is False

    def test_times_are_aware_utc(self, database: Database, make_run: MakeRun) -> None:
        before = utc_now()
        make_run()
        with database.reading() as session:
            (run,) = list_runs(session)
        assert before <= run.created_at <= utc_now()
        assert str(run.created_at.tzinfo) == "UTC"

    def test_a_time_without_a_zone_is_refused(self, database: Database) -> None:
        with pytest.raises(Exception, match="has no zone"), database.transaction() as session:
            insert_if_absent(session, Scheduler, {"name": "a", "ticked_at": utc_now().replace(tzinfo=None)})


def test_postgresql_lets_nothing_take_for_ever(postgresql_url: str) -> None:
    database = Database(postgresql_url, limits=Limits(statement_s=0.05, lock_s=7.0, idle_in_transaction_s=9.5))
    with database.reading() as session:
        names = ("lock_timeout", "idle_in_transaction_session_timeout")
        assert [session.scalar(text(f"SHOW {name}")) for name in names] == ["7s", "9500ms"]
        with pytest.raises(OperationalError, match="statement timeout"):
            session.execute(text("SELECT pg_sleep(30)"))
    database.close()
