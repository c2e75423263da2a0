"""Registers checkpoints that a foreign trainer writes into a folder: safetensors files, and Hugging Face's folders.

The folder lies below PHASEWATCH_WATCH_ROOT, whatever its name or a symbolic link in it says. A file is read once its
header's promise of its length is kept and nobody has written to it for a while; a pickle is never read.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, InvalidInput, NotFound
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import NewCheckpoint, list_checkpoints, put_checkpoint, put_weights
from phasewatch.storage.database import Database
from server.jobs.work import Progress, Store, Work, job

KIND = "watch_folder"
MAX_ENTRIES = 10_000
MAX_HEADER = 100 * 2**20  # safetensors' own limit
MAX_CONFIG = 2**20
HUGGING_FACE = "hugging_face"  # the kind of a model that its config.json describes
_NUMBER = re.compile(r"\d+")
_NAMELESS = ("model", "pytorch_model", "adapter_model", "weights")  # files that are called after their folder


@dataclass(frozen=True)
class Candidate:
    """A file that may be a checkpoint: where it really lies, the step its name says, and its config.json."""

    path: Path
    step: int
    config: Path | None


@job(KIND)
def watch_folder(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """Registers what is new in the folder, a transaction a file; the result names what was left, and why."""
    run_id = work.run()
    folder = folder_below(work.watch_root, str(work.parameters["folder"]))
    tell = Progress(work, database)
    with database.reading() as session:
        rows = list_checkpoints(session, run_id)
        recorded = {row.step for row in rows}
        known = {row.step for row in rows if row.size_bytes is not None}  # those that retention removed, too
    found, left = look(folder, Path(str(work.watch_root)).resolve())
    registered: list[int] = []
    new = [one for one in found if one.step not in known]
    for number, one in enumerate(new):
        tell(number / len(new), f"{one.path.name}: {number} of {len(new)} files")
        reason = why_not(one.path, float(work.parameters["stable_s"]))
        if reason is None:
            try:
                _register(one, run_id, recorded, database, artifacts)
                registered.append(one.step)
            except (InvalidInput, Conflict, NotFound, OSError) as error:
                reason = str(error)
        if reason is not None:
            left.append({"file": one.path.name, "reason": reason})

    def store(session: Session) -> dict[str, Any]:
        return {"registered": sorted(registered), "left": left[:100], "n_left": len(left)}

    return store


def folder_below(root: str | None, name: str) -> Path:
    """The folder `name` below the root that the service allows, symbolic links resolved.

    Raises InvalidInput where there is no root, or the folder does not lie in it.
    """
    if not root:
        raise InvalidInput("folders are watched below PHASEWATCH_WATCH_ROOT alone, and that is not set")
    top = Path(root).resolve()
    try:
        folder = (top / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, links in a circle
        raise InvalidInput(f"folder {name[:80]!r} cannot be found: {error}") from error
    if not folder.is_relative_to(top):
        raise InvalidInput(f"folder {name[:80]!r} leaves PHASEWATCH_WATCH_ROOT; name one below it")
    return folder


def look(folder: Path, root: Path) -> tuple[list[Candidate], list[dict[str, str]]]:
    """Files that may be checkpoints, one a step, by step; and what is left, with the reason."""
    found: dict[int, Candidate] = {}
    left = []
    for path in sorted(_files(folder)):
        step = step_of(path)
        real = path.resolve()
        if not real.is_relative_to(root):
            reason = "it is a link out of PHASEWATCH_WATCH_ROOT"
        elif step is None:
            reason = "its name has no step, such as step_1000.safetensors or checkpoint-1000/model.safetensors"
        elif step in found:
            reason = f"{found[step].path.name} has the same step {step}"
        else:
            config = (path.parent / "config.json").resolve()
            inside = path.parent != folder and config.is_file() and config.is_relative_to(root)
            found[step] = Candidate(real, step, config if inside else None)
            continue
        left.append({"file": str(path.relative_to(folder)), "reason": reason})
    return [found[step] for step in sorted(found)], left


def _files(folder: Path) -> Iterator[Path]:
    """Every *.safetensors of a folder and of its folders; of a sharded model none, because it is no file."""
    entries = [folder, *(path for path in _listed(folder) if path.is_dir() and not path.is_symlink())]
    for place in entries:
        files = [path for path in _listed(place) if path.suffix == ".safetensors" and path.is_file()]
        yield from (path for path in files if not re.search(r"-\d+-of-\d+$", path.stem))


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NotFound(f"folder {folder.name} is not there; is it on the machine that does the jobs?")
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for _, entry in zip(range(MAX_ENTRIES), entries, strict=False))


def step_of(path: Path) -> int | None:
    """The last number in a file's name; in its folder's where the file is called as every one is."""
    name = path.parent.name if path.stem in _NAMELESS else path.stem
    numbers = _NUMBER.findall(name)
    step = int(numbers[-1]) if numbers and len(numbers[-1]) <= 18 else None
    return step


def why_not(path: Path, stable_s: float) -> str | None:
    """Why a file is left for now; None where it is whole and at rest."""
    status = path.stat()
    if time.time() - status.st_mtime < stable_s:
        return f"it was written to within the last {stable_s:g} s"
    with _opened(path) as file:
        promised = promised_size(file)
    if promised is None:
        return "it is no safetensors file, or its header is not whole yet"
    if promised != status.st_size:
        return f"it has {status.st_size} bytes of the {promised} that its header promises"
    return None


def promised_size(file: BinaryIO) -> int | None:
    """The length in bytes that a safetensors file's header promises; None where it is no such header."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= MAX_HEADER:
        return None
    try:
        header = json.loads(file.read(length))
        ends = [int(one["data_offsets"][1]) for name, one in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return 8 + length + max(ends, default=0)


def _opened(path: Path) -> BinaryIO:
    """A file that is no link by now: its path was resolved before."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _register(
    one: Candidate, run_id: UUID, recorded: Collection[int], database: Database, artifacts: Artifacts
) -> None:
    """Copies the file among the artifacts and names it as the weights of the checkpoint at its step, old or new."""
    model = None if one.config is None else {"kind": HUGGING_FACE, "config": _read_config(one.config)}
    status = one.path.stat()
    name = f"{run_id}/watched-{one.step:010d}-{secrets.token_hex(8)}.safetensors"
    with _opened(one.path) as file:
        weights = artifacts.put_stream(name, file)
    try:
        if weights.size_bytes != status.st_size:
            raise InvalidInput("it was written to while it was read")
        with database.transaction() as session:
            if one.step in recorded:
                put_weights(session, run_id, one.step, weights)
            else:
                put_checkpoint(session, run_id, NewCheckpoint(one.step, model=model, weights=weights))
    except Exception:
        artifacts.delete(name)
        raise


def _read_config(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        content = file.read(MAX_CONFIG + 1)
    if len(content) > MAX_CONFIG:
        raise InvalidInput(f"config.json has more than {MAX_CONFIG} bytes")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"config.json cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput("config.json is no object")
    return found
