"""Whether hidden changes can be trusted: how often they are there, found, and where nothing is.

    python -m bench.calibration null planted --runs 20            made-up runs, 20,000 tokens × 200 checkpoints
    python -m bench.calibration online --runs 20                  the same without a change, a scan at every checkpoint
    python -m bench.calibration recorded --folder FOLDER          recorded runs of the kind tests/data holds
    python -m bench.calibration inserted growing --folder FOLDER  changes planted into them; scans while they grow
    python -m bench.calibration rare --folder FOLDER              a sub-task of 1, 0.3 and 0.1 % of the tokens
    python -m bench.calibration scale                             seconds and memory at 10⁴, 10⁵ and 10⁶ tokens

Prints one table a part. Everything is seeded; `--jobs` processes share the runs. FOLDER may be given several times.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phasewatch.detection import PhaseChange, PhaseChangeMonitor, find_phase_changes
from phasewatch.detection.hidden import MIN_CHECKPOINTS, find_hidden_changes
from phasewatch.detection.loss_source import LossBlocks
from phasewatch.detection.scoring import ranked_precision, score_changes, score_tokens
from phasewatch.detection.synthetic import DECAYS, Planted, SyntheticRun, make_run, plant
from phasewatch.detection.token_scan import Whitener

IntArray = npt.NDArray[np.int64]
Rows = list[list[str]]
LATE = 500  # one-layer controls have small real changes before this step, and none after
WITH_SUB = "mix"  # runs whose planted sub-task is known


class Recorded(NamedTuple):
    """A recorded run; `is_sub` (n_tokens,) marks the tokens of a planted sub-task, all False where there is none."""

    name: str
    steps: IntArray
    losses: npt.NDArray[np.float32]
    token_ids: IntArray
    is_sub: npt.NDArray[np.bool_]


def load(folders: Sequence[Path]) -> list[Recorded]:
    answer = []
    for path in sorted(path for folder in folders for path in folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as z:
            if "losses" not in z.files or path.stem.startswith("markov"):
                continue
            losses = z["losses"].astype(np.float32)
            sub = z["is_sub"].astype(bool) if "is_sub" in z.files else np.zeros(losses.shape[1], bool)
            answer.append(Recorded(path.stem, z["steps"], losses, z["token_ids"].astype(np.int64), sub))
    return answer


def hidden(changes: Sequence[PhaseChange]) -> list[PhaseChange]:
    return [change for change in changes if change.kind == "hidden" and change.tokens is not None]


def synthetic(seed: int, n_tokens: int, n_steps: int, planted: Sequence[Planted] = ()) -> SyntheticRun:
    """The family goes with the seed: every decay, common noise with and without persistence, warm-up."""
    return make_run(
        seed,
        n_tokens=n_tokens,
        n_steps=n_steps,
        decay=DECAYS[seed % 3],
        common_noise=(0.02, 0.05)[seed // 3 % 2],
        persistence=(0.0, 0.6)[seed // 6 % 2],
        warm_up=200 if has_warm_up(seed) else 0,
        planted=planted,
    )


def truth_for(seed: int, n_tokens: int) -> Planted:
    """0.5 % of the tokens drop by 1 nat, at any time that leaves the change within the run."""
    rng = np.random.default_rng(10_000 + seed)
    tokens = rng.choice(n_tokens, n_tokens // 200, replace=False)
    return Planted(tokens, int(np.exp(rng.uniform(np.log(150), np.log(6_000)))), rng.uniform(0.1, 0.8), -1.0)


def null_run(seed: int, n_tokens: int, n_steps: int) -> int:
    run = synthetic(seed, n_tokens, n_steps)
    return len(hidden(find_phase_changes(run.losses, run.steps, documents=run.documents)))


def online_run(seed: int, n_tokens: int, n_steps: int, growth: float = 1.0) -> tuple[int, int]:
    """Scans of a growing run that reported a hidden change, and changes of the last scan.

    Only the road to hidden changes is taken: what the monitor adds, broad changes of the mean, can only take some away.
    growth  a scan comes when there are so many times the checkpoints of the last one; 1 is a scan at every checkpoint
    """
    run = synthetic(seed, n_tokens, n_steps)
    n, reporting, found = MIN_CHECKPOINTS, 0, 0
    while n <= n_steps:
        blocks, steps = LossBlocks(run.losses[:n]), run.steps[:n]
        whitener = Whitener(blocks.sample, steps)
        found = len(find_hidden_changes(blocks, steps, whitener, name="text", owners=(run.documents,)))
        reporting += found > 0
        n = n_steps if n < n_steps < growth * n else max(n + 1, ceil(growth * n))
    print(f"seed {seed}: {reporting} scans with a hidden change", file=sys.stderr, flush=True)
    return reporting, found


def planted_run(seed: int, n_tokens: int, n_steps: int) -> tuple[int, int, float, float, float]:
    """Found, false, location error in log step, precision and recall of the tokens."""
    truth = truth_for(seed, n_tokens)
    run = synthetic(seed, n_tokens, n_steps, [truth])
    found = hidden(find_phase_changes(run.losses, run.steps, documents=run.documents))
    score = score_changes(found, [truth])
    nan = (np.nan,)
    error, precision, recall = (
        (values or nan)[0] for values in (score.location_errors, score.token_precisions, score.token_recalls)
    )
    return score.n_found, score.n_false, error, precision, recall


def null_table(given: argparse.Namespace, over: Callable[..., list[Any]]) -> Rows:
    counts = over(null_run)
    return [["runs", "with a hidden change"], [str(len(counts)), str(sum(n > 0 for n in counts))]]


def online_table(given: argparse.Namespace, over: Callable[..., list[Any]]) -> Rows:
    counts = over(partial(online_run, growth=given.growth))
    ever, at_end = (str(sum(count[i] > 0 for count in counts)) for i in (0, 1))
    head = ["runs", "with a hidden change in any scan", "with one in the last scan"]
    return [head, [str(len(counts)), ever, at_end]]


def planted_table(given: argparse.Namespace, over: Callable[..., list[Any]]) -> Rows:
    values = np.array(over(planted_run), dtype=float)
    warm = np.array([has_warm_up(seed) for seed in range(given.first, given.first + given.runs)])
    head = ["runs", "found", "with half its tokens at half precision", "with a false change", "median location error"]
    rows = [["warm-up", *head, "mean token precision", "mean token recall"]]
    rows += [["no", *planted_row(values[~warm])]] if not warm.all() else []
    rows += [["200 steps", *planted_row(values[warm])]] if warm.any() else []
    return rows


def planted_row(values: npt.NDArray[np.floating]) -> list[str]:
    """values (n_runs, 5) as planted_run gives them."""
    span = np.log1p(10_000)
    good = (values[:, 0] == 1) & (values[:, 3] >= 0.5) & (values[:, 4] >= 0.5)
    error = f"{100 * np.nanmedian(values[:, 2]) / span:.2f} % of the range"
    row = [str(len(values)), f"{values[:, 0].sum():.0f}", str(good.sum()), str((values[:, 1] > 0).sum()), error]
    tokens = [f"{np.nanmean(values[:, 3]):.2f}", f"{np.nanmean(values[:, 4]):.2f}"]
    return [*row, *tokens]


def has_warm_up(seed: int) -> bool:
    return bool(seed // 12 % 2)


def told(run: Recorded, change: PhaseChange) -> str:
    """A change in a few words, with how its tokens fit the sub-task where there is one."""
    tokens = np.empty(0, np.int64) if change.tokens is None else change.tokens
    words = f"{change.direction} {change.start_step}–{change.step}–{change.end_step}, {len(tokens)} tokens"
    if not run.is_sub.any():
        return words
    precision, recall = score_tokens(tokens, np.flatnonzero(run.is_sub))
    return f"{words} (precision {precision:.2f}, recall {recall:.2f}, AP {ranked_precision(tokens, run.is_sub):.2f})"


def recorded_table(given: argparse.Namespace, over: Callable[..., list[Any]]) -> Rows:
    rows = [["run", "hidden changes", "broad changes", "s"]]
    for run in load(given.folder):
        started = time.process_time()
        found = find_phase_changes(run.losses, run.steps, tokens=run.token_ids)
        seconds = f"{time.process_time() - started:.1f}"
        few = "; ".join(told(run, change) for change in hidden(found)) or "none"
        broad = "; ".join(f"{c.kind} {c.start_step}–{c.step}–{c.end_step}" for c in found if c.kind != "hidden")
        rows.append([run.name, few, broad or "none", seconds])
    return rows


def growing_table(given: argparse.Namespace, over: Callable[..., list[Any]]) -> Rows:
    """What a scan at every checkpoint reports on the way: hidden changes that any scan saw, and the last scan's."""
    rows = [["run", "hidden changes that any scan saw", "in the last scan", "delay of those (log steps)"]]
    for run in load(given.folder):
        monitor = PhaseChangeMonitor(tokens=run.token_ids)
        for step, losses in zip(run.steps, run.losses, strict=True):
            monitor.update(int(step), losses)
        seen = [s for s in monitor.sightings if s.change.kind == "hidden"]
        last = hidden(monitor.changes)
        delays = [f"{s.delay:.2f}" for s in seen if s.state != "withdrawn"]
        words = "; ".join(f"{s.change.step} ({s.state} {s.first_seen}…{s.last_seen})" for s in seen)
        rows.append([run.name, words or "none", "; ".join(str(c.step) for c in last) or "none", ", ".join(delays)])
    return rows


