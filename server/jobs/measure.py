"""Measures named things at one checkpoint: on request, and at the checkpoints around a phase change.

The two kinds do the same work under different names, so that a list of jobs says who asked. Names are in the job's
parameters; what is measured already is left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from phasewatch.measures import registry
from phasewatch.measures.ablation import Head, Mode
from phasewatch.measures.checkpoint import plain_names
from phasewatch.measures.evidence import AblationName
from phasewatch.measures.patterns import PATTERNS, pattern_name
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob
from server.jobs import checkpoint
from server.jobs.work import Store, Work, job

ON_REQUEST = "measure"
ON_CHANGE = "ablate_on_change"
HEADS_ALONE = 4  # of a change, silenced one by one and their patterns kept; beyond, only silenced all together
BEHIND = -1  # priority: after the scores and scans of runs that go on
MODES: tuple[Mode, ...] = ("full", "pattern_preserving")


def names_at_change(heads: Sequence[Head]) -> list[str]:
    """What is measured at a flagged checkpoint: every flagged measure, the change's heads' patterns and ablations."""
    sets: list[tuple[Head, ...]] = [(head,) for head in heads[:HEADS_ALONE]]
    if len(heads) > 1:
        sets.append(tuple(sorted(heads)))
    ablations = [str(AblationName(one, mode)) for one in sets for mode in MODES]
    patterns = [pattern_name(name, head) for head in heads[:HEADS_ALONE] for name in PATTERNS]
    return [*plain_names("flagged"), *ablations, *patterns]


def measure_job(kind: str, run_id: UUID, segment: int, step: int, names: Iterable[str], priority: int = 0) -> NewJob:
    """The job that measures these names at a checkpoint, the same for the same names in the same versions."""
    wanted = sorted(set(names))
    versions = [(name, registry.get(name).version) for name in wanted]
    digest = hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:12]
    key = f"{kind}:{run_id.hex}:{segment}:{step}:{digest}"
    return NewJob(key, kind, run_id, segment, step, {"measures": wanted}, priority)


@job(ON_CHANGE)
@job(ON_REQUEST)
def measure(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """Measures what is missing of the names; nothing where a resume has hidden the checkpoint meanwhile."""
    run_id, segment, step = work.checkpoint()
    names = [str(name) for name in work.parameters.get("measures", [])]
    with database.reading() as session:
        loaded = checkpoint.load(session, run_id, segment, step)
    found = {} if loaded is None else checkpoint.measure(loaded, names, artifacts)

    def store(session: Session) -> None:
        if loaded is not None:
            checkpoint.store(session, run_id, segment, step, found, loaded.groups)

    return store
