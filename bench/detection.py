"""The detectors against runs with known truth, side by side with what people would pick instead.

    python -m bench.detection --write docs/detection.md     every table and the picture, into the document (ten minutes)
    python -m bench.detection --runs 3 --parts families     a quick look at one part: families, power, speed

A detector's recall depends on how many false changes one lets it report. The baselines are as strict as they have to be
to report no more of them than `ALLOWED` a run, chosen in hindsight on the very runs they are judged on; phasewatch runs
at its defaults, and its false changes are shown beside. A found change counts within 0.3 log steps of the true middle.
Everything is seeded. `--write` replaces what stands between the marks of each part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.baselines import Baseline, Candidates, Losses, at_strictness, baselines
from phasewatch.detection import Changes, find_phase_changes, find_series_changes
from phasewatch.detection.synthetic import Planted, SyntheticRun, make_run, plant

IntArray = npt.NDArray[np.int64]
ALLOWED = 0.1  # false changes a run
TOLERANCE = 0.3  # log steps
N_TOKENS, N_STEPS, LAST_STEP = 4_000, 100, 10_000
DATA = Path(__file__).parent.parent / "tests" / "data"
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "power.png"
OURS, OURS_OF_MEAN = "phasewatch, at its defaults", "phasewatch of the mean, as strict as is fair"
GAINS = (1.5, 3.0, 4.5, 6.0, 7.5, 9.5)

# name -> (settings of make_run, share of the tokens, their change in nats)
FAMILIES: dict[str, tuple[dict[str, Any], float, float]] = {
    "hidden, power laws": ({"decay": "power"}, 0.01, -1.0),
    "hidden, exponentials": ({"decay": "exponential"}, 0.01, -1.0),
    "hidden, correlated common noise": ({"common_noise": 0.05, "persistence": 0.5}, 0.01, -1.0),
    "hidden, heavy tails": ({"tail": 3.0}, 0.01, -1.0),
    "hidden, behind a warm-up": ({"decay": "power", "warm_up": 200, "common_noise": 0.05}, 0.01, -1.0),
    "broad, power laws": ({"decay": "power"}, 1.0, -0.25),
    "broad and small, power laws": ({"decay": "power"}, 1.0, -0.15),
    "broad, correlated common noise": ({"common_noise": 0.03, "persistence": 0.5}, 1.0, -0.4),
}
RECORDED = ("L1_bpe512_s0", "L2_allpos_bpe512_s0")
SHARES, DROPS = (0.003, 0.01, 0.03), (1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Pair:
    """A run with nothing planted, and the same with one change; changes before `since` are not judged."""

    losses: Losses
    changed: Losses
    steps: IntArray
    truth: Planted
    documents: IntArray | None = None
    tokens: IntArray | None = None
    since: int = 0

    def judged(self, places: list[int]) -> list[int]:
        """The steps of checkpoints, without those that are not judged."""
        return [int(self.steps[place]) for place in places if self.steps[place] >= self.since]


@dataclass
class Tally:
    """What a detector said of every pair: candidates without and with the change; and how long it took."""

    null: list[Candidates] = field(default_factory=list)
    planted: list[Candidates] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    seconds: float = 0.0

    def judged(self, strictness: float) -> tuple[int, float, list[float]]:
        """(changes found, false changes a run, location errors in log step) at one strictness."""
        found, false, errors = 0, 0, []
        for pair, null, planted in zip(self.pairs, self.null, self.planted, strict=True):
            false += len(pair.judged(at_strictness(null, strictness)))
            away = np.abs(np.log1p(pair.judged(at_strictness(planted, strictness))) - np.log1p(pair.truth.step))
            near = float(min(away, default=np.inf))
            hit = near <= TOLERANCE
            found, false = found + hit, false + len(away) - hit
            errors += [near] if hit else []
        return found, false / max(2 * len(self.pairs), 1), errors

    def fair(self) -> float:
        """The least strictness that reports at most `ALLOWED` false changes a run."""
        values = sorted({0.0, *(value for said in (*self.null, *self.planted) for value, _ in said)})
        return next(value for value in values if self.judged(value)[1] <= ALLOWED)

    def row(self, ours: bool) -> str:
        found, false, errors = self.judged(0.0 if ours else self.fair())
        error = f"{100 * np.median(errors) / np.log1p(LAST_STEP):.2f} %" if errors else "–"
        seconds = self.seconds / (2 * len(self.pairs))
        return f"{found}/{len(self.pairs)} | {false:.2f} | {error} | {seconds:.2f}"


def pairs_of(family: str, n_runs: int) -> Iterator[Pair]:
    """Runs of a family with their changes, of random time and width."""
    settings, share, size = FAMILIES[family]
    for seed in range(n_runs):
        run = make_run(seed, n_tokens=N_TOKENS, n_steps=N_STEPS, last_step=LAST_STEP, **settings)
        rng = np.random.default_rng(10_000 + seed)
        step, width = int(np.exp(rng.uniform(np.log(600), np.log(5_000)))), float(rng.uniform(0.1, 0.6))
        yield planted_pair(run, rng, share, step, width, size)


def planted_pair(
    run: SyntheticRun, rng: np.random.Generator, share: float, step: int, width: float, size: float
) -> Pair:
    tokens = rng.choice(N_TOKENS, round(share * N_TOKENS), replace=False)
    changed = plant(run.losses, run.steps, tokens, step, width, -size)
    return Pair(run.losses, changed, run.steps, Planted(tokens, step, width, size), documents=run.documents)


def recorded_pairs(n_runs: int) -> Iterator[Pair]:
    """Recorded runs without induction: 1 % of the tokens drop by 2.5 nats; judged from step 500 on."""
    for name in RECORDED:
        with np.load(DATA / f"{name}.npz", allow_pickle=False) as z:
            losses, steps, ids = z["losses"].astype(np.float32), z["steps"], z["token_ids"].astype(np.int64)
        for seed in range(max(n_runs // len(RECORDED), 1)):
            rng = np.random.default_rng(seed)
            tokens = rng.choice(losses.shape[1], losses.shape[1] // 100, replace=False)
            truth = Planted(tokens, int(rng.integers(600, 1_100)), 0.25, -2.5)
            changed = plant(losses, steps, tokens, truth.step, truth.width, 2.5)
            yield Pair(losses, changed, steps, truth, tokens=ids, since=500)


def ours(losses: Losses, pair: Pair) -> Candidates:
    """Drops and bumps that phasewatch reports, as the baselines give theirs."""
    return _places(find_phase_changes(losses, pair.steps, documents=pair.documents, tokens=pair.tokens), pair, 1.0)


def ours_of_mean(losses: Losses, pair: Pair) -> Candidates:
    """The broad detector alone, at several strictnesses, as the baselines are."""
    mean = losses.mean(axis=1, dtype=np.float64)
    found = [_places(find_series_changes(mean, pair.steps, min_gain=least), pair, least) for least in GAINS]
    return [candidate for candidates in found for candidate in candidates]


def _places(found: Changes, pair: Pair, strictness: float) -> Candidates:
    return [(strictness, int(np.searchsorted(pair.steps, c.step).clip(0, len(pair.steps) - 1))) for c in found]


def _of_losses(detect: Baseline, losses: Losses, pair: Pair) -> Candidates:
    return detect(losses, np.log1p(pair.steps))


def compare(pairs: list[Pair], names: Sequence[str] = ()) -> dict[str, Tally]:
    """Every detector, or those of some names, on the same pairs."""
    tallies: dict[str, Tally] = {}
    detectors: dict[str, Callable[[Losses, Pair], Candidates]] = {OURS: ours, OURS_OF_MEAN: ours_of_mean}
    detectors |= {name: partial(_of_losses, detect) for name, detect in baselines().items()}
    for name, detect in detectors.items():
        if names and name not in names:
            continue
        tally = tallies[name] = Tally(pairs=pairs)
        for pair in pairs:
            started = time.process_time()
            tally.null.append(detect(pair.losses, pair))
            tally.planted.append(detect(pair.changed, pair))
            tally.seconds += time.process_time() - started
    return tallies


def families(n_runs: int) -> str:
    head = "| family | detector | found | false changes a run | median location error | s a scan |"
    lines = [head, "|" + " --- |" * 6]
    sources = {name: list(pairs_of(name, n_runs)) for name in FAMILIES}
    sources["recorded controls, 2.5 nats on 1 %"] = list(recorded_pairs(n_runs))
    for family, pairs in sources.items():
        for name, tally in compare(pairs).items():
            lines.append(f"| {family} | {name} | {tally.row(name == OURS)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def power(n_runs: int) -> str:
    """Recall by share of the tokens and drop in units of their noise; the picture beside."""
    noise, names = 0.4, [OURS, "ruptures token by token, histogram"]
    shares = dict.fromkeys(names, np.zeros((len(SHARES), len(DROPS))))
    for i, share in enumerate(SHARES):
        for j, drop in enumerate(DROPS):
            pairs = []
            for seed in range(n_runs):
                run = make_run(seed, n_tokens=N_TOKENS, n_steps=N_STEPS, last_step=LAST_STEP, noise=noise)
                rng = np.random.default_rng(20_000 + seed)
                pairs.append(planted_pair(run, rng, share, int(rng.integers(600, 4_000)), 0.3, -noise * drop))
            for name, tally in compare(pairs, names).items():
                found = tally.judged(0.0 if name == OURS else tally.fair())[0]
                shares[name] = shares[name] + found / n_runs * _one(i, j, shares[name].shape)
    draw(shares)
    lines = ["| detector | share of the tokens | " + " | ".join(f"drop {d:g} × noise" for d in DROPS) + " |"]
    lines.append("|" + " --- |" * (2 + len(DROPS)))
    for name, table in shares.items():
        for share, row in zip(SHARES, table, strict=True):
            lines.append(
                f"| {name} | {100 * share:g} % | " + " | ".join(f"{100 * value:.0f} %" for value in row) + " |"
            )
    return "\n".join(lines) + f"\n\n![power](pictures/{PICTURE.name})"


def _one(i: int, j: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    answer = np.zeros(shape)
    answer[i, j] = 1.0
    return answer


def draw(shares: dict[str, npt.NDArray[np.float64]]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=130)
    for (name, table), line in zip(shares.items(), ("-", "--"), strict=False):
        for share, row, colour in zip(SHARES, table, ("tab:blue", "tab:orange", "tab:green"), strict=True):
            axes.plot(DROPS, row, line, marker="o", color=colour, label=f"{name.split(',')[0]}, {100 * share:g} %")
    axes.set(xlabel="drop ÷ noise of a token", ylabel="found", ylim=(-0.03, 1.03))
    axes.legend(fontsize=7, loc="upper left")
    figure.tight_layout()
    figure.savefig(PICTURE)
    plt.close(figure)


def speed(_: int) -> str:
    """Milliseconds a token: the whole scan of phasewatch, and ruptures one token at a time."""
    lines = ["| checkpoints | detector | ms a token |", "|" + " --- |" * 3]
    for n_steps in (200, 500):
        run = make_run(0, n_tokens=20_000, n_steps=n_steps, last_step=LAST_STEP)
        started = time.process_time()
        find_phase_changes(run.losses, run.steps, documents=run.documents)
        spent = {"phasewatch, all of a scan": (time.process_time() - started) / 20_000}
        spent |= token_by_token(run)
        lines += [f"| {n_steps} | {name} | {1_000 * value:.3g} |" for name, value in spent.items()]
    return "\n".join(lines)


def token_by_token(run: SyntheticRun) -> dict[str, float]:
    """Seconds a token of ruptures' searches (l2, jump 1, penalty 3 log n)."""
    import ruptures  # type: ignore[import-not-found,import-untyped,unused-ignore]

    penalty, series = 3 * np.log(len(run.steps)) * 0.15**2, run.losses.T.astype(np.float64)
    searches: dict[str, tuple[Callable[[], Any], int]] = {
        "ruptures Pelt": (lambda: ruptures.Pelt(model="l2", jump=1), 3),
        "ruptures Binseg": (lambda: ruptures.Binseg(model="l2", jump=1), 20),
        "ruptures KernelCPD": (lambda: ruptures.KernelCPD(kernel="linear"), 500),
    }
    spent = {}
    for name, (search, count) in searches.items():
        started = time.process_time()
        for column in series[:count]:
            search().fit(column).predict(pen=penalty)
        spent[name] = (time.process_time() - started) / count
    return spent


PARTS: dict[str, Callable[[int], str]] = {"families": families, "power": power, "speed": speed}


def put(path: Path, part: str, text: str, command: str) -> None:
    """Replaces what stands between the marks of a part in a document."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    old = path.read_text()
    head, rest = old.split(begin)
    tail = rest.split(end)[1]
    made = f"`{command}`, {datetime.now(UTC):%Y-%m-%d}"
    path.write_text(f"{head}{begin}\n{made}\n\n{text}\n{end}{tail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="runs a family, and a point of the power curves")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--write", type=Path, help="the document whose marked parts are replaced")
    given = parser.parse_args()
    if find_spec("ruptures") is None:  # without it the tables would flatter us
        parser.error("ruptures is not installed: pip install '.[bench]'")
    for part in given.parts:
        text = PARTS[part](given.runs)
        print(text, flush=True)
        if given.write is not None:
            put(given.write, part, text, f"python -m bench.detection --parts {part} --runs {given.runs}")


if __name__ == "__main__":
    main()
