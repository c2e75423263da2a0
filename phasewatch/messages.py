"""What each thing that a recorder does becomes on the wire: requests of the API, in the order they must arrive.

Apart from the recorder, which decides when, and from the outbox, which does not look inside. Bodies that are large or
wait for a device are made in the sender's thread.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from phasewatch.outbox import NPY, SAFETENSORS, Gate, Message, json_body
from phasewatch.probes import ProbeSet, Slice

if TYPE_CHECKING:
    from phasewatch.measures.measurement import Measurement

_FAILURE_CHARACTERS: Final = 2000
_ON_PROBES: Final = (Gate.RUN, Gate.PROBES)
_JSON_NUMBER_BYTES: Final = 22  # most that a float64 takes, with its comma


def run_created(run_id: UUID, name: str, config: Mapping[str, Any], tags: list[str]) -> list[Message]:
    """A new run; where it exists already with the same content, nothing."""
    content = {"id": str(run_id), "name": name, "training": None, "config": jsonable(config), "tags": tags}
    return [_small("run", "POST", "/runs", content, needs=(), opens=Gate.RUN)]


def run_resumed(run_id: UUID, from_step: int) -> list[Message]:
    """A segment from `from_step` on, which hides older rows; a run that had failed is running again."""
    return [
        # Where the run was never marked as ended there is nothing to resume
        _small("run", "POST", f"/runs/{run_id}/resume", {}, needs=(), may_fail=True),
        _small(
            "segment", "POST", f"/runs/{run_id}/segments", {"from_step": from_step},
            needs=(), opens=Gate.RUN, begins_segment=True,
        ),
    ]  # fmt: skip


def run_ended(run_id: UUID, failure: str | None) -> list[Message]:
    """The run completed, or failed with a text."""
    if failure is not None and len(failure) > _FAILURE_CHARACTERS:
        failure = failure[: _FAILURE_CHARACTERS - 1] + "…"
    ending = {"status": "completed"} if failure is None else {"status": "failed", "failure": failure}
    return [_small("end of the run", "PATCH", f"/runs/{run_id}", ending)]


def series_path(run_id: UUID | str) -> str:
    """Where a run's metrics go."""
    return f"/runs/{run_id}/series"


def probe_set(run_id: UUID, probes: ProbeSet) -> list[Message]:
    """The probe set, and that the run is recorded on it."""
    size = sum(8 * part.tokens.size for part in probes.slices.values())
    return [
        Message("probe set", "POST", "/probe-sets", lambda: _probe_set_json(probes), size, opens=Gate.PROBES),
        _small(
            "probe set", "PUT", f"/runs/{run_id}/probe-set", {"probe_set": probes.sha256},
            needs=_ON_PROBES, opens=Gate.PROBES,
        ),
    ]  # fmt: skip


def losses(
    run_id: UUID,
    step: int,
    name: str,
    part: Slice,
    content: Callable[[], NDArray[np.float32]],
    *,
    waits: bool = False,
) -> list[Message]:
    """Losses in nats of slice `name`; content gives n_sequences × n_positions of them in any shape.

    waits: it waits for a device.
    """
    shape = (part.n_sequences, part.n_positions)
    return [
        Message(
            "losses", "PUT", f"/runs/{run_id}/losses/{name}/{step}", lambda: _npy(content().reshape(shape)),
            4 * shape[0] * shape[1], NPY, needs=_ON_PROBES, in_segment=True, waits=waits,
        )
    ]  # fmt: skip


def measurements(run_id: UUID, step: int, measured: Mapping[str, tuple[int, Measurement]]) -> list[Message]:
    """Measures of one checkpoint, name -> (version, values)."""
    content = {
        name: {
            "version": version,
            "values": _nested(one.values),
            "chance": one.chance,
            "interval": None if one.interval is None else _nested(one.interval),
        }
        for name, (version, one) in measured.items()
    }
    size = sum(3 * _JSON_NUMBER_BYTES * one.values.size for _, one in measured.values())
    body = json_body({"step": step, "measurements": content})
    path = f"/runs/{run_id}/measurements"
    return [Message("head scores", "POST", path, body, size, needs=_ON_PROBES, in_segment=True)]


def weights(run_id: UUID, step: int, safetensors: bytes) -> list[Message]:
    """A checkpoint and its weights."""
    path = f"/runs/{run_id}/checkpoints"
    checkpoint = {"step": step, "tokens_seen": None, "model": None}
    return [
        _small("checkpoint", "POST", path, checkpoint, in_segment=True),
        Message(
            "weights", "PUT", f"{path}/{step}/weights", lambda: safetensors, len(safetensors), SAFETENSORS,
            in_segment=True,
        ),
    ]  # fmt: skip


def jsonable(value: Any) -> Any:
    """A copy of the caller's settings as JSON can hold them; anything else becomes its text."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(inner) for inner in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _small(kind: str, method: str, path: str, content: Mapping[str, Any], **more: Any) -> Message:
    body = json_body(content)
    return Message(kind, method, path, body, len(body()), **more)


def _probe_set_json(probes: ProbeSet) -> bytes:
    """The body of POST /probe-sets, made row by row: one long call would keep the training from running."""
    slices = []
    for name, part in probes.slices.items():
        rows = b",".join(json.dumps(row.tolist(), separators=(",", ":")).encode() for row in part.tokens)
        head = f'{json.dumps(name)}: {{"layout": {json.dumps(part.layout.to_dict())}, "tokens": ['
        slices.append(head.encode() + rows + b"]}")
    more = {"vocab_size": probes.vocab_size, "pieces": probes.pieces, "absent": dict(probes.absent)}
    return b'{"slices": {' + b", ".join(slices) + b"}, " + json.dumps(more).encode()[1:]


def _npy(values: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values, dtype="<f4"), allow_pickle=False)
    return buffer.getvalue()


def _nested(values: NDArray[np.float64]) -> Any:
    """Nested lists, None where a value is not finite: JSON has no NaN."""
    as_objects = values.astype(object)
    as_objects[~np.isfinite(values)] = None
    return as_objects.tolist()
