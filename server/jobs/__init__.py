"""The work itself: one file a kind of job. Each loads, calls the pure core, and says what to store."""

from __future__ import annotations

from server.jobs import checkpoint, compare, folder, measure, retention, scan, score, token_groups, watches
from server.jobs.work import Failure, Work, attempt, checked_limits

__all__ = [
    "Failure",
    "Work",
    "attempt",
    "checked_limits",
    "checkpoint",
    "compare",
    "folder",
    "measure",
    "retention",
    "scan",
    "score",
    "token_groups",
    "watches",
]
