"""Who sends which alert: messages claimed under a lease, and every attempt written down.

An alert's row is its place in the queue. At least once: a sender that dies between sending and writing that down leaves
its alerts to another, whose message has the same delivery id, so that a receiver can drop the repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, NotFound
from phasewatch.ids import new_id
from phasewatch.storage.alert_rules import QuietHours
from phasewatch.storage.events import emit
from phasewatch.storage.limits import MAX_INTEGER
from phasewatch.storage.schema import Alert, AlertState, Channel, Delivery, DeliveryOutcome, utc_now

BACK_OFF_S = (10.0, 60.0, 300.0, 1_800.0, 7_200.0)
"""Before the second and each later attempt."""

MAX_ATTEMPTS = len(BACK_OFF_S) + 1
MAX_DIGEST = 100  # alerts of one message
DETAIL_LENGTH = 500


@dataclass(frozen=True)
class Message:
    """What one channel is to be sent at once: one alert, or those that its quiet hours held back."""

    delivery_id: UUID
    attempt: int
    channel: Channel
    alerts: tuple[Alert, ...]


@dataclass(frozen=True)
class Attempt:
    """How sending a message went. wait_s: the least time until the next attempt, where the receiver asked for one."""

    time: datetime
    outcome: DeliveryOutcome
    took_ms: float
    status_code: int | None = None
    detail: str | None = None
    wait_s: float | None = None


def has_due(session: Session, now: datetime) -> bool:
    """True where something is to be sent; spares an idle sender the lock that `claim_messages` takes."""
    query = select(Alert.id).join(Channel, Channel.id == Alert.channel_id).where(Channel.enabled, _due(now))
    return session.scalar(query.limit(1)) is not None


def due_since(session: Session, now: datetime) -> datetime | None:
    """Since when the alert that has been due the longest waits to be sent; None without any."""
    oldest = select(func.min(Alert.not_before)).join(Channel, Channel.id == Alert.channel_id)
    return session.scalar(oldest.where(Channel.enabled, _due(now)))


def _due(now: datetime) -> ColumnElement[bool]:
    waiting = and_(Alert.state == "waiting", Alert.not_before <= now)
    lost = and_(Alert.state == "sending", Alert.lease_expires_at < now)
    return or_(waiting, lost)


def claim_messages(session: Session, owner: str, limit: int, lease_s: float, *, now: datetime) -> Sequence[Message]:
    """Up to `limit` messages of enabled channels that are due, now held by `owner`; oldest first, one a channel.

    One whose sender was lost in its last attempt is failed instead.
    """
    due = exists().where(Alert.channel_id == Channel.id, _due(now))
    # The channel's row is what two senders meet at: alerts of one message are then claimed by one of them. Inserting
    # an alert needs no more of it than that its key stays.
    channels = select(Channel).where(Channel.enabled, due).order_by(Channel.id).limit(limit)
    locked = channels.with_for_update(skip_locked=True, key_share=True, of=Channel)
    messages = []
    for channel in session.scalars(locked, execution_options={"populate_existing": True}).all():
        if _hold_back(session, channel, now):
            continue
        alerts = _next_message(session, channel.id, now)
        if alerts and alerts[0].attempts >= MAX_ATTEMPTS:
            _end(session, alerts, "failed")
        elif alerts:
            messages.append(_claim(channel, alerts, owner, now + timedelta(seconds=lease_s)))
    session.flush()
    return messages


def _hold_back(session: Session, channel: Channel, now: datetime) -> bool:
    """True in the channel's quiet hours: what is due, a further attempt for one, then waits for their end."""
    quiet = None if channel.quiet_hours is None else QuietHours.model_validate(channel.quiet_hours)
    end = None if quiet is None else quiet.end_of(now)
    if end is None:
        return False
    due = select(Alert).where(Alert.channel_id == channel.id, _due(now)).order_by(Alert.id).with_for_update()
    for alert in session.scalars(due, execution_options={"populate_existing": True}):
        _wait(alert, end)
        alert.held_until = end
    return True


def _next_message(session: Session, channel_id: int, now: datetime) -> Sequence[Alert]:
    """The channel's oldest due alert, with those that go with it."""
    mine = select(Alert).where(Alert.channel_id == channel_id).order_by(Alert.id).with_for_update()
    fresh = {"populate_existing": True}
    first = session.scalars(mine.where(_due(now)).limit(1), execution_options=fresh).first()
    if first is None:
        return []
    if first.attempts or first.held_until is None:  # what a message holds is settled by its first attempt
        same = mine.where(Alert.delivery_id == first.delivery_id, Alert.state == first.state)
        return session.scalars(same, execution_options=fresh).all()
    held = mine.where(
        Alert.state == "waiting", Alert.attempts == 0, Alert.held_until == first.held_until, Alert.not_before <= now
    )
    together = session.scalars(held.limit(MAX_DIGEST), execution_options=fresh).all()
    for alert in together:
        alert.delivery_id = first.delivery_id
    return together


