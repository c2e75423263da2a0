"""The detectors against runs with known truth, and against what people would pick instead.

    python bench/detection.py                               a quick look: 6 runs a family
    python bench/detection.py --runs 100 --write            the figures of docs/detection.md (hours on one core)
    python bench/detection.py --recorded FOLDER             recorded runs of the kind tests/data holds, with their truth

Baselines that need it are left out where `ruptures` is not installed (pip install ruptures; the benchmark alone uses
it). Everything is seeded. The false discoveries of a detector are the changes it reports that were not planted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phasewatch.detection import PhaseChange, find_phase_changes
from phasewatch.detection.scoring import score_changes
from phasewatch.detection.synthetic import Planted, SyntheticRun, make_run, plant

FloatArray = npt.NDArray[np.floating]
Detector = Callable[[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64]], Sequence[PhaseChange]]
FAMILIES: dict[str, dict[str, Any]] = {
    "power laws": {"decay": "power"},
    "exponentials": {"decay": "exponential"},
    "mixed, correlated common noise": {"decay": "mixed", "common_noise": 0.05, "persistence": 0.5},
    "mixed, heavy tails": {"decay": "mixed", "tail": 3.0},
    "power laws behind a warm-up": {"decay": "power", "warm_up": 200, "common_noise": 0.05},
}
LOG_RANGE = float(np.log1p(10_000))


@dataclass
class Tally:
    """What a detector did on the runs of one family."""

    runs: int = 0
    null_runs_with_change: int = 0
    found: int = 0
    with_half_of_tokens: int = 0
    runs_with_false: int = 0
    errors: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def row(self) -> list[str]:
        error = f"{100 * float(np.median(self.errors)) / LOG_RANGE:.2f} %" if self.errors else "–"
        counts = (self.null_runs_with_change, self.found, self.with_half_of_tokens, self.runs_with_false)
        return [*(f"{count}/{self.runs}" for count in counts), error, f"{self.seconds / max(2 * self.runs, 1):.2f}"]


def phasewatch_detector(
    losses: FloatArray, steps: npt.NDArray[np.int64], documents: npt.NDArray[np.int64]
) -> Sequence[PhaseChange]:
    return find_phase_changes(losses, steps, documents=documents)


def change_at(step: int, tokens: npt.NDArray[np.int64] | None, measure: str) -> PhaseChange:
    """A baseline's answer in our words."""
    return PhaseChange(
        start_step=step,
        step=step,
        end_step=step,
        kind="hidden",
        direction="drop",
        effect=0.0,
        unit="nats",
        measure=measure,
        tokens=tokens,
    )


def cusum_of_mean(
    losses: FloatArray, steps: npt.NDArray[np.int64], documents: npt.NDArray[np.int64]
) -> Sequence[PhaseChange]:
    """The largest excursion of the cumulated residuals of the mean loss about a line in log step, at p = 0.01."""
    x, mean = np.log1p(steps), losses.mean(axis=1, dtype=np.float64)
    residuals = mean - np.polyval(np.polyfit(x, mean, 3), x)
    path = np.cumsum(residuals - residuals.mean()) / (residuals.std() * np.sqrt(len(x)))
    place = int(np.argmax(np.abs(path)))
    return [change_at(int(steps[place]), None, "cusum")] if abs(path[place]) > 1.63 else []


def second_difference(
    losses: FloatArray, steps: npt.NDArray[np.int64], documents: npt.NDArray[np.int64]
) -> Sequence[PhaseChange]:
    """The rule of the literature: where the second difference of the mean loss in log step is an outlier (4 sigma)."""
    mean = losses.mean(axis=1, dtype=np.float64)
    speed = np.gradient(mean, np.log1p(steps))
    second = np.gradient(speed, np.log1p(steps))
    spread = 1.4826 * float(np.median(np.abs(second - np.median(second))))
    places = np.flatnonzero(np.abs(second - np.median(second)) > 4 * spread)
    groups = np.split(places, np.flatnonzero(np.diff(places) > 3) + 1) if len(places) else []
    return [change_at(int(steps[int(group.mean())]), None, "second difference") for group in groups]


def ruptures_of_mean(method: str) -> Detector | None:
    """PELT or Binseg on the mean loss with the penalty 2·log(n)·variance; None where ruptures is not installed."""
    try:
        import ruptures  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None

    def detect(
        losses: FloatArray, steps: npt.NDArray[np.int64], documents: npt.NDArray[np.int64]
    ) -> Sequence[PhaseChange]:
        mean = losses.mean(axis=1, dtype=np.float64)
        noise = float(np.var(np.diff(mean, 2)) / 6)
        search = getattr(ruptures, method)(model="l2", min_size=3, jump=1).fit(mean)
        places = search.predict(pen=2 * np.log(len(mean)) * noise)[:-1]
        return [change_at(int(steps[place]), None, method) for place in places]

    return detect


def detectors() -> dict[str, Detector]:
    answer: dict[str, Detector] = {
        "phasewatch": phasewatch_detector,
        "CUSUM of the mean": cusum_of_mean,
        "second difference of the mean": second_difference,
    }
    for method in ("Pelt", "Binseg"):
        detector = ruptures_of_mean(method)
        if detector is not None:
            answer[f"ruptures {method} on the mean"] = detector
    return answer


