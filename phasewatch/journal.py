"""Records in files of one folder: appended, read on from a position, and deleted file by file once they are done with.

Apart from the spool, which knows what the records mean: here is what a disk may do to them. A record is written by one
call to the system, so it outlives the death of its process; `sync` makes it outlive the machine's. A folder belongs to
whoever holds its lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

try:
    import fcntl
except ImportError:  # Windows: folders there are never taken over
    fcntl = None  # type: ignore[assignment]  # asked for before each use

from phasewatch.errors import InvalidInput
from phasewatch.ids import new_id

logger = logging.getLogger("phasewatch")

FILE_BYTES: Final = 16 * 2**20  # a file that has reached this gets no more records
_HEAD: Final = struct.Struct("<4sIII")  # mark, CRC-32 of all that follows it, bytes of head, bytes of body
_MARK: Final = b"pwj1"
_LOCK: Final = "lock"
_ABOUT: Final = "about.json"
_DONE: Final = "done.json"
_SUFFIX: Final = ".records"


@dataclass(frozen=True, order=True)
class Position:
    """A place between two records: number of the file, bytes from its beginning."""

    file: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Record:
    """What was appended, and the place behind it."""

    head: bytes
    body: bytes
    end: Position

    @property
    def size_bytes(self) -> int:
        """What it takes in its file."""
        return _HEAD.size + len(self.head) + len(self.body)


class Journal:
    """One folder of records. A single process appends and acknowledges; reading may be in another of its threads.

    about: what whoever takes the folder over must know. note: what was said at the last acknowledgement.
    """

    def __init__(self, folder: Path, lock: BinaryIO, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.about = dict(about)
        self.note: dict[str, Any] = {}
        self._damaged: set[int] = set()
        self._lock = lock
        self._begin, self.note = self._done()
        self._end = max((Position(number, path.stat().st_size) for number, path in self._files()), default=self._begin)
        self._writer: FileIO | None = None
        self._reader: tuple[int, FileIO] | None = None

    @classmethod
    def create(cls, parent: Path, about: Mapping[str, Any]) -> Self:
        """A new folder in `parent`, locked before another process can see it. Raises OSError."""
        parent.mkdir(parents=True, exist_ok=True)
        name = str(new_id())
        hidden = parent / f".{name}"
        hidden.mkdir(mode=0o700)
        (hidden / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        lock = _locked(hidden / _LOCK, create=True)
        if lock is None:
            raise OSError(f"{hidden} was taken by another process")
        return cls(hidden.rename(parent / name), lock, about)

    @classmethod
    def take_over(cls, folder: Path) -> Self | None:
        """The journal in a folder that its process has left; None where somebody has it, or it is no journal."""
        if fcntl is None or (lock := _locked(folder / _LOCK)) is None:
            return None
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # removed by its owner just now, or not ours
            about = None
        if isinstance(about, dict):
            return cls(folder, lock, about)
        lock.close()
        return None

    @property
    def begin(self) -> Position:
        """Where what is not acknowledged begins."""
        return self._begin

    def append(self, head: bytes, body: bytes) -> int:
        """Writes one record behind the others; its bytes. Raises OSError, and then nothing was written."""
        if self._writer is None or self._end.offset >= FILE_BYTES:
            self._writer = self._next_file()
        sums = zlib.crc32(body, zlib.crc32(head))
        record = b"".join((_HEAD.pack(_MARK, sums, len(head), len(body)), head, body))
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._writer.write(rest) :]
        except OSError:
            self._writer.truncate(self._end.offset)
            raise
        self._end = Position(self._end.file, self._end.offset + len(record))
        return len(record)

    def read(self, position: Position) -> Record | None:
        """The record at `position`, or the first behind it in a later file; None where there are no more.

        The rest of a file is left out where a record is not whole, which is said.
        """
        end = self._end
        while position < end:
            file = self._open_to_read(position.file)
            record = None if file is None else _read(file, position)
            if record is not None:
                return record
            self._note_damage(file, position)
            position = Position(position.file + 1)
        return None

    def count(self) -> int:
        """How many records are not acknowledged, by the lengths that they name."""
        return sum(1 for _ in self._positions())

    def acknowledge(self, position: Position, note: Mapping[str, Any]) -> None:
        """Everything before `position` is done with; files that lie before it are deleted. Raises OSError.

        What was acknowledged may come again after a power cut, so it must do no harm twice.
        """
        before, self._begin, self.note = self._begin, position, dict(note)
        content = {"file": position.file, "offset": position.offset, "note": self.note}
        temporary = self.folder / f"{_DONE}.new"
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(self.folder / _DONE)
        for number in range(before.file, position.file):
            (self.folder / _name(number)).unlink(missing_ok=True)

    def sync(self) -> None:
        """Waits until what was appended is on the disk itself. Raises OSError."""
        if self._writer is not None:
            os.fsync(self._writer.fileno())

    def close(self, *, remove: bool) -> None:
        """Gives the folder up, or removes it and its parent where that is empty."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others are in it
                self.folder.parent.rmdir()
        for file in (self._writer, self._reader[1] if self._reader else None, self._lock):
            if file is not None:
                file.close()
        self._writer = self._reader = None

    def _files(self) -> Iterator[tuple[int, Path]]:
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            if path.stem.isdecimal():
                yield int(path.stem), path

    def _done(self) -> tuple[Position, dict[str, Any]]:
        """What was acknowledged last; from the first file on where that cannot be read."""
        first = Position(next((number for number, _ in self._files()), 0))
        try:
            content = json.loads((self.folder / _DONE).read_text(encoding="utf-8"))
            position, note = Position(int(content["file"]), int(content["offset"])), dict(content["note"])
        except (OSError, ValueError, KeyError, TypeError):
            return first, {}
        return max(first, position), note

    def _next_file(self) -> FileIO:
        number = self._end.file + 1 if self._end.offset else self._end.file
        file = FileIO(self.folder / _name(number), "ab")
        if self._writer is not None:
            os.fsync(self._writer.fileno())  # `sync` only sees the newest file
            self._writer.close()
        self._end = Position(number, 0)
        return file

    def _open_to_read(self, number: int) -> FileIO | None:
        if self._reader is not None and self._reader[0] == number:
            return self._reader[1]
        if self._reader is not None:
            self._reader[1].close()
            self._reader = None
        try:
            file = FileIO(self.folder / _name(number), "rb")
        except FileNotFoundError:
            return None
        self._reader = number, file
        return file

    def _note_damage(self, file: FileIO | None, position: Position) -> None:
        """Says, once, that the rest of a file is lost: its process died while it wrote, or the disk lost it."""
        if file is None or position.file in self._damaged or (rest := _size(file) - position.offset) <= 0:
            return
        self._damaged.add(position.file)
        where = self.folder / _name(position.file)
        logger.warning("phasewatch: %s ends in %d bytes that are no whole record; they are left out", where, rest)

    def _positions(self) -> Iterator[Position]:
        position = self._begin
        while position < self._end:
            file = self._open_to_read(position.file)
            found = None if file is None else _lengths(file, position)
            if found is None:
                self._note_damage(file, position)
                position = Position(position.file + 1)
                continue
            yield position
            position = Position(position.file, position.offset + _HEAD.size + found[1] + found[2])


