"""A run as one file: a zip of Parquet tables, or a .npz; written while it is read, a piece at a time.

What is read is one state of the database, however long the reading takes. Names of a user's become members' names with
every unusual character as %XX, so that no unpacking leaves its folder.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import quote
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select
from sqlalchemy.orm import Session

from phasewatch.storage.database import Database
from phasewatch.storage.losses import LossHistory, list_loss_slices, loss_history
from phasewatch.storage.measurements import MeasureHistory, list_measures, load_measure
from phasewatch.storage.phase_changes import change_tokens, list_phase_changes
from phasewatch.storage.runs import get_run, is_visible, list_segments, visible_stretches
from phasewatch.storage.schema import PhaseChangeRow, SeriesValue, SliceRow
from phasewatch.storage.series import load_series
from server.schemas.phase_changes import PhaseChangeOut
from server.schemas.runs import RunOut, SegmentOut

Format = Literal["parquet", "npz"]
SUFFIX = {"parquet": "zip", "npz": "npz"}
VALUES_AT_ONCE = 500_000
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same run gives the same bytes

Pieces = Iterator[bytes]


def export_run(database: Database, run_id: UUID, form: Format) -> Pieces:
    """The file, piece by piece. Raises NotFound before the first of them."""
    out = _Sink()
    with database.reading() as session, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        members = _parquet(session, run_id, archive) if form == "parquet" else _npz(session, run_id, archive)
        for _ in members:
            yield out.take()
    yield out.take()


class _Sink(io.RawIOBase):
    """Takes what a writer writes, and gives it away; it cannot be sought in, and keeps nothing."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        content = bytes(piece)
        self._pieces.append(content)
        self._position += len(content)
        return len(content)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """Everything since the last time."""
        found, self._pieces = b"".join(self._pieces), []
        return found


class _Counted(io.RawIOBase):
    """A member of an archive that knows how much of it is written, which Parquet asks for."""

    def __init__(self, member: Any) -> None:
        self._member, self._position = member, 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        content = bytes(piece)
        self._member.write(content)
        self._position += len(content)
        return len(content)

    def tell(self) -> int:
        return self._position


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[Any]:
    with archive.open(zipfile.ZipInfo(name, _LONG_AGO), "w", force_zip64=True) as member:
        yield member


def safe_name(name: str) -> str:
    """A name as part of a member's: `urllib.parse.unquote` brings it back."""
    return quote(name, safe="").replace(".", "%2E")


# What there is of a run.


def _metadata(session: Session, run_id: UUID) -> str:
    run = RunOut.of(get_run(session, run_id)).model_dump(mode="json")
    segments = [SegmentOut.of(one).model_dump(mode="json") for one in list_segments(session, run_id)]
    return json.dumps({"run": run, "segments": segments}, indent=1)


def _slice_names(session: Session, run_id: UUID) -> Sequence[str]:
    probe_set_id = get_run(session, run_id).probe_set_id
    return session.scalars(
        select(SliceRow.name).where(SliceRow.probe_set_id == probe_set_id).order_by(SliceRow.id)
    ).all()


def _series_names(session: Session, run_id: UUID) -> Sequence[str]:
    visible = is_visible(visible_stretches(session, run_id), SeriesValue.segment_id, SeriesValue.step)
    return session.scalars(select(SeriesValue.name).where(visible).distinct().order_by(SeriesValue.name)).all()


