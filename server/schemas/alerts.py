"""Channels, alerts and deliveries as the API takes and gives them. Addresses go in whole and come out shortened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from phasewatch.storage.alert_rules import QuietHours, Rules
from phasewatch.storage.schema import Alert, AlertKind, AlertState, Channel, ChannelKind, Delivery, DeliveryOutcome
from server.alerts.messages import text_of
from server.alerts.sender import notice_of
from server.alerts.webhook import Outcome
from server.schemas.values import Name

Url = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
_URL = (
    "where to send: https://… for a signed webhook, or an Apprise URL such as mailto://, slack://, discord:// or "
    "ntfy://. Kept sealed and never shown again"
)


class ChannelCreate(BaseModel):
    """Where alerts shall go, and which."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="what people call it")
    url: Url = Field(description=_URL)
    kind: ChannelKind | None = Field(
        None, description="webhook (signed) or apprise; default: webhook for http:// and https://, else apprise"
    )
    rules: Rules = Field(default_factory=Rules, description="what it is told of")
    quiet_hours: QuietHours | None = Field(None, description="when nothing is sent to it")
    enabled: bool = Field(True, strict=True, description="whether it is told of anything")


class ChannelUpdate(BaseModel):
    """What can be changed of a channel; what is left out, or null, stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = Field(None, description="a new name")
    url: Url | None = Field(None, description="a new address of the same kind of channel")
    rules: Rules | None = Field(None, description="the new rules, whole, in place of the old ones")
    quiet_hours: QuietHours | None = Field(None, description="new quiet hours; null takes them away")
    enabled: bool | None = Field(
        None, strict=True, description="false: it is told of nothing, and what waits for it waits on"
    )

    def values(self) -> dict[str, Any]:
        """What was given, as JSON."""
        given = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {name: value for name, value in given.items() if value is not None or name == "quiet_hours"}


class ChannelOut(BaseModel):
    """A channel."""

    id: int = Field(description="its id")
    name: str = Field(description="what people call it")
    kind: ChannelKind = Field(description="webhook or apprise")
    address: str = Field(description="where it leads, without what could be a secret")
    rules: Rules = Field(description="what it is told of")
    quiet_hours: QuietHours | None = Field(description="when nothing is sent to it")
    enabled: bool = Field(description="whether it is told of anything")
    created_at: datetime = Field(description="when it was made, UTC; it is told of what happened since")
    updated_at: datetime = Field(description="when it was last changed, UTC")

    @classmethod
    def of(cls, row: Channel, **more: Any) -> Self:
        """The channel of a row."""
        return cls.model_validate({name: getattr(row, name) for name in ChannelOut.model_fields} | more)


class ChannelCreated(ChannelOut):
    """A new channel, with the secret that its webhooks are signed with."""

    secret: str | None = Field(description="shown this once; null for a channel of Apprise, which signs nothing")


class ChannelSecret(BaseModel):
    """A new secret in place of the old one."""

    secret: str = Field(description="shown this once; messages are signed with it from now on")


class DeletedChannel(BaseModel):
    """What went with a channel."""

    alerts: int = Field(description="alerts that were deleted, sent or not, each with its log")


class TestedOut(BaseModel):
    """How an attempt to send a message went."""

    outcome: DeliveryOutcome = Field(
        description="delivered; refused by the receiver; unreachable; or forbidden, because of where it would go"
    )
    status_code: int | None = Field(description="the HTTP status that the receiver answered, where it is known")
    took_ms: float = Field(description="milliseconds")
    detail: str | None = Field(description="what went wrong, in words")

    @classmethod
    def of(cls, found: Outcome | Delivery) -> Self:
        """The attempt that was made."""
        return cls(**{name: getattr(found, name) for name in cls.model_fields})


class DeliveryOut(TestedOut):
    """One attempt to deliver an alert."""

    attempt: int = Field(description="1 for the first")
    time: datetime = Field(description="when it began, UTC")


class AlertOut(BaseModel):
    """One thing that one channel is told of, once."""

    id: int = Field(description="its id, increasing")
    channel: int = Field(description="the channel it is for")
    kind: AlertKind = Field(description="phase_change, stale_run, divergence or job_failed")
    run: UUID | None = Field(description="the run it is about")
    phase_change: UUID | None = Field(description="the phase change it is about")
    title: str = Field(description="what happened, on one line")
    text: str = Field(description="the same at length: of a phase change its explanation")
    state: AlertState = Field(description="waiting, sending, sent or failed")
    attempts: int = Field(description="how often it was tried; the sixth failure ends it")
    delivery: UUID = Field(description="id of the message it goes with, the same over every attempt")
    held_until: datetime | None = Field(description="the end of the quiet hours that held it back, UTC")
    not_before: datetime = Field(description="when it may be sent, next or first, UTC")
    created_at: datetime = Field(description="when it was raised, UTC")
    finished_at: datetime | None = Field(description="when it was sent or given up, UTC")

    @classmethod
    def of(cls, row: Alert, **more: Any) -> Self:
        """The alert of a row."""
        renamed: dict[str, Any] = {"channel": row.channel_id, "run": row.run_id, "phase_change": row.phase_change_id}
        renamed |= {"delivery": row.delivery_id, "text": text_of(notice_of(row))}
        same = {name: getattr(row, name) for name in AlertOut.model_fields if name not in renamed}
        return cls(**same, **renamed, **more)


class AlertDetail(AlertOut):
    """An alert with what it says as data, and every attempt to deliver it."""

    data: dict[str, Any] = Field(description="what it tells as data; of a phase change its times, size and q-value")
    deliveries: list[DeliveryOut] = Field(description="every attempt, the first one first")

    @classmethod
    def with_log(cls, row: Alert, deliveries: Sequence[Delivery]) -> Self:
        """The alert of a row with its log."""
        return cls.of(row, data=row.payload, deliveries=[DeliveryOut.of(one) for one in deliveries])
