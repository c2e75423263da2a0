"""Checkpoints as the API takes and gives them, and what uploaded weights must look like."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, deserialize

from phasewatch.errors import InvalidInput, UnsupportedMedia
from phasewatch.storage.checkpoints import NewCheckpoint
from phasewatch.storage.schema import Checkpoint
from server.schemas.arrays import describe
from server.schemas.values import JsonObject, StepNumber


class CheckpointCreate(BaseModel):
    """A checkpoint to record; its weights may follow."""

    model_config = ConfigDict(extra="forbid")

    step: StepNumber = Field(description="optimizer steps completed")
    tokens_seen: StepNumber | None = Field(None, description="training tokens seen so far")
    model: JsonObject | None = Field(None, description="how to rebuild the model that the weights belong to")

    def to_storage(self) -> NewCheckpoint:
        """The checkpoint as storage takes it."""
        return NewCheckpoint(self.step, self.tokens_seen, self.model)


class CheckpointOut(BaseModel):
    """The model at one step."""

    step: int = Field(description="optimizer steps completed")
    segment: int = Field(description="number of the segment it belongs to")
    tokens_seen: int | None = Field(description="training tokens seen so far")
    model: dict[str, Any] | None = Field(description="how to rebuild the model that the weights belong to")
    size_bytes: int | None = Field(description="size of its weights, also where they were removed since")
    sha256: str | None = Field(description="SHA-256 of its weights")
    has_weights: bool = Field(description="whether its weights are stored")
    resumable: bool = Field(description="whether training can go on from it bit for bit")
    created_at: datetime = Field(description="when it was recorded, UTC")

    @classmethod
    def of(cls, row: Checkpoint, segment: int) -> Self:
        """The checkpoint of a row in the segment of that number."""
        same = ("step", "tokens_seen", "model", "size_bytes", "sha256", "created_at")
        return cls(
            **{name: getattr(row, name) for name in same},
            segment=segment,
            has_weights=row.artifact_url is not None,
            resumable=row.artifact_url is not None and row.state_url is not None,
        )


def check_weights(body: bytes) -> None:
    """Raises UnsupportedMedia for a pickle or an archive, InvalidInput for anything else that is not safetensors."""
    if body.startswith((b"\x80", b"PK")):
        raise UnsupportedMedia(f"weights are taken as safetensors, not as {len(body)} bytes {describe(body)}")
    try:
        deserialize(body)  # type: ignore[no-untyped-call]  # safetensors has no types
    except SafetensorError as error:
        raise InvalidInput(f"the {len(body)} bytes are not safetensors: {error}") from error
