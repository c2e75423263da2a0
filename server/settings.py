"""The service's settings: environment variables with the prefix PHASEWATCH_, read once at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from phasewatch.storage.settings import StorageSettings, read_secret_files


class LogSettings(BaseSettings):
    """How processes log."""

    model_config = SettingsConfigDict(env_prefix="PHASEWATCH_", frozen=True, extra="ignore")

    log_format: Literal["text", "json"] = Field("text", description="a line for people, or a JSON object a line")
    log_level: Literal["debug", "info", "warning"] = Field("info", description="debug adds a line for every request")


class Settings(LogSettings, StorageSettings):
    """Everything the service can be told; every field has a default that works on a laptop."""

    host: str = Field("127.0.0.1", description="address to listen on; another than loopback needs an admin token")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    executor: Literal["thread", "process", "dask"] = Field("process", description="where jobs run")
    dask_address: str = Field("", description="the dask scheduler: tls://HOST:PORT, or tcp:// on this machine")
    job_limits: str = Field("", description="by kind how many jobs may run at once, on all workers: measure=2,scan=1")
    watch_root: str = Field("", description="folder below which monitors may watch for checkpoints; else nowhere")
    admin_token: SecretStr | None = Field(
        None, description="the first token, with scope admin; made valid at the start"
    )
    admin_token_file: Path | None = Field(None, description="a file that holds the admin token")
    metrics_token: SecretStr | None = Field(
        None, description="a token with scope read, for whoever reads /metrics; made valid at the start"
    )
    metrics_token_file: Path | None = Field(None, description="a file that holds the metrics token")
    secret_key: SecretStr | None = Field(
        None, min_length=32, description="seals the secrets of alert channels; default: a file in the data folder"
    )
    secret_key_file: Path | None = Field(None, description="a file that holds the secret key")
    public_url: str = Field("", description="where people reach the pages, for links in alerts, such as https://…")
    allow_private_webhooks: bool = Field(False, description="alerts may go to private and local addresses, too")
    allowed_hosts: str = Field("127.0.0.1,localhost,[::1]", description="host names a request may carry, by comma")
    trusted_proxies: str = Field(
        "127.0.0.1", description="addresses of proxies whose X-Forwarded-For and -Proto are believed, by comma"
    )
    session_hours: int = Field(12, ge=1, le=24 * 90, description="how long a browser stays signed in")
    rate_limit: int = Field(12_000, ge=0, description="requests a minute of one token; 0 is no limit")
    ingest_rate_limit: int = Field(60_000, ge=0, description="recorded losses, metrics … a minute, counted apart")
    attempt_limit: int = Field(120, ge=0, description="requests a minute without a valid token, of one address")
    worker_lease_s: float = Field(60.0, gt=0, description="seconds without heartbeat after which a job is another's")
    max_body_bytes: int = Field(64 * 2**20, gt=0, description="largest request body")

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, values: dict[str, object]) -> dict[str, object]:
        secrets = ("admin_token", "metrics_token", "secret_key")
        found = read_secret_files(values, secrets)
        return found | {name: None for name in secrets if not found.get(name)}  # an empty variable is none

    @field_validator("job_limits")
    @classmethod
    def _check_limits(cls, text: str) -> str:
        parse_limits(text)
        return text

    @property
    def limits(self) -> dict[str, int]:
        """By kind how many jobs may run at once."""
        return parse_limits(self.job_limits)

    @property
    def link_base(self) -> str | None:
        """What links in alerts begin with; None where nobody said how people reach the pages from elsewhere."""
        local = self.host in ("127.0.0.1", "localhost") and self.port
        return self.public_url.rstrip("/") or (f"http://{self.host}:{self.port}" if local else None)

    @property
    def host_names(self) -> tuple[str, ...]:
        """The host names a request may carry."""
        return tuple(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())


def parse_limits(text: str) -> dict[str, int]:
    """`measure=2,scan=1` as numbers by kind. Raises ValueError naming what cannot be read."""
    found = {}
    for part in filter(None, map(str.strip, text.split(","))):
        kind, _, most = (word.strip() for word in part.partition("="))
        if not kind or not most.isdecimal() or int(most) < 1:
            raise ValueError(f"{part!r} cannot be read; write KIND=N with N from 1, such as measure=2,scan=1")
        found[kind] = int(most)
    return found
