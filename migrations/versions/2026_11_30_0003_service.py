"""The service for many users: what its jobs, alerts and access control need, a function each.

Revision: 0003, after 0002; 2026-11-30
"""

from __future__ import annotations

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _add_jobs()
    _add_alerts()
    _add_access()


def downgrade() -> None:
    _drop_access()
    _drop_alerts()
    _drop_jobs()


# Monitors and jobs.


def _add_jobs() -> None:
    pass


def _drop_jobs() -> None:
    pass


# Alerts and their channels.


def _add_alerts() -> None:
    pass


def _drop_alerts() -> None:
    pass


# Access control.


def _add_access() -> None:
    pass


def _drop_access() -> None:
    pass
