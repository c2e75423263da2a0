"""Keeps the secrets of channels from whoever reads the database or a backup: sealed under a key that is in neither.

The key is the setting PHASEWATCH_SECRET_KEY; the embedded default makes one for itself, in a file of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from phasewatch.errors import InvalidInput, Unavailable
from server.settings import Settings

KEY_FILE = "secret-key"
_PURPOSE = b"phasewatch channels 1\n"


class Seal:
    """Seals and opens text under the service's key, which is read when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._box: Fernet | None = None

    def close(self, text: str) -> str:
        """The text, sealed. Raises InvalidInput where the service has no key."""
        return self._fernet().encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """What was sealed. Raises Unavailable where it was sealed under another key."""
        try:
            return self._fernet().decrypt(sealed.encode()).decode()
        except InvalidToken as error:
            raise Unavailable(
                "the channel's secrets were sealed under another key than PHASEWATCH_SECRET_KEY (or the data folder's "
                f"{KEY_FILE}) is now; bring that key back, or give the channel its address and a new secret"
            ) from error

    def _fernet(self) -> Fernet:
        if self._box is None:
            self._box = Fernet(base64.urlsafe_b64encode(hashlib.sha256(_PURPOSE + self._key().encode()).digest()))
        return self._box

    def _key(self) -> str:
        if self._settings.secret_key is not None:
            return self._settings.secret_key.get_secret_value()
        if not self._settings.is_embedded:
            raise InvalidInput(
                "this server keeps no secrets yet: set PHASEWATCH_SECRET_KEY (or PHASEWATCH_SECRET_KEY_FILE) to 32 or "
                "more random characters, the same for every process"
            )
        return _own_key(self._settings.data / KEY_FILE)


def _own_key(path: Path) -> str:
    """The key in a file that only its owner reads; made where there is none, once, whoever else makes it too."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with os.fdopen(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
    finally:
        mine.unlink()
    return path.read_text().strip()
