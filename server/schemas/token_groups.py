"""Token groups as the API takes and gives them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from phasewatch.measures.groups import TokenGroup
from phasewatch.storage.token_groups import StoredGroup

MAX_MEMBERS = 50_000

GroupLabel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class TokenGroupCreate(BaseModel):
    """A set of predicted tokens under a name."""

    model_config = ConfigDict(extra="forbid")

    name: GroupLabel = Field(description="measured as token_group:NAME")
    group: TokenGroup = Field(description="which tokens belong to it, described in exactly one way")


class TokenGroupOut(BaseModel):
    """A token group of a probe set."""

    name: str = Field(description="its name")
    group: TokenGroup = Field(description="which tokens belong to it")
    n_members: dict[str, int] = Field(description="how many losses of each slice belong to it")
    measures: dict[str, str] = Field(description="under which name it is measured, by slice")
    created_at: datetime = Field(description="when it was defined, UTC")

    @classmethod
    def of(cls, found: StoredGroup) -> Self:
        """The group of a row."""
        return cls(
            name=found.row.name,
            group=TokenGroup.model_validate(found.row.definition),
            n_members=found.n_members,
            measures=found.measures,
            created_at=found.row.created_at,
        )


class MembersOut(BaseModel):
    """Losses of a slice that belong to a group."""

    items: list[int] = Field(description="positions in the flat loss slice, ascending")
    next: int | None = Field(description="give it as ?first= for what follows; null where nothing does")

    @classmethod
    def of(cls, found: Sequence[int], limit: int) -> Self:
        """At most `limit` members; one more than that says what the next page begins with."""
        return cls(items=list(found[:limit]), next=found[limit] if len(found) > limit else None)


class DeletedMeasurements(BaseModel):
    """What went with a token group."""

    measurements: int = Field(description="values of the group that were deleted, of all runs")
