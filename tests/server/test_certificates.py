from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from server import certificates
from server.certificates import write_certificates


def handshake(client: Path, server: Path) -> None:
    """A TLS connection as dask makes it: either side wants the other's certificate."""
    sides = []
    for folder, purpose in ((client, ssl.Purpose.SERVER_AUTH), (server, ssl.Purpose.CLIENT_AUTH)):
        context = ssl.create_default_context(purpose, cafile=str(folder / "ca.pem"))
        context.verify_mode, context.check_hostname = ssl.CERT_REQUIRED, False
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides.append((context.wrap_bio(incoming, outgoing, server_side=folder is server), incoming, outgoing))
    for _ in range(4):
        for (side, _, outgoing), (_, incoming, _) in (sides, sides[::-1]):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
            incoming.write(outgoing.read())
    for side, _, _ in sides:
        side.do_handshake()


def folder(path: Path) -> Path:
    path.mkdir()
    assert write_certificates(path)
    return path


def test_both_sides_take_them_and_those_of_another_cluster_are_refused(tmp_path: Path) -> None:
    ours, others = folder(tmp_path / "ours"), folder(tmp_path / "others")
    client = tmp_path / "client"
    client.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (client / name).write_bytes((ours / name).read_bytes())
    handshake(client, ours)
    with pytest.raises(ssl.SSLError):
        handshake(others, ours)


def test_good_ones_stay_and_are_for_their_owner_alone(tmp_path: Path) -> None:
    ours = folder(tmp_path / "ours")
    before = (ours / "key.pem").read_bytes()
    assert not write_certificates(ours)
    assert (ours / "key.pem").read_bytes() == before
    assert (ours / "key.pem").stat().st_mode & 0o077 == 0


def test_what_soon_ends_or_does_not_fit_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others = folder(tmp_path / "ours"), folder(tmp_path / "others")
    (ours / "ca.pem").write_bytes((others / "ca.pem").read_bytes())
    assert write_certificates(ours)
    monkeypatch.setattr(certificates, "RENEWED_BEFORE", timedelta(days=4_000))
    assert write_certificates(ours)
