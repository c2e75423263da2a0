"""Certificates for a dask cluster of one's own: an authority, and one key that every part of the cluster shows.

dask speaks pickle, so whoever may connect may run code: the authority's key is thrown away, and nobody else gets one.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from phasewatch.storage.schema import utc_now

LIFETIME = timedelta(days=3_650)
RENEWED_BEFORE = timedelta(days=30)


def write_certificates(folder: Path) -> bool:
    """Writes ca.pem, cert.pem and key.pem into `folder`; False, and nothing done, where good ones are there."""
    if _are_good(folder):
        return False
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _sign("phasewatch dask authority", authority_key, authority_key, is_authority=True)
    certificate = _sign("phasewatch dask", key, authority_key, is_authority=False)
    _write(folder / "ca.pem", authority.public_bytes(Encoding.PEM))
    _write(folder / "key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    _write(folder / "cert.pem", certificate.public_bytes(Encoding.PEM))
    return True


def _are_good(folder: Path) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
        authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        certificate.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    return (folder / "key.pem").exists() and certificate.not_valid_after_utc - utc_now() > RENEWED_BEFORE


def _sign(
    name: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = utc_now()
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named("phasewatch dask authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(by, hashes.SHA256())
    )


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)
