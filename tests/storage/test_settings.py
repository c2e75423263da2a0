"""Where the data lies: defaults in one folder, secrets from files, environment variables with one prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from phasewatch.storage.settings import StorageSettings


def read(**values: Any) -> StorageSettings:
    return StorageSettings(**values)


def test_everything_lies_in_one_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read()
    assert settings.database_url == f"sqlite:///{tmp_path}/phasewatch-data/phasewatch.db"
    assert settings.artifacts_url == f"{tmp_path}/phasewatch-data/artifacts"
    assert settings.is_embedded
    assert not (tmp_path / "phasewatch-data").exists()


def test_later_changes_of_the_working_directory_do_not_move_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read()
    monkeypatch.chdir("/")
    assert str(tmp_path) in settings.database_url


def test_the_environment_is_read_under_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEWATCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PHASEWATCH_ARTIFACTS_URL", "s3://bucket/folder")
    monkeypatch.setenv("DATABASE_URL", "postgresql://not/ours")
    settings = read()
    assert settings.database_url == f"sqlite:///{tmp_path}/data/phasewatch.db"
    assert settings.artifacts_url == "s3://bucket/folder"


def test_the_database_url_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://user:secret@host/name\n")
    monkeypatch.setenv("PHASEWATCH_DATABASE_URL_FILE", str(secret))
    settings = read()
    assert settings.database_url == "postgresql://user:secret@host/name"
    assert not settings.is_embedded


def test_a_url_that_is_given_goes_before_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://from/file")
    assert read(database_url="sqlite:////given.db", database_url_file=secret).database_url == "sqlite:////given.db"


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(database_url_file=tmp_path / "nowhere")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().data = Path("/elsewhere")  # type: ignore[misc]


def test_they_open_what_they_name(tmp_path: Path) -> None:
    settings = read(data=tmp_path / "data")
    database = settings.open_database()
    assert database.schema_revision() is None
    database.close()
    settings.open_artifacts().put("a", b"x")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["artifacts", "phasewatch.db"]
