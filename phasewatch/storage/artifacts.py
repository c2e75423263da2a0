"""Files too large for the database (weights, resume states), in any folder fsspec can reach, checked by SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import fsspec

from phasewatch.errors import InvalidInput, NotFound, PhasewatchError, Unavailable

_PIECE = 2**20
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Artifact:
    """A stored file: its name below the artifacts folder, size and SHA-256 (hex)."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ListedFile:
    """A file as a folder lists it."""

    name: str
    size_bytes: int
    modified_at: datetime


class Artifacts:
    """The artifacts folder: `/some/folder`, `s3://bucket/folder`, `gs://…`, anything fsspec opens.

    Rows keep names below the folder, so that the folder can move. A file is complete or absent: a local one is written
    aside, synced and renamed; object stores do the same by themselves.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self._files, self._root = fsspec.url_to_fs(url, **options)
        self._local = "file" in _protocols(self._files)

    def put(self, name: str, content: bytes) -> Artifact:
        """Stores `content` as `name` (such as `RUN/0-00000100.safetensors`); the same name again replaces it.

        Raises InvalidInput for a name that leaves the folder, Unavailable when the folder cannot be written.
        """
        path = self._path(name)
        with _reaching(f"artifact {name} ({len(content)} bytes) could not be written"):
            if self._local:
                _write_whole(Path(path), content)
            else:
                self._files.pipe_file(path, content)
        return Artifact(name, len(content), hashlib.sha256(content).hexdigest())

    def get(self, name: str, sha256: str | None = None) -> bytes:
        """The bytes of `name`. Raises NotFound, or Unavailable when their SHA-256 is not the one given."""
        path = self._path(name)
        with _reaching(f"artifact {name} could not be read"):
            try:
                content: bytes = self._files.cat_file(path)
            except FileNotFoundError as error:
                raise NotFound(f"artifact {name} is not in {self.url}") from error
        found = hashlib.sha256(content).hexdigest()
        if sha256 is not None and found != sha256:
            raise Unavailable(f"artifact {name} is damaged: SHA-256 {found[:12]}…, stored as {sha256[:12]}…")
        return content

    def delete(self, name: str) -> int:
        """Removes `name` if it is there; bytes freed."""
        path = self._path(name)
        with _reaching(f"artifact {name} could not be deleted"):
            try:
                size = int(self._files.size(path) or 0)
                self._files.rm_file(path)
            except FileNotFoundError:
                return 0
        return size

    def put_stream(self, name: str, stream: BinaryIO) -> Artifact:
        """Stores what a stream holds, piece by piece, as `put` does."""
        path = self._path(name)
        hashed, size = hashlib.sha256(), 0
        with _reaching(f"artifact {name} could not be written"), self._writing(path) as file:
            while piece := stream.read(_PIECE):
                hashed.update(piece)
                size += len(piece)
                file.write(piece)
        return Artifact(name, size, hashed.hexdigest())

    @contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        if self._local:
            with _written_aside(Path(path)) as file:
                yield file
        else:
            with self._files.open(path, "wb") as file:
                yield file

    def list_folder(self, name: str) -> list[ListedFile]:
        """The files that lie in a folder, without those of its folders; none where it is not there."""
        path = self._path(name)
        with _reaching(f"artifacts folder {name} could not be listed"):
            if not self._files.exists(path):
                return []
            found = [one for one in self._files.ls(path, detail=True) if one["type"] == "file"]
            names = [(f"{name}/{str(one['name']).rpartition('/')[2]}", one) for one in found]
            return [ListedFile(at, int(one["size"] or 0), _modified(self._files, one)) for at, one in names]

    def delete_folder(self, name: str) -> int:
        """Removes a folder with all that lies in it; bytes freed."""
        path = self._path(name)
        with _reaching(f"artifacts folder {name} could not be deleted"):
            if not self._files.exists(path):
                return 0
            freed = int(self._files.du(path))
            self._files.rm(path, recursive=True)
        return freed

    def _path(self, name: str) -> str:
        parts = unquote(name).split("/")
        if not all(_SAFE_PART.fullmatch(part) for part in parts) or "%" in name:
            raise InvalidInput(
                f"artifact name {name!r} leaves the artifacts folder or has characters other than A-Z a-z 0-9 . _ -"
            )
        return f"{self._root.rstrip('/')}/{name}"


@contextmanager
def _reaching(failure: str) -> Iterator[None]:
    """Turns whatever a file system raises into Unavailable: each has errors of its own, and S3's are no OSErrors."""
    try:
        yield
    except PhasewatchError:
        raise
    except Exception as error:  # the one place where a file system of any make is spoken to
        raise Unavailable(f"{failure}: {error}") from error


def _protocols(files: Any) -> tuple[str, ...]:
    protocol = files.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _modified(files: Any, entry: dict[str, Any]) -> datetime:
    found: datetime = files.modified(entry["name"])
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _write_whole(path: Path, content: bytes) -> None:
    with _written_aside(path) as file:
        file.write(content)


@contextmanager
def _written_aside(path: Path) -> Iterator[BinaryIO]:
    """A file that lies at `path`, synced, once the block ends, and nowhere where it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # two may write the same name at once
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
