"""An index that finds one measure along all steps without reading the others.

Revision: 0004, after 0003; 2026-11-30
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index(
        op.f("ix_measurements_segment_id_measure_version_step"),
        "measurements",
        ["segment_id", "measure", "version", "step"],
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_measurements_segment_id_measure_version_step"), "measurements")