def journals(parent: Path) -> list[Path]:
    """Folders in `parent` that may hold a journal, oldest first."""
    if not parent.is_dir():
        return []
    return sorted(path.parent for path in parent.glob(f"*/{_LOCK}") if not path.parent.name.startswith("."))


def checked_folder(spool: str | os.PathLike[str]) -> Path:
    """`spool` as an absolute path, which a later change of the working directory leaves alone. Raises InvalidInput."""
    try:
        folder = Path(spool).expanduser().absolute()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"spool {spool!r} is no folder: {error}") from error
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"spool {folder} is a file; name a folder, or None to keep the queue in memory")
    return folder


def _locked(path: Path, *, create: bool = False) -> BinaryIO | None:
    """The file at `path`, open and locked; None where another process has it or it is not there."""
    try:
        file = path.open("wb" if create else "rb")
    except OSError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _lengths(file: FileIO, position: Position) -> tuple[int, int, int] | None:
    """CRC-32, bytes of head and bytes of body of the record at `position`; None where it is not whole."""
    file.seek(position.offset)
    fixed = file.read(_HEAD.size)
    if len(fixed) < _HEAD.size:
        return None
    mark, sums, n_head, n_body = _HEAD.unpack(fixed)
    ends = position.offset + _HEAD.size + n_head + n_body
    return (sums, n_head, n_body) if mark == _MARK and ends <= _size(file) else None


def _read(file: FileIO, position: Position) -> Record | None:
    found = _lengths(file, position)
    if found is None:
        return None
    sums, n_head, n_body = found
    content = file.read(n_head + n_body)
    head, body = content[:n_head], content[n_head:]
    if len(content) < n_head + n_body or zlib.crc32(body, zlib.crc32(head)) != sums:
        return None
    return Record(head, body, Position(position.file, position.offset + _HEAD.size + len(content)))


def _name(number: int) -> str:
    return f"{number:08d}{_SUFFIX}"


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size