def tokens_to_plant(run: Recorded, seed: int, *, one_target: bool) -> IntArray:
    """1 % of the tokens: drawn at random, or as many of one frequent target."""
    rng = np.random.default_rng(seed)
    n = run.losses.shape[1] // 100
    if not one_target:
        return np.asarray(rng.choice(run.losses.shape[1], n, replace=False))
    targets = run.token_ids[:, 1:].ravel()
    ids, counts = np.unique(targets, return_counts=True)
    frequent = ids[counts >= n]
    return np.asarray(rng.choice(np.flatnonzero(targets == rng.choice(frequent)), n, replace=False))


def inserted_table(given: argparse.Namespace, over: Callable[..., list[Any]]) -> Rows:
    """2.5 nats on 1 % of the tokens of every one-layer control: how many of `runs` plants are found."""
    rows = [["run", "tokens", "found", f"runs with another hidden change after {LATE}", "precision", "recall"]]
    for run in load(given.folder):
        if not run.name.startswith(("L1_bpe", "mix_recall1pct_L1", "one-layer")):
            continue
        for one_target in (False, True):
            scores = [plant_one(run, seed, one_target=one_target) for seed in range(given.runs)]
            found, false = (sum(score[i] > 0 for score in scores) for i in (0, 1))
            precision, recall = (np.mean([score[i] for score in scores if score[0]] or [0.0]) for i in (2, 3))
            kind = "of one target" if one_target else "at random"
            rows.append([run.name, kind, f"{found}/{given.runs}", str(false), f"{precision:.2f}", f"{recall:.2f}"])
    return rows


