"""What a person sees of a training run: a bar on a terminal, a line every few seconds in a log.

Separate from the loop, which neither prints nor imports Rich.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from phasewatch.training import TrainingConfig

REFRESH_S: Final = 0.2  # on a terminal; the loss is read no more often, because reading it waits for the device
LOG_EVERY_S: Final = 10.0

logger = logging.getLogger(__name__)

OnStep = Callable[[int, Tensor], None]


@contextmanager
def training_progress(
    config: TrainingConfig,
    *,
    first_step: int = 0,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[OnStep]:
    """An `on_step` for `Trainer.run` that shows loss, tokens/s and time left, from `first_step` on.

    Draws a bar where the console (by default standard error) is a terminal, else logs a line every ten seconds.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Reporter(config, first_step, LOG_EVERY_S, clock, _log(config))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f} · {task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            config.name, total=config.steps, completed=first_step, loss=float("nan"), speed=float("nan")
        )
        yield _Reporter(config, first_step, REFRESH_S, clock, _draw(progress, task))


class _Reporter:
    """Passes on a step once in a while, and the last one always: (step, loss in nats, tokens/s since the last time)."""

    def __init__(
        self,
        config: TrainingConfig,
        first_step: int,
        every_s: float,
        clock: Callable[[], float],
        show: Callable[[int, float, float], None],
    ) -> None:
        self._tokens_per_step = config.batch_size * config.model.context
        self._last_step = config.steps
        self._every_s, self._clock, self._show = every_s, clock, show
        self._shown_step, self._shown_at = first_step, clock()

    def __call__(self, step: int, loss: Tensor) -> None:
        elapsed_s = self._clock() - self._shown_at
        if elapsed_s < self._every_s and step < self._last_step:
            return
        tokens = (step - self._shown_step) * self._tokens_per_step
        self._show(step, loss.item(), tokens / max(elapsed_s, 1e-9))
        self._shown_step, self._shown_at = step, self._shown_at + elapsed_s


def _draw(progress: Progress, task: TaskID) -> Callable[[int, float, float], None]:
    def show(step: int, loss: float, speed: float) -> None:
        progress.update(task, completed=step, loss=loss, speed=speed)

    return show


def _log(config: TrainingConfig) -> Callable[[int, float, float], None]:
    tokens_per_step = config.batch_size * config.model.context

    def show(step: int, loss: float, speed: float) -> None:
        left_s = (config.steps - step) * tokens_per_step / speed
        message = "%s: step %d of %d, loss %.3f, %.0f tokens/s, %.0f s left"
        logger.info(message, config.name, step, config.steps, loss, speed, left_s)

    return show
