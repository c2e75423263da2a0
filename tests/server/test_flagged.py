"""Around a phase change: checkpoints before, at and after it are measured closely, and the report carries a cause."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select

from phasewatch.detection import PhaseChange
from phasewatch.measures import registry
from phasewatch.measures.checkpoint import plain_names
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.candidates import measured_runs
from phasewatch.storage.database import Database
from phasewatch.storage.flagged import around
from phasewatch.storage.jobs import NewJob, claim_jobs, enqueue
from phasewatch.storage.measurements import StoredMeasurement, list_measures, put_measurements
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.runs import open_segment
from phasewatch.storage.schema import Monitor, PhaseChangeRow, utc_now
from server.jobs import Work, scan
from server.jobs.measure import names_at_change
from server.jobs.work import run_work
from server.monitors import find_jobs
from tests.server.conftest import MakeClient
from tests.server.small_run import SmallRun

STEPS = (0, 10, 20, 40, 80, 160)
CHANGE = PhaseChange(12, 20, 50, "level", "rise", 0.5, "share", "prefix_matching:L1H0", heads=((1, 0), (1, 1)))


@pytest.fixture
def run(database: Database, artifacts: Artifacts) -> SmallRun:
    return recorded(database, artifacts)


@pytest.fixture
def sqlite_run(sqlite_database: Database, artifacts: Artifacts) -> SmallRun:
    return recorded(sqlite_database, artifacts)


def recorded(database: Database, artifacts: Artifacts) -> SmallRun:
    run = SmallRun.create(database, artifacts)
    for step in STEPS:
        run.record(step)
    return run


def find(run: SmallRun, *changes: PhaseChange, ended: bool = True) -> None:
    """Stores what a scan found."""
    with run.database.transaction() as session:
        store_scan(session, run.run_id, changes, STEPS, detector_version=1, ended=ended)


def asked(run: SmallRun) -> list[NewJob]:
    """The jobs that the built-in monitor asks for, queued."""
    with run.database.transaction() as session:
        monitor = session.scalars(select(Monitor).where(Monitor.kind == "ablate_on_change")).one()
        jobs = find_jobs(session, monitor, None)
        for job in jobs:
            enqueue(session, job)
    return jobs


def do_jobs(run: SmallRun) -> None:
    with run.database.transaction() as session:
        works = [Work.from_row(row, "me") for row in claim_jobs(session, "me", 100, 60.0)]
    for work in works:
        run_work(work, run.database, run.artifacts)


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ((12, 20, 50), [10, 20, 80]),
        ((10, 15, 80), [10, 20, 80]),
        ((12, 30, None), [10, 40, 160]),
        ((0, 5, 10), [0, 10]),
        ((100, 200, 400), [80, 160]),
    ],
)
def test_before_at_and_after(change: tuple[int, int, int | None], steps: list[int]) -> None:
    assert around(STEPS, *change) == steps
    assert around([], *change) == []


def test_a_confirmed_change_has_its_checkpoints_measured_once(run: SmallRun) -> None:
    find(run, CHANGE)
    jobs = asked(run)
    assert [(job.kind, job.step, job.priority) for job in jobs] == [("ablate_on_change", s, -1) for s in (80, 20, 10)]
    names = names_at_change(CHANGE.heads)
    assert {tuple(job.parameters["measures"]) for job in jobs} == {tuple(sorted(names))}
    assert set(names) >= {*plain_names("flagged"), "ablation:L1H0", "ablation:L1H0+L1H1:pattern_preserving"}
    assert set(names) >= {"attention_pattern:L1H0", "natural_attention_pattern:L1H1"}
    assert asked(run) == []
    find(run, CHANGE)
    assert asked(run) == []
    find(run, CHANGE.evolve(end_step=90))
    assert [job.step for job in asked(run)] == [160]


def test_what_is_not_sure_yet_or_was_withdrawn_is_left_alone(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    find(run, CHANGE.evolve(end_step=None), ended=False)
    assert asked(run) == []
    find(run, ended=False)
    with run.database.reading() as session:
        assert session.scalars(select(PhaseChangeRow.state)).all() == ["withdrawn"]
    assert asked(run) == []


def test_a_change_not_over_at_the_end_and_one_without_heads_are_measured_too(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    find(run, CHANGE.evolve(end_step=None, heads=(), measure="mean_loss:text"))
    jobs = asked(run)
    assert [job.step for job in jobs] == [160, 20, 10]
    assert {tuple(job.parameters["measures"]) for job in jobs} == {tuple(sorted(plain_names("flagged")))}


def test_checkpoints_without_weights_or_hidden_by_a_resume_are_passed_over(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    run.record_losses(60)
    with run.database.transaction() as session:
        open_segment(session, run.run_id, 70)
    find(run, CHANGE)
    assert [job.step for job in asked(run)] == [40, 20, 10]


def test_the_report_of_a_change_carries_its_cause(run: SmallRun, make_client: MakeClient) -> None:
    client = make_client(run.database)
    find(run, CHANGE)
    (before,) = client.get(f"/api/v1/runs/{run.run_id}/phase-changes").json()["items"]
    assert before["evidence"] == []
    put_ablation(run, 80)
    (change,) = client.get(f"/api/v1/runs/{run.run_id}/phase-changes").json()["items"]
    (evidence,) = change["evidence"]
    lost = evidence["scores"].pop("icl_score")
    assert lost["whole_interval"] == [-0.5, -0.3]
    assert lost["interval"] == pytest.approx([0.75, 0.85])
    assert [lost[name] for name in ("whole", "share", "matched_mean")] == pytest.approx([-0.4, 0.8, 0.1])
    assert (lost["n_matched"], lost["matched_sd"]) == (1, None)
    assert evidence == {
        "measure": "ablation:L1H0",
        "heads": [[1, 0]],
        "mode": "full",
        "step": 80,
        "scores": {},
        "matched_heads": [[[1, 1]]],
        "sentence": (
            "Zeroing L1H0 at step 80 takes away 80 % of the ICL score, one matched random head (itself one of the "
            "change's heads) 10 %."
        ),
    }
    assert evidence["sentence"] in change["explanation"]
    one = client.get(f"/api/v1/phase-changes/{change['id']}").json()
    assert one["evidence"][0]["scores"]["icl_score"] == lost
    assert one["explanation"] == change["explanation"]


def test_evidence_is_of_the_checkpoint_after_the_change_and_of_its_heads(
    sqlite_run: SmallRun, make_client: MakeClient
) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    find(run, CHANGE)
    for step in (10, 20, 80, 160):
        put_ablation(run, step)
    put_ablation(run, 80, "ablation:L0H0")
    put_ablation(run, 80, "ablation:anything", source="recorder")
    (change,) = client.get(f"/api/v1/runs/{run.run_id}/phase-changes").json()["items"]
    assert [(one["measure"], one["step"]) for one in change["evidence"]] == [("ablation:L1H0", 80)]
    find(run, CHANGE.evolve(end_step=None))
    (change,) = client.get(f"/api/v1/runs/{run.run_id}/phase-changes").json()["items"]
    assert [one["step"] for one in change["evidence"]] == [160]


def put_ablation(run: SmallRun, step: int, name: str = "ablation:L1H0", source: str = "job") -> None:
    """An ablation of one head that takes 80 % of an ICL score of −0.4, one matched head 10 %; no repeats."""
    values, interval = np.full((5, 3), np.nan), np.full((2, 5, 3), np.nan)
    values[0] = 0.32, -0.4, 0.04
    values[3:] = [[1, np.nan, 1], [0, np.nan, 1]]
    interval[:, 0, 0], interval[:, 0, 1] = (0.3, 0.34), (-0.5, -0.3)
    with run.database.transaction() as session:
        one = StoredMeasurement(1, values, 0.0, interval)
        put_measurements(session, run.run_id, step, {name: one}, source=source)


def test_the_jobs_measure_what_the_report_reads_and_no_scan_is_asked_for(
    sqlite_run: SmallRun, make_client: MakeClient
) -> None:
    run, client = sqlite_run, make_client(sqlite_run.database)
    find(run, CHANGE)

    def counted() -> int:
        with run.database.reading() as session:
            states = measured_runs(session, None, ignored=scan.ignored_measures())
        return sum(state.n_measurements for state in states)

    before = counted()
    jobs = asked(run)
    do_jobs(run)
    (change,) = client.get(f"/api/v1/runs/{run.run_id}/phase-changes").json()["items"]
    assert [(one["heads"], one["mode"]) for one in change["evidence"]] == [
        (heads, mode) for heads in ([[1, 0]], [[1, 1]], [[1, 0], [1, 1]]) for mode in ("full", "pattern_preserving")
    ]
    with run.database.reading() as session:
        found = {(name, n_steps) for name, _, n_steps, _ in list_measures(session, run.run_id)}
    wanted = set(jobs[0].parameters["measures"])
    short = {name for name in wanted if registry.get(name).needs == "generation"}  # than what a prompt needs
    assert {name for name, _ in found} == wanted - short
    assert {n_steps for _, n_steps in found} == {len(jobs)}
    assert counted() == before


def test_a_monitor_looks_at_the_runs_it_selects(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    find(run, CHANGE)
    with run.database.reading() as session:
        for selector, n_jobs in (({"run": str(run.run_id)}, 3), ({"tag": "none"}, 0)):
            monitor = Monitor(kind="ablate_on_change", selector=selector, parameters={})
            assert len(find_jobs(session, monitor, None)) == n_jobs
            assert find_jobs(session, monitor, utc_now() + timedelta(minutes=1)) == []