def plant_one(run: Recorded, seed: int, *, one_target: bool) -> tuple[int, int, float, float]:
    """Found, others after LATE, token precision and recall of one plant between step 250 and 70 % of the run."""
    tokens = tokens_to_plant(run, seed, one_target=one_target)
    rng = np.random.default_rng(seed)
    latest = 0.7 * float(run.steps[-1])
    truth = Planted(tokens, int(np.exp(rng.uniform(np.log(250), np.log(latest)))), rng.uniform(0.1, 0.5), -2.5)
    losses = plant(run.losses, run.steps, tokens, truth.step, truth.width, 2.5)
    found = [c for c in find_phase_changes(losses, run.steps, tokens=run.token_ids) if c.tokens is not None]
    score = score_changes(found, [truth])  # where the mean shows it too, its change carries the tokens
    near = [c for c in found if abs(np.log1p(c.step) - np.log1p(truth.step)) <= 0.3]
    others = [c for c in found if c.step > LATE and c not in near[:1]]
    precision, recall = ((*score.token_precisions, 0.0)[0], (*score.token_recalls, 0.0)[0])
    return score.n_found, len(others), precision, recall


def rare_table(given: argparse.Namespace, over: Callable[..., list[Any]]) -> Rows:
    """Sequences without the sub-task, and as many with it as give a share: what is found of so few tokens."""
    rows = [["run", "share of the sub-task", "its tokens", "hidden changes", "by its name"]]
    for run in load(given.folder):
        with_sub = np.flatnonzero(run.is_sub.reshape(len(run.token_ids), -1).any(axis=1))
        for share in (0.01, 0.003, 0.001) if len(with_sub) else ():
            part = thinned(run, share)
            found = find_phase_changes(part.losses, part.steps, tokens=part.token_ids, groups={"sub": part.is_sub})
            named = [c for c in found if c.measure.startswith("token_group")]
            by_name = told(part, named[0]) if named else next((n for n in found.notes if "group sub" in n), "none")
            few = "; ".join(told(part, c) for c in hidden(found) if c not in named) or "none"
            rows.append([run.name, f"{100 * part.is_sub.mean():.2f} %", str(part.is_sub.sum()), few, by_name])
    return rows


