"""Signatures of webhooks: how the service makes them, and how a receiver checks one.

A request carries X-Phasewatch-Timestamp (seconds since 1970), X-Phasewatch-Delivery (the message's id, the same over
every attempt) and X-Phasewatch-Signature: `sha256=` and the hexadecimal HMAC-SHA-256, under the channel's secret, of
timestamp, a dot and the body's bytes. The body's `delivery` is that id again, so that it is signed too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping

from phasewatch.errors import InvalidSignature

TIMESTAMP = "X-Phasewatch-Timestamp"
DELIVERY = "X-Phasewatch-Delivery"
SIGNATURE = "X-Phasewatch-Signature"
TOLERANCE_S = 300

_PREFIX = "sha256="
_SECONDS = re.compile(r"[1-9][0-9]{0,11}")


def new_secret() -> str:
    """A fresh secret of 256 random bits."""
    return f"pws_{secrets.token_urlsafe(32)}"


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The signature of a body sent at `timestamp` (seconds since 1970)."""
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return _PREFIX + mac.hexdigest()


def verify_signature(
    secret: str, headers: Mapping[str, str], body: bytes, tolerance_s: float = TOLERANCE_S, *, now: float | None = None
) -> str:
    """The id of a message that was signed with `secret` within the last `tolerance_s` seconds.

    body: the bytes as they came, before they are parsed. Header names may be in any case. now: seconds since 1970, by
    default this machine's. The same message may come again, after an attempt whose answer was lost: remember the ids
    you have seen for a few hours and drop repeats. Raises InvalidSignature, which says what is wrong.
    """
    found = {name.lower(): value for name, value in headers.items()}
    timestamp, signature, delivery = (_header(found, name) for name in (TIMESTAMP, SIGNATURE, DELIVERY))
    if not _SECONDS.fullmatch(timestamp):
        raise InvalidSignature(f"{TIMESTAMP} {timestamp[:40]!r} is no number of seconds")
    if not hmac.compare_digest(sign(secret, int(timestamp), body).encode(), signature.encode(errors="replace")):
        raise InvalidSignature("the signature is not the body's under this secret")
    age_s = (time.time() if now is None else now) - int(timestamp)
    if abs(age_s) > tolerance_s:
        raise InvalidSignature(f"signed {age_s:.0f} s ago, more than {tolerance_s:g} s; check the clocks or refuse it")
    if delivery != _delivery_of(body):
        raise InvalidSignature(f"{DELIVERY} {delivery[:40]!r} is not the id in the body")
    return delivery


def _header(headers: Mapping[str, str], name: str) -> str:
    try:
        return headers[name.lower()]
    except KeyError:
        raise InvalidSignature(f"the header {name} is missing") from None


def _delivery_of(body: bytes) -> str | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    found = content.get("delivery") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None
