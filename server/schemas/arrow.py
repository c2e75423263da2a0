"""Losses as Arrow streams, which DataFrame libraries read without a copy.

They are given, not taken: a compressed buffer of an Arrow body says itself how much memory it wants.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from phasewatch.storage.losses import LossHistory

ARROW = "application/vnd.apache.arrow.stream"

_SLICE = [("token", pa.int64()), ("loss", pa.float32())]
_HISTORY = pa.schema([("step", pa.int64()), *_SLICE])


def losses_to_arrow(slice_name: str, step: int, values: npt.NDArray[np.float32]) -> bytes:
    """Losses (n_sequences, n_positions) of a step: columns token, its flat index, and loss, in nats."""
    n_sequences, n_positions = values.shape
    about = {"slice": slice_name, "step": str(step), "n_sequences": str(n_sequences), "n_positions": str(n_positions)}
    schema = pa.schema(_SLICE, metadata=about)
    return _stream(schema, [np.arange(values.size), values.reshape(-1)])


def histories_to_arrow(history: LossHistory) -> bytes:
    """Histories: columns step, token and loss, step by step, the tokens in the order asked for."""
    n_steps, n_tokens = history.values.shape
    columns: list[npt.NDArray[Any]] = [
        np.repeat(history.steps, n_tokens),
        np.tile(history.tokens, n_steps),
        history.values.reshape(-1),
    ]
    return _stream(_HISTORY, columns)


def _stream(schema: Any, columns: list[npt.NDArray[Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table(columns, schema=schema))
    content: bytes = sink.getvalue().to_pybytes()
    return content
