"""Secrets at rest: unreadable without the key, whose file only its owner reads."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from phasewatch.errors import InvalidInput, Unavailable
from server.alerts.sealing import KEY_FILE, Seal
from server.settings import Settings

KEY = "k" * 32
URL = "slack://T/A/secret"


def seal(**settings: object) -> Seal:
    return Seal(Settings(**settings))  # type: ignore[arg-type]


class TestSeal:
    def test_what_is_sealed_cannot_be_read_and_comes_back(self) -> None:
        sealed = seal(secret_key=KEY).close(URL)
        assert "secret" not in sealed
        assert seal(secret_key=KEY).open(sealed) == URL
        assert seal(secret_key=KEY).close(URL) != sealed

    def test_another_key_opens_nothing_and_says_so(self) -> None:
        sealed = seal(secret_key=KEY).close(URL)
        for given in (sealed, sealed[:-2], "", "nonsense"):
            with pytest.raises(Unavailable, match="sealed under another key"):
                seal(secret_key="o" * 32).open(given)

    def test_the_embedded_default_makes_a_key_that_only_its_owner_reads(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        sealed = seal(data=data).close(URL)
        assert seal(data=data).open(sealed) == URL
        assert [path.name for path in data.iterdir()] == [KEY_FILE]
        assert stat.S_IMODE((data / KEY_FILE).stat().st_mode) == 0o600

    def test_two_that_make_it_at_once_have_the_same(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as threads:
            sealed = list(threads.map(lambda _: seal(data=tmp_path).close(URL), range(16)))
        assert {seal(data=tmp_path).open(one) for one in sealed} == {URL}
        assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]

    def test_another_database_needs_a_key_of_its_own(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="set PHASEWATCH_SECRET_KEY"):
            seal(data=tmp_path, database_url="postgresql://u:p@h/d").close(URL)
        assert list(tmp_path.iterdir()) == []

    def test_a_key_may_come_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text(KEY + "\n")
        sealed = seal(secret_key_file=tmp_path / "key").close(URL)
        assert seal(secret_key=KEY).open(sealed) == URL

    def test_a_short_key_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="at least 32"):
            Settings(secret_key="short")  # type: ignore[arg-type]