def _claim(channel: Channel, alerts: Sequence[Alert], owner: str, until: datetime) -> Message:
    for alert in alerts:
        alert.state, alert.owner, alert.lease_expires_at, alert.attempts = "sending", owner, until, alert.attempts + 1
    return Message(alerts[0].delivery_id, alerts[0].attempts, channel, tuple(alerts))


def record_attempt(session: Session, message: Message, owner: str, attempt: Attempt, *, now: datetime) -> bool:
    """Writes down how sending a message went: delivered, to be tried again, or failed for good.

    False where `owner` no longer holds it: then whoever took it over writes.
    """
    query = select(Alert).where(Alert.id.in_([alert.id for alert in message.alerts])).order_by(Alert.id)
    rows = session.scalars(query.with_for_update(), execution_options={"populate_existing": True}).all()
    held = [alert for alert in rows if alert.owner == owner and alert.state == "sending"]
    for alert in held:
        session.add(
            Delivery(
                alert_id=alert.id,
                attempt=message.attempt,
                time=attempt.time,
                outcome=attempt.outcome,
                status_code=attempt.status_code,
                took_ms=attempt.took_ms,
                detail=None if attempt.detail is None else attempt.detail[:DETAIL_LENGTH],
            )
        )
    if attempt.outcome == "delivered":
        _end(session, held, "sent")
    elif attempt.outcome == "forbidden" or message.attempt >= MAX_ATTEMPTS:
        _end(session, held, "failed")
    else:
        wait_s = max(BACK_OFF_S[message.attempt - 1], attempt.wait_s or 0.0)
        for alert in held:
            _wait(alert, now + timedelta(seconds=wait_s))
    session.flush()
    return bool(held)


def _wait(alert: Alert, until: datetime) -> None:
    alert.state, alert.owner, alert.lease_expires_at, alert.not_before = "waiting", None, None, until


def _end(session: Session, alerts: Sequence[Alert], state: AlertState) -> None:
    for alert in alerts:
        alert.state, alert.finished_at, alert.owner, alert.lease_expires_at = state, utc_now(), None, None
        told = {"alert": alert.id, "channel": alert.channel_id, "kind": alert.kind, "state": state}
        emit(session, "alert", alert.run_id, told)


def get_alert(session: Session, alert_id: int, *, lock: bool = False) -> Alert:
    """The alert; raises NotFound."""
    known = 0 < alert_id <= MAX_INTEGER
    alert = session.get(Alert, alert_id, with_for_update=lock or None, populate_existing=lock) if known else None
    if alert is None:
        raise NotFound(f"alert {alert_id} does not exist; GET /api/v1/alerts lists those that do")
    return alert


def list_deliveries(session: Session, alert_id: int) -> Sequence[Delivery]:
    """Every attempt to deliver an alert, first one first."""
    return session.scalars(select(Delivery).where(Delivery.alert_id == alert_id).order_by(Delivery.id)).all()


def list_alerts(
    session: Session,
    *,
    run_id: UUID | None = None,
    change_id: UUID | None = None,
    channel_id: int | None = None,
    state: str | None = None,
    kind: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Sequence[Alert]:
    """Alerts newest first; `before` is the id the previous page ended with."""
    query = select(Alert).order_by(Alert.id.desc()).limit(limit)
    if channel_id is not None and channel_id > MAX_INTEGER:
        return []
    wanted = (
        (Alert.run_id, run_id),
        (Alert.phase_change_id, change_id),
        (Alert.channel_id, channel_id),
        (Alert.state, state),
        (Alert.kind, kind),
    )
    for column, value in wanted:
        if value is not None:
            query = query.where(column == value)
    return session.scalars(query if before is None else query.where(Alert.id < before)).all()


def retry_alert(session: Session, alert_id: int) -> Alert:
    """Lets a failed alert be sent again, alone and with fresh attempts; raises Conflict for one in another state."""
    alert = get_alert(session, alert_id, lock=True)
    if alert.state != "failed":
        raise Conflict(f"alert {alert_id} is {alert.state}; only failed alerts can be retried")
    _wait(alert, utc_now())
    alert.attempts, alert.finished_at, alert.held_until, alert.delivery_id = 0, None, None, new_id()
    return alert
