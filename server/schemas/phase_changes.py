"""Phase changes, and the tokens that move with them, as the API gives them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from phasewatch.measures.evidence import AblationName, Evidence, ShareLost, lead_sentence
from phasewatch.storage.change_tokens import MovedToken
from phasewatch.storage.phase_changes import row_to_change
from phasewatch.storage.schema import ChangeState, PhaseChangeRow, Review
from server.schemas.page import Page
from server.schemas.values import Text

Interval = tuple[float, float]


class ShareLostOut(BaseModel):
    """The share of a score that silencing heads took away: 1 all of it, 0 nothing, negative where it grew."""

    whole: float = Field(description="the whole model's score, nats")
    whole_interval: Interval = Field(description="its interval over sequences")
    share: float | None = Field(description="null where the whole model has no such score to take away")
    interval: Interval | None = Field(description="of the share, over sequences")
    n_matched: int = Field(description="sets of matched random heads of the same layers that it is compared with")
    matched_mean: float | None = Field(description="mean of the shares that these took away")
    matched_sd: float | None = Field(description="their standard deviation; null with fewer than two")

    @classmethod
    def of(cls, lost: ShareLost, n_matched: int) -> Self:
        """The share that was read, against `n_matched` sets."""
        same = {name: getattr(lost, name) for name in cls.model_fields if name != "n_matched"}
        return cls(**same, n_matched=n_matched)


class EvidenceOut(BaseModel):
    """What silencing heads of a change did at the checkpoint after it."""

    measure: str = Field(description="where the values lie: GET /runs/{run}/measures/{measure}")
    heads: list[tuple[int, int]] = Field(description="(layer, head) of those that were zeroed")
    mode: str = Field(description="full, or pattern_preserving: every pattern of the whole model forced")
    step: int = Field(description="the checkpoint")
    scores: dict[str, ShareLostOut] = Field(description="icl_score and repeat_gain, where they were measured")
    matched_heads: list[list[tuple[int, int]]] = Field(description="the sets of matched random heads")
    sentence: str = Field(description="the same in words")

    @classmethod
    def of(cls, found: Evidence, change_heads: Sequence[tuple[int, int]]) -> Self:
        """The evidence that was read; change_heads: every head of the change."""
        others = [head for head in change_heads if head not in found.heads]
        n_matched = len(found.matched_heads)
        return cls(
            measure=str(AblationName(found.heads, found.mode)),
            heads=list(found.heads),
            mode=found.mode,
            step=found.step,
            scores={name: ShareLostOut.of(lost, n_matched) for name, lost in found.scores.items()},
            matched_heads=[list(heads) for heads in found.matched_heads],
            sentence=found.sentence(others),
        )


class PhaseChangeOut(BaseModel):
    """A change of level or of trend, quick against the run's own pace, in log step (MEASURES.md section 8)."""

    id: UUID = Field(description="kept from scan to scan")
    run: UUID = Field(description="the run it was found in")
    state: ChangeState = Field(description="provisional when first seen, then confirmed or withdrawn")
    review: Review | None = Field(description="what a person made of it")
    note: str | None = Field(description="what a person wrote about it")
    measure: str = Field(description="the series it was seen in, such as mean_loss:text")
    kind: str = Field(description="level, slope, bump, hidden, spike or divergence")
    direction: str = Field(description="drop or rise, the sign of after minus before")
    induction: bool = Field(description="whether it is the formation of induction heads")
    start_step: int = Field(description="where 10 % of the way is reached")
    step: int = Field(description="where half of the way is reached")
    end_step: int | None = Field(description="where 90 % of the way is reached; null: not over at the last checkpoint")
    start_interval: Interval | None = Field(description="low and high of start_step; null where no width was fitted")
    step_interval: Interval | None = Field(description="low and high of step")
    end_interval: Interval | None = Field(description="low and high of end_step")
    effect: float | None = Field(description="size, at least 0")
    unit: str = Field(description="unit of the effect")
    q_value: float | None = Field(description="false-discovery rate at which it is reported")
    q_scope: str = Field(description="what the rate is controlled over")
    slice: str | None = Field(description="the slice that its tokens belong to")
    n_tokens: int | None = Field(description="tokens that move with it; null: all, or not applicable")
    heads: list[tuple[int, int]] = Field(description="(layer, head) of every head that moves with it")
    signs: dict[str, str] = Field(description="each present, absent or not measured")
    n_checkpoints_inside: int = Field(description="checkpoints between its start and its end")
    coincides_with: list[str] = Field(description="logged events within its time, such as the end of the warm-up")
    remarks: list[str] = Field(description="what a reader should know of how it was found")
    evidence: list[EvidenceOut] = Field(description="what silencing its heads did; empty before it was measured")
    explanation: str = Field(description="the change in sentences, the strongest evidence among them")
    detector_version: int = Field(description="version of the detector that saw it last")
    first_seen_step: int = Field(description="the run's last step when it was first reported")
    last_seen_step: int = Field(description="the run's last step when it was last looked for")
    created_at: datetime = Field(description="when it was first reported, UTC")
    updated_at: datetime = Field(description="when anything of it last changed, UTC")

    @classmethod
    def of(cls, row: PhaseChangeRow, evidence: Sequence[Evidence] = ()) -> Self:
        """The change of a row, with what the detector said of it and what was measured of its causes."""
        change = row_to_change(row)
        lead = lead_sentence(evidence, change.heads)
        found = change.to_dict() | {"explanation": change.explain([lead] if lead else []), "run": row.run_id}
        found["evidence"] = [EvidenceOut.of(one, change.heads) for one in evidence]
        kept = {name: getattr(row, name) for name in cls.model_fields if hasattr(row, name)}
        return cls.model_validate({name: value for name, value in (found | kept).items() if name != "tokens"})


class PhaseChangePage(Page[PhaseChangeOut]):
    """What was found in a run, and what the newest scan could not look at."""

    notes: list[str] = Field(description="of the newest scan: what it left out, and why nothing can be said")


class PhaseChangeUpdate(BaseModel):
    """What a person makes of a change; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    review: Review | None = Field(None, description="acknowledged or dismissed; null takes it back")
    note: Text | None = Field(None, description="anything worth remembering; null removes it")

    def over(self, row: PhaseChangeRow) -> tuple[Review | None, str | None]:
        """Review and note of the row with what was sent in their place."""
        return (
            self.review if "review" in self.model_fields_set else row.review,
            self.note if "note" in self.model_fields_set else row.note,
        )


class MovedTokenOut(BaseModel):
    """A token that moves with a change."""

    token: int = Field(description="position in the flat loss slice")
    sequence: int = Field(description="the sequence it stands in")
    position: int = Field(description="its place in the sequence; 0 is the first token, which has no loss")
    token_id: int = Field(description="its id")
    text: str | None = Field(description="its text, where the probe set has pieces")
    before: str | None = Field(description="the text of up to 12 tokens before it")
    after: str | None = Field(description="the text of up to 12 tokens after it")
    loss_before: float | None = Field(description="nats, mean over the 5 checkpoints nearest before the change's start")
    loss_after: float | None = Field(description="nats, mean over the 5 checkpoints nearest after its end")

    @classmethod
    def of(cls, moved: MovedToken) -> Self:
        """The token that storage read."""
        return cls(**vars(moved))
