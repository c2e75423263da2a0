"""Retention as the API takes and gives it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from phasewatch.storage.retention import Plan, RetentionRules

SHOWN_STEPS = 10_000


class RetentionRequest(RetentionRules):
    """What of a run is to be kept."""

    dry_run: bool = Field(False, strict=True, description="only say what would be done")

    @property
    def rules(self) -> RetentionRules:
        """The rules alone."""
        return RetentionRules.model_validate(self.model_dump(exclude={"dry_run"}))


class RetentionOut(BaseModel):
    """What retention does to a run; with `job`, what it found to do when it was asked."""

    n_weights: int = Field(description="checkpoints whose weights go")
    weights_bytes: int = Field(description="bytes of their files, as they were written")
    n_kept: int = Field(description="checkpoints whose weights stay")
    steps: list[int] = Field(description="steps whose weights go, ascending; the first 10,000")
    n_loss_slices: int = Field(description="loss slices that are stored with 11 significant bits from then on")
    loss_bytes: int = Field(description="bytes that these take now")
    job: int | None = Field(description="the job that does it, whose result says what was freed; null in a dry run")

    @classmethod
    def of(cls, plan: Plan, job: int | None) -> Self:
        """The plan of a run."""
        return cls(
            n_weights=len(plan.weights),
            weights_bytes=plan.weights_bytes,
            n_kept=plan.n_kept,
            steps=[one.step for one in plan.weights[:SHOWN_STEPS]],
            n_loss_slices=plan.n_loss_slices,
            loss_bytes=plan.loss_bytes,
            job=job,
        )
