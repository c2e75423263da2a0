"""Making, changing and testing channels: addresses are checked and sealed before anything is written.

Apart from the routes because checking asks a name server, and testing sends: neither may hold a transaction open.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from phasewatch import webhooks
from phasewatch.errors import Conflict, InvalidInput
from phasewatch.storage.channels import NewChannel, create_channel, get_channel, update_channel
from phasewatch.storage.database import Database
from phasewatch.storage.schema import Channel, ChannelKind, utc_now
from server.alerts import apprise_service
from server.alerts.addresses import checked_addresses, parse_target
from server.alerts.messages import Notice
from server.alerts.sealing import Seal
from server.alerts.sender import Courier
from server.alerts.webhook import Outcome
from server.settings import Settings


def add_channel(
    database: Database,
    settings: Settings,
    *,
    name: str,
    url: str,
    kind: ChannelKind | None,
    rules: dict[str, Any],
    quiet_hours: dict[str, Any] | None,
    enabled: bool,
) -> tuple[Channel, str | None]:
    """The new channel, and the secret of its webhooks.

    Raises AddressRefused for an address that is not public, InvalidInput for one that cannot be used.
    """
    kind = kind or ("webhook" if url.lower().startswith(("http://", "https://")) else "apprise")
    address = check_address(kind, url, settings)
    seal = Seal(settings)
    secret = webhooks.new_secret() if kind == "webhook" else None
    sealed = None if secret is None else seal.close(secret)
    new = NewChannel(name, kind, address, seal.close(url), sealed, rules, quiet_hours, enabled)
    with database.transaction() as session:
        return create_channel(session, new), secret


def change_channel(database: Database, settings: Settings, channel_id: int, values: dict[str, Any]) -> Channel:
    """The channel with these values changed; `url` is checked and sealed. Raises as `add_channel`, and NotFound."""
    changed = dict(values)
    if "url" in changed:
        with database.reading() as session:
            kind = get_channel(session, channel_id).kind
        changed["address"] = check_address(kind, changed["url"], settings)
        changed["url"] = Seal(settings).close(changed["url"])
    with database.transaction() as session:
        return update_channel(session, channel_id, changed)


def renew_secret(database: Database, settings: Settings, channel_id: int) -> str:
    """A new secret in place of the old one. Raises NotFound, and Conflict for a channel that signs nothing."""
    secret = webhooks.new_secret()
    sealed = Seal(settings).close(secret)
    with database.transaction() as session:
        if get_channel(session, channel_id, lock=True).kind != "webhook":
            raise Conflict(f"channel {channel_id} goes through Apprise, which signs nothing; it has no secret")
        update_channel(session, channel_id, {"secret": sealed})
    return secret


def send_test(database: Database, settings: Settings, channel_id: int) -> Outcome:
    """Sends a test message at once, whatever the channel's rules and hours; how it went. Raises NotFound."""
    with database.reading() as session:
        channel = get_channel(session, channel_id)
    text = "This is a test: alerts of this phasewatch server arrive here."
    notice = Notice("test", f"Test of the channel {channel.name}", {"text": text}, utc_now())
    return Courier(settings).send(channel, [notice], str(uuid4()))


def check_address(kind: ChannelKind, url: str, settings: Settings) -> str:
    """The address as people may see it. Raises AddressRefused or InvalidInput where nothing may be sent there."""
    allow_private = settings.allow_private_webhooks
    try:
        if kind == "apprise":
            return apprise_service.check_url(url, allow_private=allow_private)
        target = parse_target(url)
        checked_addresses(target.host, target.port, allow_private=allow_private)
        return target.shown
    except InvalidInput as error:
        raise type(error)(f"url: {error}") from error
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"url: its host has no address: {error}") from error
