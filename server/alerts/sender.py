"""Sends what was raised: claims messages under a lease, makes one attempt at each, and writes down how it went.

Runs beside every scheduler, in threads of its own, so that no mail waits behind a score and none is sent within the
transaction that raised it. Any number may serve one database; the rows decide who sends what.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from phasewatch.errors import PhasewatchError
from phasewatch.storage.database import Database
from phasewatch.storage.deliveries import Attempt, Message, claim_messages, has_due, record_attempt
from phasewatch.storage.schema import Alert, Channel, utc_now
from server.alerts.addresses import Resolve, resolve
from server.alerts.apprise_service import send_apprise
from server.alerts.messages import Notice, body_of, words_of
from server.alerts.sealing import Seal
from server.alerts.webhook import Outcome, send_webhook
from server.settings import Settings

LEASE_S = 180.0  # well beyond the longest attempt, which ends by itself
POLL_S = 1.0
NEXT_S = 0.05  # after something was found
AWAY_S = 5.0  # pause after the database did not answer
SLOTS = 4
STOP_S = 3.0  # what an attempt under way has left when the service stops; its lease leaves it to another

log = logging.getLogger(__name__)


class Courier:
    """Makes single attempts to send to channels, with no database at hand."""

    def __init__(self, settings: Settings, resolver: Resolve = resolve) -> None:
        self.seal = Seal(settings)
        self._settings, self._resolver = settings, resolver

    def send(self, channel: Channel, notices: Sequence[Notice], delivery: str) -> Outcome:
        """Sends these notices as one message; whatever happens is in the outcome."""
        try:
            url = self.seal.open(channel.url)
            secret = "" if channel.secret is None else self.seal.open(channel.secret)
        except PhasewatchError as error:
            return Outcome("unreachable", 0.0, detail=str(error))
        allow_private, link_base = self._settings.allow_private_webhooks, self._settings.link_base
        if channel.kind == "webhook":
            body = body_of(notices, delivery, link_base)
            return send_webhook(url, secret, delivery, body, allow_private=allow_private, resolver=self._resolver)
        title, text = words_of(notices, link_base)
        return send_apprise(url, title, text, allow_private=allow_private)


class Sender:
    """Works between `start` and `stop`. `name` is what it goes by in the database."""

    def __init__(
        self, database: Database, courier: Courier, name: str, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.name = name
        self._database, self._courier, self._clock = database, courier, clock
        self._under_way: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._loop = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins to send; returns at once."""
        self._loop.start()

    def stop(self) -> None:
        """Claims nothing more, and gives what is under way a moment to end."""
        self._stopping.set()
        self._loop.join()
        deadline = time.monotonic() + STOP_S
        for thread in self._under_way:
            thread.join(max(0.0, deadline - time.monotonic()))

    def send_due(self) -> int:
        """Sends what is due now, one message a channel, and waits until it is done; how many messages that were."""
        messages = self._claim(SLOTS)
        for message in messages:
            self._send(message)
        return len(messages)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._under_way = [thread for thread in self._under_way if thread.is_alive()]
                claimed = self._claim(SLOTS - len(self._under_way))
                pause = POLL_S if not claimed else NEXT_S  # a channel with many gets a message at a time
                for message in claimed:
                    thread = threading.Thread(target=self._try_to_send, args=[message], daemon=True)
                    thread.start()
                    self._under_way.append(thread)
            except Exception as error:  # the database may be away; whatever it is, the next round tries again
                log.warning("no alert could be sent, trying again: %s", str(error).splitlines()[0])
                pause = AWAY_S
            self._stopping.wait(pause)

    def _claim(self, free: int) -> list[Message]:
        if free <= 0:
            return []
        now = self._clock()
        with self._database.reading() as session:
            if not has_due(session, now):
                return []
        with self._database.transaction() as session:
            return list(claim_messages(session, self.name, free, LEASE_S, now=now))

    def _try_to_send(self, message: Message) -> None:
        try:
            self._send(message)
        except Exception as error:  # not written down: the lease runs out, and the attempt is made again
            log.warning("how an alert was sent could not be stored: %s", str(error).splitlines()[0])

    def _send(self, message: Message) -> None:
        """Makes one attempt and writes it down."""
        begin = self._clock()
        found = self._courier.send(
            message.channel, [notice_of(one) for one in message.alerts], str(message.delivery_id)
        )
        attempt = Attempt(begin, found.outcome, found.took_ms, found.status_code, found.detail, found.retry_after_s)
        with self._database.transaction() as session:
            record_attempt(session, message, self.name, attempt, now=self._clock())
        if found.outcome != "delivered":
            log.warning(
                "attempt %d to send alert %d to channel %d: %s (%s)",
                message.attempt,
                message.alerts[0].id,
                message.channel.id,
                found.outcome,
                found.detail or found.status_code,
            )


def notice_of(alert: Alert) -> Notice:
    """The alert as a message has it."""
    return Notice(alert.kind, alert.title, alert.payload, alert.created_at, alert.id)
