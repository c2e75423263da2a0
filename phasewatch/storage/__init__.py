"""How what is measured is kept: tables, queries and files. Needs the `server` or the `trainer` extra."""

from __future__ import annotations

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database

__all__ = ["Artifacts", "Database"]
