"""Kills every part of the service and its database again and again, and counts what that cost.

    python -m bench.chaos [--minutes 10] [--every 5] [--seed 0] [--folder FOLDER]

On PostgreSQL run a trainer, two recorders, API, two schedulers and two workers; every few seconds one of them, or the
database server, gets SIGKILL and is started again, each as often as the others. Then what the training and the
recordings show is held to the same ones undisturbed. Ends with status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos import weather


def main() -> int:
    """Runs it and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills")
    parser.add_argument("--steps", type=int, default=2_000, help="updates of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        found = weather(
            Path(name), seconds=60 * given.minutes, every_s=given.every, steps=given.steps, seed=given.seed,
            say=lambda line: print(line, flush=True),
        )  # fmt: skip
    kills = ", ".join(f"{part} {times}" for part, times in found.kills.items())
    print(f"{sum(found.kills.values())} kills: {kills}")
    print(
        f"{found.n_values:,} values: {len(found.lost)} lost, {len(found.differing)} differ, {len(found.doubled)} more"
    )
    print(f"{found.n_jobs} jobs in {found.n_attempts} attempts, {len(found.open_jobs)} not done")
    for line in (found.lost + found.differing + found.doubled + found.open_jobs)[:20]:
        print(f"  {line}")
    return int(not found.is_right)


if __name__ == "__main__":
    sys.exit(main())
