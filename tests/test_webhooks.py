"""Signatures of webhooks: what receivers check, against HMAC written out by hand, and everything that must not pass."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from phasewatch.errors import InvalidSignature
from phasewatch.webhooks import new_secret, sign, verify_signature

SECRET = "pws_abc"
NOW = 1_790_000_000
DELIVERY = "01939c5f-0000-7000-8000-000000000001"
BODY = json.dumps({"delivery": DELIVERY, "alerts": [{"title": "Wörter"}]}).encode()


def signed(secret: str = SECRET, at: int = NOW, body: bytes = BODY, delivery: str = DELIVERY) -> dict[str, str]:
    """The headers of a message, made without the library."""
    mac = hmac.new(secret.encode(), str(at).encode() + b"." + body, hashlib.sha256).hexdigest()
    return {
        "X-Phasewatch-Timestamp": str(at),
        "X-Phasewatch-Delivery": delivery,
        "X-Phasewatch-Signature": f"sha256={mac}",
    }


class TestVerify:
    @pytest.mark.parametrize("age_s", [0, 1, 299, 300, -300])
    def test_what_was_signed_passes(self, age_s: int) -> None:
        assert verify_signature(SECRET, signed(at=NOW - age_s), BODY, now=NOW) == DELIVERY

    def test_header_names_may_be_in_any_case(self) -> None:
        for change in (str.lower, str.upper):
            headers = {change(name): value for name, value in signed().items()}
            assert verify_signature(SECRET, headers, BODY, now=NOW) == DELIVERY

    def test_the_clock_is_this_machines(self) -> None:
        with pytest.raises(InvalidSignature, match="check the clocks"):
            verify_signature(SECRET, signed(at=1_000), BODY)

    def test_signing_is_what_is_written(self) -> None:
        assert sign(SECRET, NOW, BODY) == signed()["X-Phasewatch-Signature"]

    @pytest.mark.parametrize("age_s", [301, 3_600, -301, NOW - 1])
    def test_an_old_or_early_one_is_refused(self, age_s: int) -> None:
        with pytest.raises(InvalidSignature, match="more than 300 s"):
            verify_signature(SECRET, signed(at=NOW - age_s), BODY, now=NOW)

    def test_the_tolerance_is_the_receivers(self) -> None:
        with pytest.raises(InvalidSignature, match="more than 10 s"):
            verify_signature(SECRET, signed(at=NOW - 11), BODY, 10, now=NOW)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("X-Phasewatch-Signature", signed("other")["X-Phasewatch-Signature"]),
            ("X-Phasewatch-Signature", signed(body=BODY + b" ")["X-Phasewatch-Signature"]),
            ("X-Phasewatch-Signature", signed(at=NOW - 1)["X-Phasewatch-Signature"]),
            ("X-Phasewatch-Signature", signed()["X-Phasewatch-Signature"][:-1]),
            ("X-Phasewatch-Signature", signed()["X-Phasewatch-Signature"].upper()),
            ("X-Phasewatch-Signature", signed()["X-Phasewatch-Signature"].replace("sha256=", "")),
            ("X-Phasewatch-Signature", signed()["X-Phasewatch-Signature"].replace("sha256=", "sha1=")),
            ("X-Phasewatch-Signature", signed()["X-Phasewatch-Signature"] + " "),
            ("X-Phasewatch-Signature", ""),
            ("X-Phasewatch-Signature", "sha256="),
            ("X-Phasewatch-Signature", "sha256=" + "0" * 64),
            ("X-Phasewatch-Signature", "ſha256=\udcff"),
            ("X-Phasewatch-Timestamp", str(NOW + 1)),  # moved forward, to be replayed later
            ("X-Phasewatch-Timestamp", f"{NOW}.0"),
            ("X-Phasewatch-Timestamp", f"+{NOW}"),
            ("X-Phasewatch-Timestamp", f" {NOW}"),
            ("X-Phasewatch-Timestamp", f"0{NOW}"),
            ("X-Phasewatch-Timestamp", "١٧٩٠٠٠٠٠٠٠"),
            ("X-Phasewatch-Timestamp", "nan"),
            ("X-Phasewatch-Timestamp", "-1"),
            ("X-Phasewatch-Timestamp", "9" * 400),
            ("X-Phasewatch-Timestamp", ""),
            ("X-Phasewatch-Delivery", "another-id"),  # so that a receiver would not know the repeat
            ("X-Phasewatch-Delivery", ""),
        ],
    )
    def test_a_header_that_was_tampered_with_is_refused(self, name: str, value: str) -> None:
        with pytest.raises(InvalidSignature):
            verify_signature(SECRET, signed() | {name: value}, BODY, now=NOW)

    @pytest.mark.parametrize("name", ["X-Phasewatch-Signature", "X-Phasewatch-Timestamp", "X-Phasewatch-Delivery"])
    def test_a_missing_header_is_named(self, name: str) -> None:
        headers = {key: value for key, value in signed().items() if key != name}
        with pytest.raises(InvalidSignature, match=f"{name} is missing"):
            verify_signature(SECRET, headers, BODY, now=NOW)

    @pytest.mark.parametrize(
        "body",
        [BODY[:-1], BODY + b"\n", BODY.replace(b"W", b"V"), b"", b"{}", json.dumps({"delivery": DELIVERY}).encode()],
    )
    def test_a_body_that_was_tampered_with_is_refused(self, body: bytes) -> None:
        with pytest.raises(InvalidSignature, match="not the body's"):
            verify_signature(SECRET, signed(), body, now=NOW)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"delivery": 1}', b"\xff", b"[" * 100_000])
    def test_a_signed_body_without_its_id_is_refused(self, body: bytes) -> None:
        with pytest.raises(InvalidSignature, match="not the id in the body"):
            verify_signature(SECRET, signed(body=body), body, now=NOW)

    def test_another_channels_secret_does_not_do(self) -> None:
        with pytest.raises(InvalidSignature):
            verify_signature(new_secret(), signed(), BODY, now=NOW)

    def test_a_replay_has_the_id_that_was_seen(self) -> None:
        seen = {verify_signature(SECRET, signed(at=NOW - 200), BODY, now=NOW)}
        assert verify_signature(SECRET, signed(at=NOW - 100), BODY, now=NOW) in seen


def test_secrets_are_long_and_never_the_same() -> None:
    found = {new_secret() for _ in range(100)}
    assert len(found) == 100
    assert min(len(secret) for secret in found) >= 40