def compare(n_runs: int, n_tokens: int, n_steps: int) -> dict[str, dict[str, Tally]]:
    """Every detector on every family, each run once with nothing planted and once with 0.5 % dropping by 1 nat."""
    tallies: dict[str, dict[str, Tally]] = {}
    for family, settings in FAMILIES.items():
        tallies[family] = {name: Tally() for name in detectors()}
        for seed in range(n_runs):
            run = make_run(seed, n_tokens=n_tokens, n_steps=n_steps, **settings)
            rng = np.random.default_rng(10_000 + seed)
            tokens = rng.choice(n_tokens, n_tokens // 200, replace=False)
            truth = Planted(tokens, int(np.exp(rng.uniform(np.log(150), np.log(6_000)))), rng.uniform(0.1, 0.8), -1.0)
            for name, detector in detectors().items():
                judge(tallies[family][name], detector, run, truth)
            print(
                family, seed, {name: tally.row() for name, tally in tallies[family].items()}["phasewatch"], flush=True
            )
    return tallies


def judge(tally: Tally, detector: Detector, run: SyntheticRun, truth: Planted) -> None:
    started = time.process_time()
    tally.null_runs_with_change += bool(detector(run.losses, run.steps, run.documents))
    changed = plant(run.losses, run.steps, truth.tokens, truth.step, truth.width, -truth.size)
    score = score_changes(detector(changed, run.steps, run.documents), [truth])
    tally.seconds += time.process_time() - started
    tally.runs += 1
    tally.found += score.n_found
    tally.runs_with_false += score.n_false > 0
    tally.errors += score.location_errors
    halves = zip(score.token_precisions, score.token_recalls, strict=True)
    tally.with_half_of_tokens += any(precision >= 0.5 and recall >= 0.5 for precision, recall in halves)


def table(tallies: dict[str, dict[str, Tally]]) -> str:
    head = ["family", "detector", "null runs with a change", "found", "half of the tokens at half precision"]
    lines = [[*head, "runs with a false change", "median location error", "s a scan"], ["---"] * 8]
    lines += [[family, name, *tally.row()] for family, rows in tallies.items() for name, tally in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def power(n_runs: int) -> str:
    """How often a change is found, by the share of its tokens and its drop in units of the tokens' noise."""
    shares, drops = (0.002, 0.005, 0.01, 0.03), (1.0, 2.0, 3.0, 5.0)
    lines = [["share of the tokens", *(f"drop {drop:g} × noise" for drop in drops)], ["---"] * 5]
    for share in shares:
        row = [f"{100 * share:g} %"]
        for drop in drops:
            found = 0
            for seed in range(n_runs):
                run = make_run(seed, n_tokens=10_000, n_steps=80, noise=0.4)
                rng = np.random.default_rng(20_000 + seed)
                tokens = rng.choice(10_000, int(share * 10_000), replace=False)
                truth = Planted(tokens, int(rng.integers(400, 4_000)), 0.3, -0.4 * drop)
                changed = plant(run.losses, run.steps, tokens, truth.step, truth.width, -truth.size)
                found += score_changes(find_phase_changes(changed, run.steps, documents=run.documents), [truth]).n_found
            row.append(f"{found}/{n_runs}")
        lines.append(row)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def recorded(folder: Path, n_plants: int) -> str:
    """Recorded runs: what is found in them, and in those without a known change how many planted ones are found."""
    lines = [["run", "changes found", "planted (1 %, 2.5 nats) found", "other changes then"], ["---"] * 4]
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as z:
            if "losses" not in z.files:
                continue
            losses, steps, ids = z["losses"].astype(np.float32), z["steps"], z["token_ids"].astype(np.int64)
        found = find_phase_changes(losses, steps, tokens=ids)
        told = "; ".join(f"{c.kind} {c.direction} {c.start_step}–{c.step}–{c.end_step}" for c in found) or "none"
        hits = others = 0
        for seed in range(n_plants):
            rng = np.random.default_rng(seed)
            tokens = rng.choice(losses.shape[1], losses.shape[1] // 100, replace=False)
            truth = Planted(tokens, int(steps[-1] * np.exp(rng.uniform(np.log(0.25), np.log(0.75)))), 0.25, -2.5)
            changed = plant(losses, steps, tokens, truth.step, truth.width, 2.5)
            score = score_changes(find_phase_changes(changed, steps, tokens=ids), [truth])
            hits, others = hits + score.n_found, others + score.n_false
        lines.append([path.stem, told, f"{hits}/{n_plants}", str(others)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6, help="runs a family")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=200, help="checkpoints a run")
    parser.add_argument("--recorded", type=Path, help="only recorded runs, from this folder")
    parser.add_argument("--power", action="store_true", help="only the power table")
    parser.add_argument("--write", type=Path, help="append the tables to this file")
    given = parser.parse_args()
    if given.recorded is not None:
        text = recorded(given.recorded, given.runs)
    elif given.power:
        text = power(given.runs)
    else:
        text = table(compare(given.runs, given.tokens, given.steps))
    print(text)
    if given.write is not None:
        with given.write.open("a") as file:
            file.write(f"\n{json.dumps(vars(given), default=str)}\n\n{text}\n")


if __name__ == "__main__":
    main()
