"""The work itself: one file a kind of job. Each loads, calls the pure core, and says what to store."""

from __future__ import annotations

from server.jobs import scan, score
from server.jobs.work import Work, attempt, describe_failure

__all__ = ["Work", "attempt", "describe_failure", "scan", "score"]
