"""phasewatch: a training-run observatory.

    from phasewatch import Recorder                      watch a training loop of your own
    from phasewatch.detection import find_run_changes    find phase changes in arrays you have
    from phasewatch.measures import score_heads          score the attention heads of any PyTorch model
"""

from __future__ import annotations

__version__ = "0.1.0"
