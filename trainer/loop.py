"""The training loop: configuration and text in, recordings out. It knows no database, no file and no terminal.

Separate from the worker, so that it can be tested in a second and run where there is nothing but numpy, pydantic and
torch. A step is the number of optimizer steps completed: step 0 is recorded before the first update, and a metric of
step k belongs to the update that completed step k. The same configuration on the same text and hardware gives the same
values, bit for bit, whether the run is interrupted or not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from phasewatch.errors import InvalidInput
from phasewatch.measures import token_losses
from phasewatch.probes import ProbeSet
from phasewatch.training import TrainingConfig
from phasewatch.transformer import Transformer
from trainer.data import Corpus
from trainer.optimizers import build_optimizer, learning_rate, load_optimizer_state, optimizer_state
from trainer.random_state import RandomState, put_random_state, seed_everything, take_random_state

Losses = npt.NDArray[np.float32]
Series = dict[int, dict[str, float]]


@dataclass(frozen=True)
class TrainerState:
    """All that a run needs to go on as if it had never stopped, after `step` updates; tensors are copies on the CPU."""

    step: int
    config: TrainingConfig
    corpus_sha256: str
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    random: RandomState


@dataclass(frozen=True)
class Recording:
    """What there is to keep of one step. Use `model` and `state` while the callback runs; training goes on after it.

    due: the schedule asks for this step. Otherwise the run was stopped here: there is a state to go on from and there
    are no losses, so that the losses of an interrupted run are those of an unbroken one.
    losses: nats, by slice, (n_sequences, n_positions). series: metrics since the last recording, by step and name:
    loss, grad_norm (before clipping) and learning_rate of every update, tokens_per_s of the stretch at its last step.
    """

    step: int
    tokens_seen: int
    due: bool
    losses: Mapping[str, Losses]
    series: Series
    model: Transformer
    state: Callable[[], TrainerState]


class _Update(NamedTuple):
    """The metrics of one update; tensors are read when they are recorded, so that no update waits for the device."""

    step: int
    loss: Tensor
    grad_norm: Tensor
    learning_rate: float


class Trainer:
    """One run, from its start or from a state, up to its last step or until it is told to stop.

    `model`, `probes` and `step` may be read at any time. Raises InvalidInput where the text is too short, the device is
    not there, or the state is another run's.
    """

    def __init__(
        self,
        config: TrainingConfig,
        corpus: Corpus,
        *,
        probes: ProbeSet | None = None,
        resume: TrainerState | None = None,
    ) -> None:
        self.config = config
        self.step = 0
        self.device = pick_device(config.device)
        self.probes = probes or corpus.probe_set(config.recording.probe_sequences, config.model.context)
        self.model = Transformer(config.model, len(corpus.vocabulary), seed=config.seed).to(self.device)
        self._corpus = corpus
        self._corpus_sha256 = corpus.sha256
        self._optimizer = build_optimizer(self.model, config.optimizer)
        self._weights = list(self.model.parameters())
        self._updates: list[_Update] = []
        self._started = time.perf_counter()
        self._is_new = resume is None
        if resume is None:
            seed_everything(config.seed)
        else:
            self._take_up(resume)

    def run(
        self,
        on_record: Callable[[Recording], None],
        *,
        on_step: Callable[[int, Tensor], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> bool:
        """Trains; True once the last step is done, False where `should_stop`, asked before every update, said so.

        `on_record` gets every due step, step 0 and the last included, and at a stop the step it stopped at where that
        had no recording yet; the step that a state was taken at is not recorded again. `on_step` gets every completed
        step and its training loss, a scalar whose reading waits for the device.
        """
        with _reproducible(self.device, self.config.threads):
            if self._is_new:
                self._record(on_record, due=True)
                self._is_new = False
            self._started = time.perf_counter()
            while self.step < self.config.steps:
                if should_stop is not None and should_stop():
                    if self._updates:
                        self._record(on_record, due=False)
                    return False
                update = self._update()
                if on_step is not None:
                    on_step(update.step, update.loss)
                if self.config.recording.schedule.due(self.step, self.config.steps):
                    self._record(on_record, due=True)
        return True

    def _update(self) -> _Update:
        config = self.config
        rate = learning_rate(config.optimizer, self.step, config.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        windows = self._corpus.batch(config.seed, self.step, config.batch_size, config.model.context)
        batch = torch.from_numpy(windows).to(self.device, non_blocking=True)
        logits = self.model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._weights, config.optimizer.clip or torch.inf)
        self._optimizer.step()
        self.step += 1
        update = _Update(self.step, loss.detach(), norm.detach(), rate)
        self._updates.append(update)
        return update

    def _record(self, on_record: Callable[[Recording], None], *, due: bool) -> None:
        series = self._take_series()
        slices = self.probes.slices if due else {}
        on_record(
            Recording(
                step=self.step,
                tokens_seen=self.step * self._tokens_per_step,
                due=due,
                losses={name: token_losses(self.model, part.tokens) for name, part in slices.items()},
                series=series,
                model=self.model,
                state=self.state,
            )
        )
        self._started = time.perf_counter()

    def _take_series(self) -> Series:
        """The metrics since the last call; tokens_per_s is of training alone."""
        updates, self._updates = self._updates, []
        series = {
            update.step: {
                "loss": update.loss.item(),
                "grad_norm": update.grad_norm.item(),
                "learning_rate": update.learning_rate,
            }
            for update in updates
        }
        if updates:
            seconds = max(time.perf_counter() - self._started, 1e-9)
            series[self.step]["tokens_per_s"] = len(updates) * self._tokens_per_step / seconds
        return series

    @property
    def _tokens_per_step(self) -> int:
        return self.config.batch_size * self.config.model.context

    def state(self) -> TrainerState:
        """A copy of all that the run needs to go on from its present step."""
        return TrainerState(
            step=self.step,
            config=self.config,
            corpus_sha256=self._corpus_sha256,
            model={name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()},
            optimizer=optimizer_state(self._optimizer, self.model),
            random=take_random_state(),
        )

    def _take_up(self, state: TrainerState) -> None:
        """Checks that `state` is of this run before it is used: a run that went on with other text would be another."""
        expected, given = _what_decides(self.config), _what_decides(state.config)
        differing = [name for name in expected if expected[name] != given[name]]
        if differing:
            raise InvalidInput(f"the state at step {state.step} is of a run with another {', '.join(differing)}")
        if state.corpus_sha256 != self._corpus_sha256:
            raise InvalidInput(
                f"text {self.config.data.text!r} is not what the run was trained on up to step {state.step} "
                f"(SHA-256 {self._corpus_sha256[:12]}…, then {state.corpus_sha256[:12]}…)"
            )
        try:
            self.model.load_state_dict(state.model)
        except RuntimeError as error:
            raise InvalidInput(f"the state at step {state.step} does not fit the model: {error}") from error
        load_optimizer_state(self._optimizer, self.model, state.optimizer)
        put_random_state(state.random)
        self.step = state.step


def pick_device(name: str) -> torch.device:
    """The device that a configuration asks for; `auto` is cuda where there is one. Raises InvalidInput."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("device is cuda, but torch sees no CUDA device here; use auto or cpu")
    return torch.device(name)


def _what_decides(config: TrainingConfig) -> dict[str, object]:
    """The parts of a configuration that decide a run's values."""
    return config.model_dump(mode="json", exclude={"name", "recording"})


@contextmanager
def _reproducible(device: torch.device, threads: int) -> Iterator[None]:
    """This many CPU threads, and on CUDA only kernels that give the same bits every time; as before on the way out.

    On the CPU the kernels used here do so by themselves, for a given number of threads.
    """
    threads_before = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it in deterministic mode
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
