"""Progress: a bar on a terminal, a line now and then in a log, and the loss read no more often than shown."""

from __future__ import annotations

import io
import logging
from itertools import count

import pytest
import torch
from rich.console import Console

from tests.trainer import small
from trainer.progress import LOG_EVERY_S, training_progress


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=140)


def shown(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_a_terminal_gets_a_bar_with_loss_speed_and_steps() -> None:
    target = console(terminal=True)
    with training_progress(small.config(), console=target) as on_step:
        for step in range(1, 13):
            on_step(step, torch.tensor(2.5))
    assert "small" in shown(target)
    assert "12/12" in shown(target)
    assert "loss 2.500" in shown(target)
    assert "tokens/s" in shown(target)


def test_a_log_gets_a_line_every_few_seconds_and_the_last_step(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trainer.progress")
    target = console(terminal=False)
    seconds = count(0, LOG_EVERY_S / 4)  # a step takes a quarter of the time between two lines
    with training_progress(small.config(), first_step=2, console=target, clock=lambda: next(seconds)) as on_step:
        for step in range(3, 13):
            on_step(step, torch.tensor(step / 10))
    # 4 steps of 4 × 16 tokens in 10 s; at the end 2 steps in 5 s
    assert caplog.messages == [
        "small: step 6 of 12, loss 0.600, 26 tokens/s, 15 s left",
        "small: step 10 of 12, loss 1.000, 26 tokens/s, 5 s left",
        "small: step 12 of 12, loss 1.200, 26 tokens/s, 0 s left",
    ]
    assert shown(target) == ""


def test_the_loss_is_read_only_when_it_is_shown() -> None:
    class Counted(torch.Tensor):
        reads = 0

        def item(self) -> float:
            Counted.reads += 1
            return 1.0

    with training_progress(small.config(), console=console(terminal=False), clock=lambda: 0.0) as on_step:
        for step in range(1, 13):
            on_step(step, torch.zeros(()).as_subclass(Counted))
    assert Counted.reads == 1
