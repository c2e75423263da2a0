"""What a phase change did to groups of tokens, as the API gives it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from phasewatch.storage.change_groups import ChangedGroups, GroupAround, SharedContext


class GroupAroundOut(BaseModel):
    """A token group across a change."""

    name: str = Field(description="its name")
    measure: str = Field(description="under which name its mean loss is measured")
    n_tokens: int = Field(description="losses of the slice that belong to it")
    n_moved: int | None = Field(description="of these, how many moved with the change; null where it names no tokens")
    expected: float | None = Field(description="how many would have, were moving unrelated to the group")
    loss_before: float | None = Field(description="mean, nats, over the 5 checkpoints nearest before the start")
    loss_after: float | None = Field(description="mean, nats, over the 5 checkpoints nearest after the end")

    @classmethod
    def of(cls, found: GroupAround) -> Self:
        """The group that storage read."""
        return cls(**vars(found))


class SharedContextOut(BaseModel):
    """A context that tokens of a change have oftener than chance gives."""

    kind: str = Field(description="previous: the token before them is the same; own: they are the same token")
    token_id: int = Field(description="id of that token")
    text: str | None = Field(description="its text, where the probe set has pieces")
    n_tokens: int = Field(description="losses of the slice with this context")
    n_moved: int = Field(description="of these, how many moved with the change")
    expected: float = Field(description="how many would have, were moving unrelated to the context")
    loss_before: float | None = Field(description="mean over all of them, nats, before the start")
    loss_after: float | None = Field(description="mean over all of them, nats, after the end")

    @classmethod
    def of(cls, found: SharedContext) -> Self:
        """The context that storage read."""
        losses = {"text": found.text, "loss_before": found.loss_before, "loss_after": found.loss_after}
        return cls(**vars(found.context), **losses)


class ChangedGroupsOut(BaseModel):
    """Groups and contexts across a change."""

    slice: str | None = Field(description="the slice they are of; null where the run has none but drawn ones")
    groups: list[GroupAroundOut] = Field(description="every token group of the probe set, by name")
    contexts: list[SharedContextOut] = Field(description="previous tokens, then own, each the most telling first")

    @classmethod
    def of(cls, found: ChangedGroups) -> Self:
        """What storage read."""
        groups = [GroupAroundOut.of(one) for one in found.groups]
        return cls(slice=found.slice, groups=groups, contexts=[SharedContextOut.of(one) for one in found.contexts])
