"""A training loop that is killed: records known values with the recorder, and goes on where it was.

    python -m tests.chaos_loop URL STATE_FILE RUN_NAME STEPS PAUSE_S

The state file holds the run and the first step that was not recorded yet, written after every step's calls returned:
what it says was recorded must be on the server in the end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phasewatch.recorder import Recorder

EVERY = 10
TOKENS = np.arange(4 * 33).reshape(4, 33) % 50


def loss(step: int) -> float:
    """A loss that falls in the middle of a run of any length."""
    return float(np.float64(4.0 - 2.0 / (1.0 + np.exp((60 - step) / 8.0)) + 0.05 * np.sin(1.7 * step)))


def losses(step: int) -> NDArray[np.float32]:
    """Per-token losses (4, 32) of a step."""
    noise = np.random.default_rng(step).normal(0.0, 0.05, (4, 32))
    return (loss(step) + noise).astype(np.float32)


def main() -> None:
    """Records until the end, from wherever the state file says."""
    url, state_file, name, n_steps, pause_s = sys.argv[1:]
    state, spool = Path(state_file), Path(state_file).parent / "spool"
    known = json.loads(state.read_text()) if state.exists() else None
    more = {} if known is None else {"run_id": known["run"], "resume_from": known["next"]}
    with Recorder(url, run=name, spool=spool, flush_timeout=600.0, **more) as recorder:
        recorder.probe(TOKENS)
        for step in range(known["next"] if known else 0, int(n_steps)):
            recorder.log(step, {"loss": loss(step)})
            if step % EVERY == 0:
                recorder.record_losses(step, losses(step))
            _keep(state, {"run": recorder.run_id, "next": step + 1})
            time.sleep(float(pause_s))
    if recorder.failed or recorder.dropped or recorder.pending:
        sys.exit(f"{recorder.failed} failed, {recorder.dropped} dropped, {recorder.pending} not sent")


def _keep(path: Path, content: object) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


if __name__ == "__main__":
    main()
