"""Probe sets in the database, under the hash of their content."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from phasewatch.errors import NotFound
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.codecs import pack, unpack
from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.runs import get_run
from phasewatch.storage.schema import ProbeSetRow, SliceRow, utc_now


def put_probe_set(session: Session, probes: ProbeSet) -> bool:
    """Stores a probe set; False when it was there. Its id is `probes.sha256`."""
    values = {
        "id": probes.sha256,
        "vocab_size": probes.vocab_size,
        "pieces": list(probes.pieces) if probes.pieces is not None else None,
        "absent": dict(probes.absent),
        "created_at": utc_now(),
    }
    if not insert_if_absent(session, ProbeSetRow, values):
        return False
    for name, part in probes.slices.items():
        n_sequences, n_tokens = part.tokens.shape
        session.add(
            SliceRow(
                probe_set_id=probes.sha256,
                name=name,
                n_sequences=n_sequences,
                n_tokens=n_tokens,
                layout=part.layout.to_dict(),
                tokens=pack(part.tokens, "<i4"),
            )
        )
    session.flush()
    return True


def get_probe_set_row(session: Session, probe_set_id: str) -> ProbeSetRow:
    """The row of a probe set; raises NotFound."""
    row = session.get(ProbeSetRow, probe_set_id)
    if row is None:
        raise NotFound(f"probe set {probe_set_id} does not exist; POST it to /api/v1/probe-sets")
    return row


def list_probe_sets(session: Session, *, after: str | None = None, limit: int = 50) -> Sequence[ProbeSetRow]:
    """Probe sets in the order of their ids; `after` is the id the previous page ended with."""
    query = select(ProbeSetRow).order_by(ProbeSetRow.id).limit(limit)
    return session.scalars(query if after is None else query.where(ProbeSetRow.id > after)).all()


def list_slices(session: Session, probe_set_id: str) -> Sequence[SliceRow]:
    """The slices of a probe set by name; token ids are loaded, packed, when they are asked for."""
    return session.scalars(select(SliceRow).where(SliceRow.probe_set_id == probe_set_id).order_by(SliceRow.name)).all()


def get_slice_row(session: Session, probe_set_id: str, name: str) -> SliceRow:
    """The row of a slice; raises NotFound naming what there is."""
    get_probe_set_row(session, probe_set_id)
    rows = list_slices(session, probe_set_id)
    for row in rows:
        if row.name == name:
            return row
    raise NotFound(f"the probe set has no slice {name!r}; it has {', '.join(row.name for row in rows)}")


def slice_tokens(row: SliceRow) -> npt.NDArray[np.int32]:
    """The token ids of a slice, (n_sequences, n_tokens)."""
    found: npt.NDArray[np.int32] = unpack(row.tokens, "<i4", (row.n_sequences, row.n_tokens))
    return found


def load_probe_set(session: Session, probe_set_id: str) -> ProbeSet:
    """The probe set as the measures take it; raises NotFound."""
    row = get_probe_set_row(session, probe_set_id)
    slices = {
        part.name: Slice(slice_tokens(part), Layout.from_dict(part.layout))
        for part in session.scalars(
            select(SliceRow).where(SliceRow.probe_set_id == probe_set_id).options(undefer(SliceRow.tokens))
        )
    }
    pieces = tuple(row.pieces) if row.pieces is not None else None
    return ProbeSet(slices=slices, absent=row.absent, vocab_size=row.vocab_size, pieces=pieces)


def get_run_slice(session: Session, run_id: UUID, name: str) -> SliceRow:
    """The slice of that name in the run's probe set; raises NotFound naming what there is."""
    run = get_run(session, run_id)
    if run.probe_set_id is None:
        raise NotFound(f"run {run_id} has no probe set yet; PUT /api/v1/runs/{run_id}/probe-set first")
    rows = list_slices(session, run.probe_set_id)
    for row in rows:
        if row.name == name:
            return row
    raise NotFound(f"run {run_id} has no slice {name!r}; its probe set has {', '.join(row.name for row in rows)}")
