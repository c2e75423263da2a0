"""Routes of channels: where alerts go, and which. For admins: whoever adds one makes the service send things there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from phasewatch.storage import channels as stored
from server.alerts import channels
from server.dependencies import ADMIN_ONLY, AuditTarget, Parts, ReadSession, WriteSession
from server.problems import errors
from server.schemas.alerts import (
    ChannelCreate,
    ChannelCreated,
    ChannelOut,
    ChannelSecret,
    ChannelUpdate,
    DeletedChannel,
    TestedOut,
)
from server.schemas.page import IntCursor, Limit, Page

router = APIRouter(prefix="/channels", tags=["alerts"], responses=errors(), dependencies=ADMIN_ONLY)

ChannelId = Annotated[int, Path(ge=1, lt=2**63, description="the channel's id")]


@router.post("", status_code=201, responses=errors(413, 415))
def create_channel(body: ChannelCreate, parts: Parts, target: AuditTarget) -> ChannelCreated:
    """Adds a channel. 422 for an address that is not on the public internet, unless the service allows those."""
    row, secret = channels.add_channel(
        parts.database,
        parts.settings,
        name=body.name,
        url=body.url,
        kind=body.kind,
        rules=body.rules.model_dump(mode="json"),
        quiet_hours=None if body.quiet_hours is None else body.quiet_hours.model_dump(by_alias=True),
        enabled=body.enabled,
    )
    target(f"channel={row.id}")
    return ChannelCreated.of(row, secret=secret)


@router.get("")
def list_channels(session: ReadSession, cursor: IntCursor = None, limit: Limit = 50) -> Page[ChannelOut]:
    """Channels, oldest first."""
    rows = stored.list_channels(session, after=cursor or 0, limit=limit + 1)
    return Page[ChannelOut].of(rows, limit, ChannelOut.of, lambda row: row.id)


@router.get("/{channel}", responses=errors(404))
def get_channel(channel: ChannelId, session: ReadSession) -> ChannelOut:
    """One channel."""
    return ChannelOut.of(stored.get_channel(session, channel))


@router.patch("/{channel}", responses=errors(404, 413, 415))
def update_channel(channel: ChannelId, body: ChannelUpdate, parts: Parts) -> ChannelOut:
    """Changes a channel; alerts that wait for it are sent as it then is."""
    return ChannelOut.of(channels.change_channel(parts.database, parts.settings, channel, body.values()))


@router.delete("/{channel}", responses=errors(404))
def delete_channel(channel: ChannelId, session: WriteSession) -> DeletedChannel:
    """Removes a channel, with its alerts and their log."""
    return DeletedChannel(alerts=stored.delete_channel(session, channel))


@router.post("/{channel}/secret", responses=errors(404, 409))
def renew_secret(channel: ChannelId, parts: Parts) -> ChannelSecret:
    """Makes a new secret for a channel's webhooks, in place of the old one."""
    return ChannelSecret(secret=channels.renew_secret(parts.database, parts.settings, channel))


@router.post("/{channel}/test", responses=errors(404))
def send_test(channel: ChannelId, parts: Parts) -> TestedOut:
    """Sends a test message at once, whatever the rules and the hour, and says how it went."""
    return TestedOut.of(channels.send_test(parts.database, parts.settings, channel))
