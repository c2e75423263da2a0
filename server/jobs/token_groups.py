"""Measures a new token group at every checkpoint of the past, from stored losses: no model is run.

One job a run. Only the blocks of the loss store that hold members are read, some checkpoints at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from phasewatch.measures.groups import token_group
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.events import emit
from phasewatch.storage.jobs import NewJob
from phasewatch.storage.losses import list_loss_slices, loss_history
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.runs import get_run, visible_stretches
from phasewatch.storage.token_groups import GroupOnSlice, load_groups, lock_groups
from server.jobs.checkpoint import stored
from server.jobs.work import Progress, Store, Work, job

KIND = "token_groups"
VALUES_AT_ONCE = 10_000_000  # 40 MB of float32


def group_job(run_id: UUID, group_id: UUID, name: str) -> NewJob:
    """The job that measures one group along a run's past; a group's id is never given again, so neither is its key."""
    return NewJob(f"{KIND}:{run_id.hex}:{group_id.hex}", KIND, run_id, parameters={"group": name})


@job(KIND)
def measure_group(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """The group's mean loss at every visible checkpoint; nothing where the group is gone meanwhile."""
    run_id = work.run()
    name = str(work.parameters.get("group"))
    tell = Progress(work, database)
    with database.reading() as session:
        probe_set_id = get_run(session, run_id).probe_set_id
        groups = [] if probe_set_id is None else load_groups(session, probe_set_id, [name])
        found = [(group, dict(_along(session, run_id, group, tell))) for group in groups]
        segments = {stretch.segment_id: stretch.number for stretch in visible_stretches(session, run_id)}

    def store(session: Session) -> None:
        alive = lock_groups(session, {group.group_id for group, _ in found})
        steps = set()
        for group, by_place in found:
            for (segment_id, step), one in by_place.items() if group.group_id in alive else ():
                measured = {group.measure: one}
                put_measurements(session, run_id, step, measured, segment=segments[segment_id], source="job")
                steps.add(step)
        if steps:
            measures = sorted(group.measure for group, _ in found)
            emit(session, "measurement", run_id, {"step": max(steps), "measures": measures})

    return store


def _along(
    session: Session, run_id: UUID, group: GroupOnSlice, tell: Progress
) -> Iterator[tuple[tuple[int, int], StoredMeasurement]]:
    """((segment id, step), measurement) of a group at every visible checkpoint with losses of its slice."""
    places = [(row.segment_id, row.step) for row in list_loss_slices(session, run_id, group.slice)]
    tokens = np.flatnonzero(group.members)
    at_once = max(1, VALUES_AT_ONCE // len(tokens))
    for first in range(0, len(places), at_once):
        batch = places[first : first + at_once]
        tell(first / len(places), f"{group.measure}: {first} of {len(places)} checkpoints")
        history = loss_history(session, run_id, group.slice, tokens=tokens, steps=[step for _, step in batch])
        for place, values in zip(batch, history.values, strict=True):
            losses = np.zeros(group.members.shape)
            losses[group.members] = values
            measured = token_group(losses, group.members)
            if measured is not None:
                yield place, stored(group.measure, measured)
