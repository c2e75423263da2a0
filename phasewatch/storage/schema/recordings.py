"""What training runs write: runs and their segments, probe sets, checkpoints, losses, metrics, measurements."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from phasewatch.storage.schema.base import Base, CleanText, RunStatus, utc_now


class ProbeSetRow(Base):
    """A fixed set of tokens, under the SHA-256 of its content."""

    __tablename__ = "probe_sets"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    vocab_size: Mapped[int | None]
    pieces: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))  # text of each token id
    absent: Mapped[dict[str, Any]]  # slice name -> reason
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class SliceRow(Base):
    """One named part of a probe set: token ids, zstd-compressed little-endian int32."""

    __tablename__ = "slices"
    __table_args__ = (UniqueConstraint("probe_set_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    probe_set_id: Mapped[str] = mapped_column(ForeignKey("probe_sets.id", ondelete="CASCADE"))
    name: Mapped[str]
    n_sequences: Mapped[int]
    n_tokens: Mapped[int]
    layout: Mapped[dict[str, Any]]
    tokens: Mapped[bytes] = mapped_column(deferred=True)  # megabytes, and most who ask for a slice want its shape


class TokenGroupRow(Base):
    """A set of predicted tokens that a user described, under a name of its probe set's.

    Its id is never given again, so that work asked for under an earlier group of the same name is told apart.
    """

    __tablename__ = "token_groups"
    __table_args__ = (UniqueConstraint("probe_set_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    probe_set_id: Mapped[str] = mapped_column(ForeignKey("probe_sets.id", ondelete="CASCADE"))
    name: Mapped[str]
    definition: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class TokenGroupMembers(Base):
    """Which losses of a slice belong to a token group: zstd-compressed bits, found once, when it was defined."""

    __tablename__ = "token_group_members"

    group_id: Mapped[UUID] = mapped_column(ForeignKey("token_groups.id", ondelete="CASCADE"), primary_key=True)
    slice_id: Mapped[int] = mapped_column(ForeignKey("slices.id", ondelete="CASCADE"), primary_key=True)
    n_members: Mapped[int]
    members: Mapped[bytes] = mapped_column(deferred=True)


class Run(Base):
    """One training run, trained here (`training`) or recorded from outside (`config`)."""

    __tablename__ = "runs"
    __table_args__ = (Index(None, "status"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    status: Mapped[RunStatus]
    training: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    config: Mapped[dict[str, Any]]
    tags: Mapped[list[Any]]
    parent: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"))
    probe_set_id: Mapped[str | None] = mapped_column(ForeignKey("probe_sets.id"))
    last_step: Mapped[int | None] = mapped_column(BigInteger)
    failure: Mapped[str | None] = mapped_column(CleanText)
    owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Segment(Base):
    """An unbroken stretch of a run; it hides what older segments hold from `from_step` on."""

    __tablename__ = "segments"
    __table_args__ = (UniqueConstraint("run_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    number: Mapped[int]
    from_step: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Checkpoint(Base):
    """The model at one step: where its weights lie and how to rebuild it."""

    __tablename__ = "checkpoints"

    segment_id: Mapped[int] = mapped_column(ForeignKey("segments.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tokens_seen: Mapped[int | None] = mapped_column(BigInteger)
    model: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # how to rebuild it
    artifact_url: Mapped[str | None] = mapped_column(Text)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    state_url: Mapped[str | None] = mapped_column(Text)  # what a resume needs beyond the weights
    state_sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class LossSlice(Base):
    """The losses of one slice at one step; the values lie in `loss_blocks`."""

    __tablename__ = "loss_slices"

    segment_id: Mapped[int] = mapped_column(ForeignKey("segments.id", ondelete="CASCADE"), primary_key=True)
    slice_id: Mapped[int] = mapped_column(ForeignKey("slices.id"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    codec: Mapped[str] = mapped_column(String(32))
    n_values: Mapped[int]
    mean_nats: Mapped[float | None]  # over the finite values
    n_non_finite: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))  # of the little-endian float32 array as received
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class LossBlock(Base):
    """8,192 consecutive tokens of a loss slice; the key's order makes one token's history one index range.

    `slice_id` has no foreign key: the loss slice's own row holds one, and without an index on it the removal of a
    probe set would read every block there is.
    """

    __tablename__ = "loss_blocks"

    segment_id: Mapped[int] = mapped_column(ForeignKey("segments.id", ondelete="CASCADE"), primary_key=True)
    slice_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    block: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    payload: Mapped[bytes]


class SeriesValue(Base):
    """One value of one training metric; NaN is stored as null, because SQLite cannot keep it."""

    __tablename__ = "series"

    segment_id: Mapped[int] = mapped_column(ForeignKey("segments.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[float | None]


class MeasurementRow(Base):
    """A measure of one checkpoint: zstd-compressed little-endian float64 values with their shape."""

    __tablename__ = "measurements"
    __table_args__ = (Index(None, "segment_id", "measure", "version", "step"),)

    segment_id: Mapped[int] = mapped_column(ForeignKey("segments.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    measure: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    shape: Mapped[list[Any]]
    payload: Mapped[bytes]
    interval: Mapped[bytes | None]  # low values, then high values
    chance: Mapped[float | None]
    source: Mapped[str] = mapped_column(String(16))  # job or recorder
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
