"""Migrations: they make what the models say, can be taken back, and may be run by two at once."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError

from phasewatch.errors import SchemaMismatch
from phasewatch.storage import database as database_module
from phasewatch.storage.database import Database
from phasewatch.storage.monitors import list_monitors
from phasewatch.storage.runs import NewRun, create_run, list_runs, list_segments
from phasewatch.storage.schema import REVISION, Base
from server import migrations
from server.migrations import SCRIPTS, downgrade, upgrade
from tests.processes import migrate

_NEXT = '''
"""Gives every run a colour, on SQLite by copying the table.

Revision: 0005, after 0004; 2027-01-01
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    recreate = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("runs", recreate=recreate) as batch:
        batch.add_column(sa.Column("colour", sa.String(), nullable=True))


def downgrade() -> None:
    recreate = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("runs", recreate=recreate) as batch:
        batch.drop_column("colour")
'''


@pytest.fixture
def bare(bare_database_url: str) -> Any:
    """A database without any table, opened."""
    database = Database(bare_database_url)
    yield database
    database.close()


def described(database: Database) -> dict[str, Any]:
    """Everything that the database itself says of its tables."""
    inspector = inspect(database.engine)
    found = {}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        columns = {
            column["name"]: (str(column["type"]), column["nullable"], column["default"])
            for column in inspector.get_columns(table)
        }
        foreign = {
            key["name"]: (key["constrained_columns"], key["referred_table"], key["referred_columns"], key["options"])
            for key in inspector.get_foreign_keys(table)
        }
        unique = {key["name"]: key["column_names"] for key in inspector.get_unique_constraints(table)}
        indexes = {index["name"]: (index["column_names"], index["unique"]) for index in inspector.get_indexes(table)}
        primary = inspector.get_pk_constraint(table)
        key = (primary["name"], primary["constrained_columns"])
        found[table] = {"columns": columns, "key": key, "foreign": foreign, "unique": unique, "indexes": indexes}
    return found


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    return ScriptDirectory.from_config(config)


class TestSchema:
    def test_migrated_is_what_the_models_say(self, bare: Database) -> None:
        Base.metadata.create_all(bare.engine)
        of_models = described(bare)
        Base.metadata.drop_all(bare.engine)
        assert described(bare) == {}
        upgrade(bare)
        assert described(bare) == of_models

    def test_down_to_nothing_and_up_again(self, database: Database) -> None:
        before = described(database)
        assert len(before) > 10
        downgrade(database, "base")
        assert described(database) == {}
        upgrade(database)
        assert described(database) == before
        with database.reading() as session:
            assert [monitor.kind for monitor in list_monitors(session)] == ["score", "scan", "ablate_on_change"]

    def test_nothing_stays_behind_in_postgresql(self, postgresql_url: str) -> None:
        database = Database(postgresql_url)
        downgrade(database, "base")
        query = "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public'"
        with database.reading() as session:
            left = set(session.scalars(text(query)))
        database.close()
        assert left == {"alembic_version", "alembic_version_pkc"}

    def test_compressed_columns_are_not_compressed_again(self, postgresql_url: str) -> None:
        query = "SELECT attrelid::regclass || '.' || attname FROM pg_attribute WHERE attstorage = 'e' AND attnum > 0"
        with psycopg.connect(postgresql_url) as connection:
            found = {name for (name,) in connection.execute(query) if not name.startswith("pg_")}
        assert found == {
            "loss_blocks.payload",
            "measurements.payload",
            "slices.tokens",
            "token_group_members.members",
        }

    def test_an_id_of_an_event_is_never_given_again_in_sqlite(self, sqlite_database: Database) -> None:
        with sqlite_database.reading() as session:
            assert "AUTOINCREMENT" in (session.scalar(text("SELECT sql FROM sqlite_master WHERE name='events'")) or "")


class TestUpgrade:
    def test_may_be_repeated(self, database: Database) -> None:
        before = described(database)
        upgrade(database)
        assert described(database) == before
        assert database.schema_revision() == REVISION

    def test_two_processes_at_once(
        self, bare_database_url: str, bare: Database, processes: ProcessPoolExecutor, tmp_path: Path
    ) -> None:
        """Both find an empty database, one migrates it, and the other finds it done."""
        both = [processes.submit(migrate, bare_database_url, str(tmp_path), name) for name in ("first", "second")]
        assert [each.result() for each in both] == [REVISION, REVISION]
        with bare.reading() as session:
            assert len(list_monitors(session)) == 3

    def test_does_not_depend_on_the_working_directory(
        self, bare: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        upgrade(bare)
        bare.check_schema()

    def test_one_that_fails_leaves_everything_as_it_was(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failing = _NEXT.replace("def downgrade", "    raise OSError('disk full')\n\n\ndef downgrade")
        self.later(tmp_path, monkeypatch, failing)
        before = described(database)
        with pytest.raises(OSError, match="disk full"):
            upgrade(database)
        assert described(database) == before
        assert database.schema_revision() == REVISION

    def test_a_table_that_is_copied_keeps_the_rows_that_refer_to_it(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLite changes most things by copying a table and dropping the old one, whose drop would cascade."""
        with database.transaction() as session:
            run, _ = create_run(session, NewRun("run"))
        self.later(tmp_path, monkeypatch, _NEXT)
        for _ in range(2):
            upgrade(database)
            assert "colour" in described(database)["runs"]["columns"]
            downgrade(database, REVISION)
        with database.reading() as session:
            assert [found.id for found in list_runs(session)] == [run.id]
            assert len(list_segments(session, run.id)) == 1
            if database.is_sqlite:
                assert session.scalar(text("PRAGMA foreign_keys")) == 1

    def test_one_that_waits_for_a_lock_fails_instead_of_stopping_the_service(
        self, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "50ms")
        database = Database(postgresql_url)
        with psycopg.connect(postgresql_url) as reader:
            reader.execute("SELECT * FROM runs")
            with pytest.raises(OperationalError, match="lock timeout"):
                downgrade(database, "base")
        database.check_schema()
        database.close()

    def later(self, folder: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
        """The next version of the code, with one migration more."""
        copy = shutil.copytree(SCRIPTS, folder / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "versions" / "2027_01_01_0004_colours.py").write_text(content.lstrip())
        monkeypatch.setattr(migrations, "SCRIPTS", copy)


class TestCheck:
    def test_of_an_empty_database(self, bare: Database) -> None:
        assert bare.schema_revision() is None
        with pytest.raises(
            SchemaMismatch, match=f"has no schema yet, this code needs {REVISION}: run `python -m server"
        ):
            bare.check_schema()

    def test_of_the_current_one(self, database: Database) -> None:
        database.check_schema()

    def test_of_an_older_one(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database_module, "REVISION", "0999")
        with pytest.raises(SchemaMismatch, match=f"{REVISION} is older than this code's 0999: run `python -m server"):
            database.check_schema()

    def test_of_a_newer_one_which_is_not_migrated_either(self, database: Database) -> None:
        with database.transaction() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '0999'"))
        said = f"0999 is newer than this code's {REVISION}: update phasewatch"
        for refuse in (database.check_schema, lambda: upgrade(database)):
            with pytest.raises(SchemaMismatch, match=said):
                refuse()


class TestScripts:
    def test_the_newest_is_the_one_of_the_models(self) -> None:
        assert scripts().get_heads() == [REVISION]

    def test_names_are_dated_and_numbered_as_they_follow(self) -> None:
        names = sorted(path.name for path in (SCRIPTS / "versions").glob("*.py"))
        parts = [re.fullmatch(r"(\d{4}_\d{2}_\d{2})_(\d{4})_[a-z_]+\.py", name) for name in names]
        assert all(parts)
        assert [part[2] for part in parts if part] == [f"{number:04d}" for number in range(1, len(names) + 1)]

    def test_each_says_what_it_follows_and_when_it_was_made(self) -> None:
        for script in scripts().walk_revisions():
            name = Path(script.path).name
            said = f"Revision: {script.revision}, after {script.down_revision or 'none'}; {name[:10].replace('_', '-')}"
            assert said in script.longdoc or said in (script.module.__doc__ or ""), name
