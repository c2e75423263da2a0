from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from phasewatch import journal as journal_module
from phasewatch.journal import Journal, Position, checked_folder, journals

RECORDS = [(b"head %d" % number, bytes([number]) * (number * 50)) for number in range(20)]


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "FILE_BYTES", 2000)


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes what a test leaves open, as the end of a process does."""
    opened: list[Journal] = []
    begin = Journal.__init__

    def remember(self: Journal, *arguments: Any) -> None:
        begin(self, *arguments)
        opened.append(self)

    monkeypatch.setattr(Journal, "__init__", remember)
    yield
    for journal in opened:
        journal.close(remove=False)


def filled(parent: Path) -> Journal:
    journal = Journal.create(parent, {"run": "r"})
    for record in RECORDS:
        journal.append(*record)
    return journal


def _append(journal: Journal, record: tuple[bytes, bytes]) -> bool:
    try:
        journal.append(*record)
    except OSError:
        return False
    return True


def contents(journal: Journal) -> list[tuple[bytes, bytes]]:
    found, position = [], journal.begin
    while record := journal.read(position):
        found.append((record.head, record.body))
        position = record.end
    return found


def reopened(journal: Journal) -> Journal:
    journal.close(remove=False)
    again = Journal.take_over(journal.folder)
    assert again is not None
    return again


def files(journal: Journal) -> list[Path]:
    return sorted(journal.folder.glob("*.records"))


@pytest.mark.usefixtures("small_files")
class TestRecords:
    def test_come_back_in_order_across_files_here_and_after_a_restart(self, tmp_path: Path) -> None:
        journal = filled(tmp_path)
        assert len(files(journal)) > 3
        assert contents(journal) == RECORDS
        again = reopened(journal)
        assert (again.count(), again.about) == (20, {"run": "r"})
        assert contents(again) == RECORDS

    def test_what_was_acknowledged_is_deleted_and_does_not_come_back(self, tmp_path: Path) -> None:
        journal = filled(tmp_path)
        n_files, position = len(files(journal)), journal.begin
        for _ in range(12):
            record = journal.read(position)
            assert record is not None
            position = record.end
            journal.acknowledge(position, {"segment": 3})
        assert len(files(journal)) < n_files
        again = reopened(journal)
        assert contents(again) == RECORDS[12:]
        assert (again.count(), again.note) == (8, {"segment": 3})

    def test_an_acknowledgement_that_cannot_be_read_repeats_rather_than_loses(self, tmp_path: Path) -> None:
        journal = filled(tmp_path)
        record = journal.read(journal.begin)
        assert record is not None
        journal.acknowledge(record.end, {})
        (journal.folder / "done.json").write_text("{")  # as a power cut may leave it
        assert contents(reopened(journal)) == RECORDS

    @pytest.mark.parametrize("cut", [1, 15, 17, 40])
    def test_a_record_that_was_being_written_is_left_out_and_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int
    ) -> None:
        journal = filled(tmp_path)
        last = files(journal)[-1]
        os.truncate(last, last.stat().st_size - cut)
        again = reopened(journal)
        assert again.count() == 19
        assert contents(again) == RECORDS[:19]
        [said] = [entry.getMessage() for entry in caplog.records]
        assert f"{last} ends in" in said

    def test_a_damaged_byte_costs_the_rest_of_its_file_alone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = filled(tmp_path)
        second = files(journal)[1]
        content = bytearray(second.read_bytes())
        content[30] ^= 1
        second.write_bytes(content)
        kept = contents(reopened(journal))
        assert len(kept) < 20
        assert kept == [record for record in RECORDS if record in kept]  # in order, and nothing made up
        assert kept[0] == RECORDS[0]
        assert kept[-1] == RECORDS[-1]
        assert len(caplog.records) == 1

    def test_a_disk_that_takes_only_a_part_leaves_no_half_record(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Full(FileIO):
            def write(self, content: Any) -> int:
                if self.tell() > 900:
                    raise OSError(28, "No space left on device")
                return super().write(bytes(content)[:100])

        with monkeypatch.context() as patch:
            patch.setattr(journal_module, "FileIO", Full)
            journal = Journal.create(tmp_path, {})
            outcomes = [_append(journal, record) for record in RECORDS]
        assert outcomes == sorted(outcomes, reverse=True)
        again = reopened(journal)
        n_whole = again.count()
        assert 0 < n_whole == sum(outcomes) < 20
        assert contents(again) == RECORDS[:n_whole]


class TestFolders:
    def test_two_of_a_process_and_of_two_processes_are_kept_apart(self, tmp_path: Path) -> None:
        first, second = Journal.create(tmp_path, {}), Journal.create(tmp_path, {})
        assert first.folder != second.folder
        assert Journal.take_over(first.folder) is None
        script = (
            "import sys; from pathlib import Path; from phasewatch.journal import Journal;"
            "sys.exit(Journal.take_over(Path(sys.argv[1])) is not None)"
        )
        command = [sys.executable, "-c", script, str(first.folder)]
        assert subprocess.run(command, check=False).returncode == 0
        first.close(remove=False)
        assert subprocess.run(command, check=False).returncode == 1

    def test_the_last_one_removes_the_spool(self, tmp_path: Path) -> None:
        spool = tmp_path / "spool"
        first, second = Journal.create(spool, {}), Journal.create(spool, {})
        assert journals(spool) == [first.folder, second.folder]
        first.close(remove=True)
        assert journals(spool) == [second.folder]
        second.close(remove=True)
        assert not spool.exists()

    @pytest.mark.parametrize("about", ["", "[]", "{"])
    def test_what_is_no_journal_is_left_alone(self, tmp_path: Path, about: str) -> None:
        (tmp_path / "lock").touch()
        (tmp_path / "about.json").write_text(about)
        assert Journal.take_over(tmp_path) is None
        assert (tmp_path / "about.json").exists()

    def test_nobody_else_may_read_it(self, tmp_path: Path) -> None:
        assert Journal.create(tmp_path, {}).folder.stat().st_mode & 0o077 == 0

    def test_a_spool_is_where_it_was_named_whatever_the_working_directory_becomes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        folder = checked_folder("spool")
        monkeypatch.chdir("/")
        assert folder == tmp_path / "spool"

    def test_an_empty_journal_has_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            journal = reopened(Journal.create(tmp_path, {}))
        assert (journal.begin, journal.count(), journal.read(Position())) == (Position(), 0, None)
        assert not caplog.records
