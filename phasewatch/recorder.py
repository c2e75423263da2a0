"""Recorder: a few lines in anyone's training loop, so that a server can watch it.

    with Recorder("http://127.0.0.1:8000", run="my-gpt") as recorder:
        recorder.probe(tokens)                          # (n_sequences, n_tokens), the same at every checkpoint
        for step, batch in enumerate(batches):
            ...
            recorder.log(step, {"loss": loss})
            if recorder.due(step):
                recorder.record(step, model)

Apart from the transport: here is what a run's life looks like to the loop (unopened, open, closed) and what is computed
in its process; nothing here waits for a server. Importing it loads no torch; `record` does.
"""

from __future__ import annotations

import atexit
import dataclasses
import enum
import logging
import operator
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from phasewatch import messages, snapshots
from phasewatch.client import connect, server_token, server_url
from phasewatch.earlier import Earlier
from phasewatch.errors import AttentionNotSeen, InvalidInput, PhasewatchError, RecorderClosed, TooLarge, Unavailable
from phasewatch.ids import new_id
from phasewatch.journal import Journal, checked_folder
from phasewatch.outbox import Item, Message, Outbox, Point, Queue
from phasewatch.probes import TEXT, ProbeSet
from phasewatch.schedules import Schedule
from phasewatch.spool import Spool
from phasewatch.transport import Route, Sender

if TYPE_CHECKING:
    from phasewatch.measures.evaluation import Model
    from phasewatch.measures.measurement import HeadScores

logger = logging.getLogger("phasewatch")

# Log-spaced first, for the quick early changes, then every thousandth step for as long as the run lasts
DEFAULT_SCHEDULE: Final = Schedule(log=20, every=1000)
DEFAULT_SPOOL: Final = "phasewatch-spool"
MAX_BYTES_IN_MEMORY: Final = 256 * 2**20
MAX_BYTES_ON_DISK: Final = 8 * 2**30


class State(enum.Enum):
    """Where a recorder is in its life."""

    UNOPENED = "unopened"
    OPEN = "open"
    CLOSED = "closed"


