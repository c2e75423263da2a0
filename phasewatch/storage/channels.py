"""Channels: where alerts may go. Addresses and secrets come sealed; what may be shown of them comes beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phasewatch.errors import NotFound
from phasewatch.storage.limits import MAX_INTEGER, checked_name
from phasewatch.storage.schema import Alert, Channel, ChannelKind, utc_now


@dataclass(frozen=True)
class NewChannel:
    """A channel to make. `address` may be shown; `url` and `secret` are sealed."""

    name: str
    kind: ChannelKind
    address: str
    url: str
    secret: str | None
    rules: dict[str, Any]
    quiet_hours: dict[str, Any] | None
    enabled: bool = True


def create_channel(session: Session, new: NewChannel) -> Channel:
    """The new channel. It is told of what happens from now on."""
    checked_name("channel name", new.name)
    channel = Channel(**vars(new))
    session.add(channel)
    session.flush()
    return channel


def get_channel(session: Session, channel_id: int, *, lock: bool = False) -> Channel:
    """The channel; raises NotFound."""
    known = 0 < channel_id <= MAX_INTEGER
    channel = session.get(Channel, channel_id, with_for_update=lock or None, populate_existing=lock) if known else None
    if channel is None:
        raise NotFound(f"channel {channel_id} does not exist; GET /api/v1/channels lists those that do")
    return channel


def list_channels(session: Session, *, after: int = 0, limit: int = 50) -> Sequence[Channel]:
    """Channels, oldest first; `after` is the id the previous page ended with."""
    query = select(Channel).where(Channel.id > min(max(after, 0), MAX_INTEGER)).order_by(Channel.id).limit(limit)
    return session.scalars(query).all()


def update_channel(session: Session, channel_id: int, values: dict[str, Any]) -> Channel:
    """The channel with these columns changed; raises NotFound."""
    channel = get_channel(session, channel_id, lock=True)
    if "name" in values:
        checked_name("channel name", values["name"])
    for name, value in values.items():
        setattr(channel, name, value)
    channel.updated_at = utc_now()
    session.flush()
    return channel


def delete_channel(session: Session, channel_id: int) -> int:
    """Removes a channel with its alerts and their log; how many alerts. Raises NotFound."""
    channel = get_channel(session, channel_id, lock=True)
    n_alerts = session.scalar(select(func.count()).select_from(Alert).where(Alert.channel_id == channel.id)) or 0
    session.delete(channel)
    session.flush()
    return n_alerts