def _losses(session: Session, run_id: UUID, name: str) -> Iterator[LossHistory]:
    """The losses of a slice step by step, at most `VALUES_AT_ONCE` at once: whole steps, or parts of one."""
    rows = list_loss_slices(session, run_id, name)
    n_values = rows[0].n_values if rows else 1
    together = max(1, VALUES_AT_ONCE // n_values)
    for row in range(0, len(rows), together):
        steps = [one.step for one in rows[row : row + together]]
        for first in range(0, n_values, VALUES_AT_ONCE):
            tokens = np.arange(first, min(first + VALUES_AT_ONCE, n_values))
            yield loss_history(session, run_id, name, tokens=tokens, steps=steps)


def _measures(session: Session, run_id: UUID) -> Iterator[MeasureHistory]:
    for measure, version, _, _ in list_measures(session, run_id):
        yield load_measure(session, run_id, measure, version)


# As Parquet.

_LOSSES = pa.schema([("step", pa.int64()), ("token", pa.int64()), ("loss", pa.float32())])
_SERIES = pa.schema([("name", pa.string()), ("step", pa.int64()), ("value", pa.float64())])
_NUMBERS = pa.list_(pa.float64())
_MEASUREMENTS = pa.schema(
    [
        ("measure", pa.string()), ("version", pa.int32()), ("step", pa.int64()), ("shape", pa.list_(pa.int64())),
        ("values", _NUMBERS), ("low", _NUMBERS), ("high", _NUMBERS), ("chance", pa.float64()),
    ]
)  # fmt: skip
_CHANGES = pa.schema(
    [
        ("id", pa.string()), ("state", pa.string()), ("review", pa.string()), ("measure", pa.string()),
        ("kind", pa.string()), ("direction", pa.string()), ("induction", pa.bool_()), ("start_step", pa.int64()),
        ("step", pa.int64()), ("end_step", pa.int64()), ("effect", pa.float64()), ("unit", pa.string()),
        ("q_value", pa.float64()), ("slice", pa.string()), ("tokens", pa.list_(pa.int32())), ("detail", pa.string()),
    ]
)  # fmt: skip


def _parquet(session: Session, run_id: UUID, archive: zipfile.ZipFile) -> Iterator[None]:
    """Writes a member after the other; yields when something can be sent."""
    yield from _put(archive, "metadata.json", _metadata(session, run_id).encode())
    for name in _slice_names(session, run_id):
        tables = (_loss_table(one) for one in _losses(session, run_id, name))
        yield from _table(archive, f"losses/{safe_name(name)}.parquet", _LOSSES, tables)
    yield from _table(archive, "series.parquet", _SERIES, _series_tables(session, run_id))
    measured = (_measure_table(one) for one in _measures(session, run_id))
    yield from _table(archive, "measurements.parquet", _MEASUREMENTS, measured)
    changes = [_change_columns(row) for row in list_phase_changes(session, run_id, withdrawn=True)]
    yield from _table(archive, "changes.parquet", _CHANGES, [pa.Table.from_pylist(changes, _CHANGES)])


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> Iterator[None]:
    with _member(archive, name) as member:
        member.write(content)
    yield


def _table(archive: zipfile.ZipFile, name: str, schema: Any, tables: Iterable[Any]) -> Iterator[None]:
    with _member(archive, name) as member, pq.ParquetWriter(_Counted(member), schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            yield
    yield


def _loss_table(found: LossHistory) -> Any:
    n_steps, n_tokens = found.values.shape
    steps, tokens = np.repeat(found.steps, n_tokens), np.tile(found.tokens, n_steps)
    return pa.table([steps, tokens, found.values.reshape(-1)], schema=_LOSSES)


def _series_tables(session: Session, run_id: UUID) -> Iterator[Any]:
    for name in _series_names(session, run_id):
        for steps, values in load_series(session, run_id, [name]).values():
            yield pa.table([[name] * len(steps), steps, values], schema=_SERIES)


def _measure_table(found: MeasureHistory) -> Any:
    n, shape = len(found.steps), list(found.values.shape[1:])
    low, high = (None, None) if found.interval is None else (found.interval[:, 0], found.interval[:, 1])
    flat = [None if one is None else list(one.reshape(n, -1)) for one in (found.values, low, high)]
    columns = [[found.measure] * n, [found.version] * n, found.steps, [shape] * n]
    columns += [[None] * n if one is None else one for one in flat]
    return pa.table([*columns, found.chance], schema=_MEASUREMENTS)


def _change_columns(row: PhaseChangeRow) -> dict[str, Any]:
    same = {name: getattr(row, name) for name in _CHANGES.names if name not in ("id", "tokens", "detail")}
    tokens = None if row.tokens is None else change_tokens(row)
    return same | {"id": str(row.id), "tokens": tokens, "detail": json.dumps(row.detail)}


# As .npz.


def _npz(session: Session, run_id: UUID, archive: zipfile.ZipFile) -> Iterator[None]:
    """Arrays that numpy.load reads: losses/SLICE (n_steps, n_tokens), …/steps; series, measures; JSON texts."""
    yield from _array(archive, "metadata", np.array(_metadata(session, run_id)))
    for name in _slice_names(session, run_id):
        yield from _loss_arrays(session, run_id, archive, name)
    for name in _series_names(session, run_id):
        for steps, values in load_series(session, run_id, [name]).values():
            yield from _array(archive, f"series/{safe_name(name)}/steps", np.array(steps, np.int64))
            yield from _array(archive, f"series/{safe_name(name)}/values", np.array(values, np.float64))
    for found in _measures(session, run_id):
        of = f"measures/{safe_name(found.measure)}/v{found.version}"
        yield from _array(archive, f"{of}/steps", found.steps)
        yield from _array(archive, f"{of}/values", found.values)
        if found.interval is not None:
            yield from _array(archive, f"{of}/interval", found.interval)
    rows = list_phase_changes(session, run_id, withdrawn=True)
    yield from _array(archive, "changes", np.array([PhaseChangeOut.of(row).model_dump_json() for row in rows], str))


def _loss_arrays(session: Session, run_id: UUID, archive: zipfile.ZipFile, name: str) -> Iterator[None]:
    rows = list_loss_slices(session, run_id, name)
    if not rows:
        return
    yield from _array(archive, f"losses/{safe_name(name)}/steps", np.array([row.step for row in rows], np.int64))
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), rows[0].n_values)}
    with _member(archive, f"losses/{safe_name(name)}.npy") as member:
        np.lib.format.write_array_header_1_0(member, header)
        for found in _losses(session, run_id, name):
            member.write(np.ascontiguousarray(found.values, "<f4").tobytes())
            yield
    yield


def _array(archive: zipfile.ZipFile, name: str, values: npt.NDArray[Any]) -> Iterator[None]:
    with _member(archive, f"{name}.npy") as member:
        np.lib.format.write_array(member, values, allow_pickle=False)
    yield
