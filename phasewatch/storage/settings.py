"""Where the data lies, as settings: what server and trainer have in common. Built in their entry points alone."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database, Limits


class StorageSettings(BaseSettings):
    """Database and artifacts, by default in `./phasewatch-data`; a secret may come from NAME_FILE."""

    model_config = SettingsConfigDict(env_prefix="PHASEWATCH_", frozen=True, extra="ignore")

    data: Path = Field(Path("phasewatch-data"), description="folder of the embedded database and its artifacts")
    database_url: str = Field("", description="sqlite:///FILE or postgresql://…; default: a file in the data folder")
    database_url_file: Path | None = Field(None, description="a file that holds the database URL")
    artifacts_url: str = Field("", description="folder or fsspec URL of weights; default: a folder in the data folder")

    db_pool_size: int = Field(20, ge=1, le=1_000, description="connections a process keeps; as many more at a rush")
    db_statement_timeout_s: float = Field(300.0, ge=0, description="longest statement on PostgreSQL; 0 for any")
    db_lock_timeout_s: float = Field(30.0, ge=0, description="longest wait for a lock on PostgreSQL; 0 for any")
    db_idle_timeout_s: float = Field(
        1_800.0,
        ge=0,
        description="how long a transaction on PostgreSQL may do nothing; 0 for ever",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: dict[str, object]) -> dict[str, object]:
        return read_secret_files(values, ("database_url",))

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        data = self.data.absolute()
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{data / 'phasewatch.db'}")
        if not self.artifacts_url:
            object.__setattr__(self, "artifacts_url", str(data / "artifacts"))
        return self

    @property
    def is_embedded(self) -> bool:
        """True for a SQLite file, which the service itself keeps up to date."""
        return self.database_url.startswith("sqlite")

    def open_database(self, *, unhurried: bool = False) -> Database:
        """The database these settings name; `unhurried` for what takes its time, such as a backup."""
        limits = Limits(self.db_statement_timeout_s, self.db_lock_timeout_s, self.db_idle_timeout_s)
        return Database(self.database_url, pool_size=self.db_pool_size, limits=Limits() if unhurried else limits)

    def open_artifacts(self) -> Artifacts:
        """The artifacts folder these settings name."""
        return Artifacts(self.artifacts_url)


def read_secret_files(values: dict[str, object], names: tuple[str, ...]) -> dict[str, object]:
    """`values` with each NAME taken from the file that NAME_file names; an unreadable file raises its OSError."""
    found = dict(values)
    for name in names:
        path = found.get(f"{name}_file")
        if path and not found.get(name):
            found[name] = Path(str(path)).read_text().strip()
    return found