class Recorder:
    """Sends what a training loop logs and records to a phasewatch server, from a thread of its own.

    Calls from the loop return at once (`record` costs its evaluation) and raise nothing but RecorderClosed, unless
    `strict`: what goes wrong is logged once and counted in `failed`. It opens itself at its first use. Leaving the
    `with` marks the run completed, or failed with the error that left it.
    """

    def __init__(
        self,
        url: str | None = None,
        run: str = "run",
        config: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        spool: str | os.PathLike[str] | None = DEFAULT_SPOOL,
        schedule: Schedule | None = None,
        tags: Sequence[str] = (),
        run_id: UUID | str | None = None,
        resume_from: int | None = None,
        strict: bool = False,
        flush_timeout: float = 10.0,
        max_bytes: int | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Describes the run; nothing is sent before the first use.

        spool: the folder, made where it is missing, that keeps what was not sent yet; None keeps it in memory. url,
        token: of the server; by default PHASEWATCH_URL (else http://127.0.0.1:8000) and PHASEWATCH_TOKEN or the
        file PHASEWATCH_TOKEN_FILE. run, config, tags: the run's name, its settings and its labels. schedule: when `due`
        is true. run_id: of a run to go on with; resume_from: the first step that this process records of it, which
        hides the older rows from there on. strict: raise what goes wrong. flush_timeout: seconds that closing waits for
        the queue. max_bytes: most that the queue may hold, by default 8 GiB on disk and 256 MiB in memory. transport:
        replaces the network, for tests. Raises InvalidInput.
        """
        if resume_from is not None and run_id is None:
            raise InvalidInput(f"resume_from={resume_from} needs run_id, the run to go on with")
        self.url = server_url(url)
        self._token = server_token(token)
        self._id = new_id() if run_id is None else _as_id(run_id)
        self._is_new = run_id is None
        self._resume_from = None if resume_from is None else _step(resume_from)
        self._name, self._config, self._tags = run, dict(config or {}), list(tags)
        self._schedule = schedule or DEFAULT_SCHEDULE
        self._strict = strict
        self._flush_timeout = flush_timeout
        self._http_transport = transport
        self._spool = None if spool is None else checked_folder(spool)
        self._max_bytes = max_bytes or (MAX_BYTES_IN_MEMORY if spool is None else MAX_BYTES_ON_DISK)
        self._outbox: Queue = Outbox(self._max_bytes)
        self._earlier: Earlier | None = None
        self._sender: Sender | None = None
        self._state = State.UNOPENED
        self._changing_state = threading.RLock()
        self._probes = ProbeSet()
        self._sealed = False
        self._attention_unseen = False
        self._failed_here = 0
        self._dropped = 0
        self._reported: set[tuple[str, type[BaseException]]] = set()

    # The recorder's life.

    @property
    def run_id(self) -> str:
        """The run's id, known before the server has heard of it."""
        return str(self._id)

    @property
    def state(self) -> State:
        """Unopened, open or closed."""
        return self._state

    @property
    def pending(self) -> int:
        """Messages and logged steps that the server has not acknowledged yet."""
        return len(self._outbox)

    @property
    def failed(self) -> int:
        """What could not be recorded: calls that went wrong here, messages and metrics that the server refused."""
        return self._failed_here + (self._sender.refused if self._sender else 0)

    @property
    def dropped(self) -> int:
        """Messages and logged steps lost because the queue was full, or because it could not be sent before the end."""
        return self._dropped

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.close()
        else:
            self._close(f"{type(error).__name__}: {error}")

    def close(self, failure: str | None = None) -> None:
        """Ends the run, completed or failed with the text `failure`, and waits up to flush_timeout for the queue.

        Where `strict`, raises what the server refused. Closing again does nothing.
        """
        self._close(failure)
        if self._strict:
            self._raise_refusal()

    def flush(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds (default flush_timeout) until the server has all; whether it has."""
        if self._state is State.CLOSED:
            raise RecorderClosed("the recorder is closed; there is nothing left to flush")
        if self._sender is None or not self._sender.is_alive:
            return not len(self._outbox)
        return self._outbox.wait_empty(self._flush_timeout if timeout is None else timeout)

    # What the loop calls.

    def probe(
        self,
        tokens: ArrayLike,
        slice: str = TEXT,
        *,
        vocab_size: int | None = None,
        bos: int | None = None,
        pieces: Sequence[str] | None = None,
    ) -> None:
        """Names tokens (n_sequences, n_tokens) that every checkpoint is evaluated on.

        The slice `text` brings `repeats` and `random` with it, drawn from its ids: at once with `vocab_size`, else at
        the first `record`, which reads the size off the logits. bos: the id that starts a sequence. pieces: the text of
        each id, for showing. Raises InvalidInput on tokens that cannot be used, and for a new slice after the first
        recorded step.
        """
        self._check_not_closed()
        if self._sealed:
            raise InvalidInput(
                f"slice {slice!r} comes after the first recorded step; a run's probe set is fixed from then on, "
                "call probe before the loop"
            )
        probes = self._probes
        if bos is not None:
            probes = dataclasses.replace(probes, draw=dataclasses.replace(probes.draw, bos=bos))
        if pieces is not None:
            probes = dataclasses.replace(probes, pieces=tuple(pieces))
        probes = probes.with_slice(slice, tokens)
        self._probes = probes if vocab_size is None else probes.with_vocab_size(vocab_size)

    def due(self, step: int) -> bool:
        """Whether the schedule wants `step` recorded."""
        self._check_not_closed()
        with self._guarded("schedule"):
            return self._schedule.due(_step(step))
        return False

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Queues metrics of a step: numbers, or tensors of one element on any device, which it does not wait for."""
        self._open()
        with self._guarded("metrics"):
            values: dict[str, Any] = {}
            for name, value in metrics.items():
                with self._guarded("metrics"):
                    values[str(name)] = snapshots.scalar(name, value)
            if values:
                self._put(Point(_step(step), values))

    def record(self, step: int, model: Model, *, weights: bool = False, batch_size: int = 16) -> None:
        """Evaluates `model` on the probe set and queues its per-token losses and the scores of its attention heads.

        model: from tokens (batch_size, n_tokens) to logits, an object with `.logits` or a tuple; its mode, device and
        random state stay as they are. weights: send them too, as safetensors. A model whose attention is not seen gets
        losses only.
        """
        self._open()
        with self._guarded("checkpoint"):
            step = _step(step)
            probes = self._fixed_probes(model)
            losses = _evaluate(model, probes, batch_size)
            scores = self._score_heads(model, probes, batch_size)
            if scores:
                self._put(*messages.measurements(self._id, step, scores))
            for name, values in losses.items():
                self._put(*messages.losses(self._id, step, name, probes.slices[name], partial(np.asarray, values)))
            if weights:
                self._put(*messages.weights(self._id, step, _safetensors(model)))

    def record_losses(self, step: int, losses: Any, slice: str = TEXT) -> None:
        """Queues per-token losses in nats that the loop computed itself: (n_sequences, n_tokens − 1) or flat.

        An array, or a tensor on any device, which it does not wait for; the slice's tokens were given to `probe`.
        """
        self._open()
        with self._guarded("losses"):
            step = _step(step)
            if slice not in self._probes.slices:
                known = ", ".join(self._probes.slices) or "none"
                raise InvalidInput(f"slice {slice!r} has no tokens (known: {known}); call recorder.probe first")
            part = self._probes.slices[slice]
            expected = (part.n_sequences, part.n_positions)
            shape, content = snapshots.array(losses)
            if shape not in (expected, (expected[0] * expected[1],)):
                raise InvalidInput(f"losses of slice {slice!r} must be {expected} or flat, not {shape}")
            self._seal()
            waits = snapshots.on_device(losses)
            self._put(*messages.losses(self._id, step, slice, part, content, waits=waits))

    # Opening and closing.

    def _check_not_closed(self) -> None:
        if self._state is State.CLOSED:
            raise RecorderClosed(f"the recorder of run {self.run_id} is closed; open a new one to go on recording")

    def _open(self) -> None:
        """Starts to send, at the first use."""
        if self._state is State.OPEN:
            return
        with self._changing_state:
            self._check_not_closed()
            if self._sender is not None:
                return
            self._sender = Sender(self._routes(), self._connect())
            self._outbox.on_failure = self._sender.note_failure
            self._state = State.OPEN
            if self._resume_from is None:
                self._put_needed(*messages.run_created(self._id, self._name, self._config, self._tags))
            else:
                self._put_needed(*messages.run_resumed(self._id, self._resume_from))
            self._sender.start()
            atexit.register(self._at_exit)

    def _connect(self) -> httpx.Client:
        return connect(self.url, self._token, self._http_transport)

    def _routes(self) -> Iterable[Route]:
        """Where the queue lies and goes; what was left on the spool is sent too, of this run before anything new."""
        segment = 0 if self._is_new else None
        series = messages.series_path(self._id)
        if self._spool is None:
            return [Route(self._outbox, series, segment)]
        about = {"url": self.url, "run": self.run_id, "segment": segment}
        try:
            spool = Spool(Journal.create(self._spool, about), self._max_bytes)
        except OSError as error:
            message = f"the spool {self._spool} cannot be written ({error.strerror or error})"
            if self._strict:
                raise Unavailable(f"{message}; name another folder, or None to keep the queue in memory") from error
            logger.error("phasewatch: %s; what is not sent yet is in memory, and lost with this process", message)
            self._max_bytes = min(self._max_bytes, MAX_BYTES_IN_MEMORY)
            self._outbox = Outbox(self._max_bytes)
            return [Route(self._outbox, series, segment)]
        spool.start()
        self._outbox, self._earlier = spool, Earlier(self._spool, self.url, self._connect)
        return self._earlier.routes_of(self.run_id, Route(spool, series, segment))

    def _close(self, failure: str | None) -> None:
        with self._changing_state:
            was, self._state = self._state, State.CLOSED
        if was is not State.OPEN or self._sender is None:
            return
        atexit.unregister(self._at_exit)
        self._put_needed(*messages.run_ended(self._id, failure))
        self._end(self._sender)

    def _end(self, sender: Sender) -> None:
        """Waits for the queue, then stops sending it."""
        if sender.is_alive:
            self._outbox.wait_empty(self._flush_timeout)
        n_lost = self._outbox.close()
        sender.stop()
        if self._earlier is not None:
            self._earlier.stop()
        if n_lost:
            self._dropped += n_lost
            logger.error(
                "phasewatch: %d messages of run %s are lost: the server at %s did not take them within %g s of closing",
                n_lost, self.run_id, self.url, self._flush_timeout,
            )  # fmt: skip
        elif isinstance(self._outbox, Spool) and len(self._outbox):
            logger.warning(
                "phasewatch: %d messages of run %s were not sent; they wait in %s for the next recorder with this "
                "spool, or for `phasewatch send %s`",
                len(self._outbox), self.run_id, self._outbox.folder, self._spool,
            )  # fmt: skip

    def _at_exit(self) -> None:
        """The process ends with the recorder open: what is queued is sent, and the run stays as it is."""
        logger.warning("phasewatch: the recorder of run %s was never closed; use it in a `with`", self.run_id)
        if self._sender is not None:
            self._end(self._sender)

    # Queueing.

    def _put(self, *items: Item) -> None:
        """Queues what may be lost where the queue is full, which is said and counted."""
        for item in items:
            if self._outbox.put(item):
                continue
            self._dropped += 1
            kind = item.kind if isinstance(item, Message) else "metrics"
            message = (
                f"the queue of run {self.run_id} is full ({self._max_bytes:,} bytes): {self.url} takes too little; "
                f"{kind} dropped, {self._dropped} messages so far"
            )
            if self._strict:
                raise TooLarge(message)
            if str(self._dropped).rstrip("0") == "1":  # at 1, 10, 100 …
                logger.error("phasewatch: %s", message)

    def _put_needed(self, *items: Item) -> None:
        """Queues what others rest on, however full the queue is."""
        for item in items:
            self._outbox.put(item, beyond_bound=True)

    # The probe set, and what is computed on it.

    def _fixed_probes(self, model: Model) -> ProbeSet:
        """The run's probe set, which is fixed from now on."""
        if not self._probes.slices:
            raise InvalidInput("there are no tokens to record on; call recorder.probe(tokens) before the loop")
        if not self._sealed and self._probes.vocab_size is None:
            self._probes = self._probes.with_vocab_size(_vocab_size(model, self._probes))
        self._seal()
        return self._probes

    def _seal(self) -> None:
        """Sends the probe set before anything recorded on it."""
        if self._sealed:
            return
        self._sealed = True
        self._put_needed(*messages.probe_set(self._id, self._probes))

    def _score_heads(self, model: Model, probes: ProbeSet, batch_size: int) -> dict[str, tuple[int, HeadScores]]:
        """Head scores with their versions, or none: losses are worth recording without them."""
        if self._attention_unseen:
            return {}
        from phasewatch.measures import registry, score_heads

        with self._guarded("head scores"):
            try:
                scores = score_heads(model, probes, batch_size=batch_size)
            except AttentionNotSeen as error:
                self._attention_unseen = True
                logger.warning("phasewatch: run %s is recorded without head scores: %s", self.run_id, error)
            else:
                return {name: (registry.get(name).version, found) for name, found in scores.items()}
        return {}

    # What goes wrong.

    @contextmanager
    def _guarded(self, kind: str) -> Iterator[None]:
        """Keeps errors from the training loop, unless it wants them."""
        if self._strict:
            self._raise_refusal()
        try:
            yield
        except RecorderClosed:
            raise
        except Exception as error:  # whatever a model or a value does, the training goes on
            if self._strict:
                raise
            self._failed_here += 1
            known, key = isinstance(error, PhasewatchError), (kind, type(error))
            level = logging.DEBUG if key in self._reported else logging.ERROR
            self._reported.add(key)
            text = f"{error}" if known else f"{type(error).__name__}: {error}"
            logger.log(level, "phasewatch: %s not recorded: %s (more like it is counted, not shown)", kind, text,
                       exc_info=None if known else error)  # fmt: skip

    def _raise_refusal(self) -> None:
        """Raises the oldest refusal of the server that was not raised yet."""
        if self._sender is not None and self._sender.errors:
            raise self._sender.errors.popleft()


def _evaluate(model: Model, probes: ProbeSet, batch_size: int) -> dict[str, NDArray[np.float32]]:
    """Per-token losses in nats by slice, each (n_sequences, n_positions)."""
    from phasewatch.measures import token_losses
    from phasewatch.measures.evaluation import original

    inner = original(model)
    return {name: token_losses(inner, part.tokens, batch_size=batch_size) for name, part in probes.slices.items()}


def _vocab_size(model: Model, probes: ProbeSet) -> int:
    """How many token ids the model gives logits for."""
    from phasewatch.measures.evaluation import batches_of, evaluating, logits_of, original

    inner, part = original(model), next(iter(probes.slices.values()))
    with evaluating(inner):
        batch = next(batches_of(inner, part.tokens[:1], 1))
        return int(logits_of(inner(batch), batch).shape[-1])


def _safetensors(model: Model) -> bytes:
    """The model's tensors; those that share memory are written once each."""
    from phasewatch.measures.evaluation import original

    try:
        from safetensors.torch import save
    except ModuleNotFoundError as error:
        raise InvalidInput("weights need the package safetensors: pip install safetensors") from error
    inner: Any = original(model)
    if not hasattr(inner, "state_dict"):
        raise InvalidInput(f"weights: {type(inner).__name__} has no state_dict; give a torch.nn.Module")
    tensors = {name: value for name, value in inner.state_dict().items() if hasattr(value, "detach")}
    return save({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()})


def _as_id(run_id: UUID | str) -> UUID:
    try:
        return run_id if isinstance(run_id, UUID) else UUID(run_id)
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidInput(f"run_id {run_id!r} is no UUID; give a recorder's run_id, or leave it out") from error


def _step(step: int) -> int:
    """`step` as an int; also from an integer array or tensor of one element."""
    number = operator.index(step)
    if number < 0:
        raise InvalidInput(f"step {number} is negative; a step is the number of optimizer steps completed")
    return number
