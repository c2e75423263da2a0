"""phasewatch: a training-run observatory.

Three ways in:

    from phasewatch import Recorder                      watch a training loop of your own
    from phasewatch.detection import find_run_changes    find phase changes in arrays you have
    from phasewatch.measures import score_heads          score the attention heads of any PyTorch model
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phasewatch.recorder import Recorder

__all__ = ["Recorder", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The recorder when it is asked for: it needs httpx and pydantic, and much of the library needs neither."""
    if name == "Recorder":
        from phasewatch.recorder import Recorder

        return Recorder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
