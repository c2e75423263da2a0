"""The tables, as SQLAlchemy models. Annotations decide types and nullability; DESIGN of each table is in its docstring.

Every change here needs a migration in migrations/versions and a new `REVISION`; a test holds the two equal.
"""

from __future__ import annotations

from phasewatch.storage.schema.access import ApiToken, AuditEntry, BrowserSession
from phasewatch.storage.schema.alerts import Alert, Channel, Delivery
from phasewatch.storage.schema.base import (
    ENDED,
    AlertKind,
    AlertState,
    AwareDateTime,
    Base,
    ChangeState,
    ChannelKind,
    CleanText,
    DeliveryOutcome,
    JobState,
    Review,
    RunStatus,
    Scope,
    utc_now,
)
from phasewatch.storage.schema.findings import PhaseChangeRow, ScanRow
from phasewatch.storage.schema.recordings import (
    Checkpoint,
    LossBlock,
    LossSlice,
    MeasurementRow,
    ProbeSetRow,
    Run,
    Segment,
    SeriesValue,
    SliceRow,
    TokenGroupMembers,
    TokenGroupRow,
)
from phasewatch.storage.schema.work import Event, Firing, Job, Monitor, Scheduler

REVISION = "0004"
"""The migration these models correspond to."""

__all__ = [
    "ENDED",
    "REVISION",
    "Alert",
    "AlertKind",
    "AlertState",
    "ApiToken",
    "AuditEntry",
    "AwareDateTime",
    "Base",
    "BrowserSession",
    "ChangeState",
    "Channel",
    "ChannelKind",
    "Checkpoint",
    "CleanText",
    "Delivery",
    "DeliveryOutcome",
    "Event",
    "Firing",
    "Job",
    "JobState",
    "LossBlock",
    "LossSlice",
    "MeasurementRow",
    "Monitor",
    "PhaseChangeRow",
    "ProbeSetRow",
    "Review",
    "Run",
    "RunStatus",
    "ScanRow",
    "Scheduler",
    "Scope",
    "Segment",
    "SeriesValue",
    "SliceRow",
    "TokenGroupMembers",
    "TokenGroupRow",
    "utc_now",
]
