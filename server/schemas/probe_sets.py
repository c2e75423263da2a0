"""Probe sets as the API takes and gives them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from phasewatch.errors import InvalidInput
from phasewatch.probes import TEXT, Kind, Layout, ProbeSet, Slice
from phasewatch.storage.probe_text import Found, Stretch, spell
from phasewatch.storage.schema import ProbeSetRow, SliceRow
from server.schemas.values import WHOLE, Text

MAX_ID = 2**31 - 1

SliceLabel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
TokenNumber = Annotated[int, Field(ge=0, le=MAX_ID, strict=True), WHOLE]
SequenceTokens = Annotated[list[TokenNumber], Field(min_length=2)]
Piece = Annotated[str, Field(max_length=1_000)]


class LayoutIn(BaseModel):
    """How the sequences of a slice are built."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind = Field(description="text, repeats, random, or user for anything else")
    bos: TokenNumber | None = Field(None, description="the id at position 0, where sequences start with one")
    copy_length: int = Field(0, ge=0, le=MAX_ID, description="tokens a copy, of repeats")
    n_copies: int = Field(0, ge=0, le=MAX_ID, description="copies a sequence, of repeats")

    def to_library(self) -> Layout:
        """The layout as the measures take it."""
        return Layout(self.kind, self.bos, self.copy_length, self.n_copies)


class SliceCreate(BaseModel):
    """One part of a probe set."""

    model_config = ConfigDict(extra="forbid")

    tokens: list[SequenceTokens] = Field(min_length=1, description="(n_sequences, n_tokens) token ids")
    layout: LayoutIn | None = Field(None, description="default: text for the slice text, else user")

    def to_library(self, name: str) -> Slice:
        """The slice as the measures take it; raises InvalidInput for sequences of different lengths."""
        lengths = {len(sequence) for sequence in self.tokens}
        if len(lengths) != 1:
            raise InvalidInput(
                f"slice {name!r} has sequences of {min(lengths)} to {max(lengths)} tokens; cut them alike"
            )
        layout = self.layout.to_library() if self.layout else Layout("text" if name == TEXT else "user")
        return Slice(np.array(self.tokens, np.int32), layout)


class ProbeSetCreate(BaseModel):
    """The tokens that every checkpoint of a run is measured on."""

    model_config = ConfigDict(extra="forbid")

    slices: dict[SliceLabel, SliceCreate] = Field(min_length=1, max_length=100, description="slices by name")
    vocab_size: int | None = Field(None, ge=1, le=MAX_ID, description="number of token ids, where it is known")
    pieces: list[Piece] | None = Field(None, description="the text of each token id, for showing")
    absent: dict[SliceLabel, Text] = Field(default_factory=dict, description="why a slice is not there, by its name")

    def to_library(self) -> ProbeSet:
        """The probe set as the measures take it."""
        slices = {name: part.to_library(name) for name, part in self.slices.items()}
        pieces = None if self.pieces is None else tuple(self.pieces)
        return ProbeSet(slices=slices, absent=self.absent, vocab_size=self.vocab_size, pieces=pieces)


class LayoutOut(BaseModel):
    """How the sequences of a slice are built."""

    kind: str = Field(description="text, repeats, random, or user for anything else")
    bos: int | None = Field(None, description="the id at position 0, where sequences start with one")
    copy_length: int = Field(0, description="tokens a copy, of repeats")
    n_copies: int = Field(0, description="copies a sequence, of repeats")


class SliceOut(BaseModel):
    """The size and layout of a slice."""

    n_sequences: int = Field(description="how many sequences there are")
    n_tokens: int = Field(description="tokens a sequence")
    n_positions: int = Field(description="losses a sequence, n_tokens - 1: column j is the loss of token j + 1")
    layout: LayoutOut = Field(description="how the sequences are built")

    @classmethod
    def of(cls, row: SliceRow) -> Self:
        """The slice of a row."""
        return cls(
            n_sequences=row.n_sequences,
            n_tokens=row.n_tokens,
            n_positions=row.n_tokens - 1,
            layout=LayoutOut(**row.layout),
        )


class ProbeSetOut(BaseModel):
    """A probe set, without its tokens."""

    id: str = Field(description="SHA-256 of slice names, layouts and token ids")
    vocab_size: int | None = Field(description="number of token ids, where it is known")
    has_pieces: bool = Field(description="whether the text of each token id is known")
    absent: dict[str, str] = Field(description="why a slice is not there, by its name")
    slices: dict[str, SliceOut] = Field(description="slices by name")
    created_at: datetime = Field(description="when it was stored, UTC")

    @classmethod
    def of(cls, row: ProbeSetRow, slices: Sequence[SliceRow]) -> Self:
        """The probe set of a row and its slices'."""
        return cls(
            id=row.id,
            vocab_size=row.vocab_size,
            has_pieces=row.pieces is not None,
            absent=row.absent,
            slices={part.name: SliceOut.of(part) for part in slices},
            created_at=row.created_at,
        )


class SliceTokens(BaseModel):
    """The tokens of a slice."""

    tokens: list[list[int]] = Field(description="(n_sequences, n_tokens) token ids")
    texts: list[list[str]] | None = Field(description="the text of each, where the probe set has pieces")

    @classmethod
    def of(cls, found: Stretch) -> SliceTokens:
        """The sequences that storage read."""
        pieces = found.pieces
        texts = None if pieces is None else [spell(pieces, sequence) for sequence in found.tokens]
        return cls.model_construct(tokens=found.tokens.tolist(), texts=texts)


class FoundText(BaseModel):
    """Where a text stands in a slice."""

    sequence: int = Field(description="the sequence it stands in")
    position: int = Field(description="its first token's place in the sequence; 0 is the first, which has no loss")
    n_tokens: int = Field(description="over how many tokens it reaches")
    token: int | None = Field(description="its first token's position in the flat loss slice; null without a loss")

    @classmethod
    def of(cls, found: Found, n_tokens: int) -> Self:
        """What storage found, in sequences of `n_tokens`."""
        token = found.sequence * (n_tokens - 1) + found.position - 1 if found.position else None
        return cls(sequence=found.sequence, position=found.position, n_tokens=found.n_tokens, token=token)