def thinned(run: Recorded, share: float) -> Recorded:
    """The run on fewer sequences: every one without the sub-task, and of the others as many as give a share."""
    width = run.token_ids.shape[1] - 1
    counts = run.is_sub.reshape(-1, width).sum(axis=1)
    others, with_sub = np.flatnonzero(counts == 0), np.flatnonzero(counts)
    n = np.arange(len(with_sub) + 1)
    shares = np.concatenate([[0], counts[with_sub].cumsum()]) / ((len(others) + n) * width)
    kept = np.sort(np.concatenate([others, with_sub[: int(np.argmin(np.abs(shares - share)))]]))
    columns = (kept[:, None] * width + np.arange(width)).ravel()
    return Recorded(run.name, run.steps, run.losses[:, columns], run.token_ids[kept], run.is_sub[columns])


class MadeUpColumns:
    """A loss source of any number of tokens that is nowhere in memory: one run's tokens over and over, with noise."""

    def __init__(self, run: SyntheticRun, n_tokens: int) -> None:
        self._run = run
        self.shape = (len(run.steps), n_tokens)

    def __getitem__(self, at: tuple[slice, slice]) -> npt.NDArray[np.float32]:
        columns = np.arange(*at[1].indices(self.shape[1])) % self._run.losses.shape[1]
        return self._run.losses[at[0]][:, columns]


def scale_table(given: argparse.Namespace, over: Callable[..., list[Any]]) -> Rows:
    truth = truth_for(3, 20_000)
    run = make_run(3, n_tokens=20_000, n_steps=given.steps, planted=[truth])
    rows = [["tokens", "checkpoints", "s (wall)", "s (CPU)", "peak memory of the process, MB", "hidden changes"]]
    for n_tokens in (10_000, 100_000, 1_000_000):
        wall, cpu = time.perf_counter(), time.process_time()
        found = find_phase_changes(MadeUpColumns(run, n_tokens), run.steps)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_024
        figures = [f"{wall:.1f}", f"{cpu:.1f}", str(peak), "; ".join(str(c.step) for c in hidden(found))]
        rows.append([f"{n_tokens:,}", str(given.steps), *figures])
    return rows


def over_seeds(given: argparse.Namespace, work: Callable[..., Any]) -> list[Any]:
    """`work(seed, n_tokens, n_steps)` of every seed, by `jobs` processes."""
    task = partial(work, n_tokens=given.tokens, n_steps=given.steps)
    seeds = range(given.first, given.first + given.runs)
    if given.jobs == 1:
        return [task(seed) for seed in seeds]
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(task, seeds))


PARTS: dict[str, Callable[[argparse.Namespace, Callable[..., list[Any]]], Rows]] = {
    "null": null_table,
    "online": online_table,
    "planted": planted_table,
    "recorded": recorded_table,
    "growing": growing_table,
    "inserted": inserted_table,
    "rare": rare_table,
    "scale": scale_table,
}


def as_lines(rows: Rows) -> Iterator[str]:
    yield from ("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--runs", type=int, default=10, help="made-up runs, or plants a recorded run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=200, help="checkpoints of a made-up run")
    parser.add_argument("--growth", type=float, default=1.0, help="more checkpoints a scan of a growing run: 1.05")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="of recorded runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args()
    for part in given.parts:
        started = time.perf_counter()
        for line in as_lines(PARTS[part](given, partial(over_seeds, given))):
            print(line)
        print(f"({part}: {time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
