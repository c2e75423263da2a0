"""The trainer's settings: environment variables with the prefix PHASEWATCH_, read once at the start."""

from __future__ import annotations

from pydantic import Field

from phasewatch.storage.settings import StorageSettings


class Settings(StorageSettings):
    """Where runs come from and go to, and how the worker behaves."""

    trainer_lease_s: float = Field(30.0, gt=0, description="seconds without heartbeat after which a run is another's")
    trainer_poll_s: float = Field(1.0, gt=0, description="seconds between two looks at an empty queue")
