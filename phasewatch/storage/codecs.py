"""How arrays become bytes in the database: losses in blocks of 8,192 tokens, everything else whole.

A codec's name says what it does: number format, rounding (r12: 12 mantissa bits kept), byte shuffle, compressor.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from phasewatch.errors import InvalidInput

BLOCK_TOKENS = 8_192
DEFAULT_CODEC = "float32r12-shuffle-zstd"
EXACT_CODEC = "float32-zstd"
SMALL_CODEC = "float16-shuffle-zstd"
CODECS = (DEFAULT_CODEC, EXACT_CODEC, SMALL_CODEC)

_LEVEL = 3
_DROPPED_BITS = 23 - 12
_KEPT_BITS = np.uint32(0xFFFFFFFF << _DROPPED_BITS & 0xFFFFFFFF)
_INFINITY = np.uint32(0x7F800000)  # and beyond it NaN
_LARGEST = np.uint32(0x7F800000 - (1 << (_DROPPED_BITS - 1)))  # from here on rounding would give infinity
_of_thread = threading.local()
_LITTLE_FLOAT32 = np.dtype("<f4")

FloatArray = npt.NDArray[np.float32]


def array_sha256(values: npt.NDArray[Any]) -> str:
    """SHA-256 of the little-endian C-ordered float32 array, the identity of a loss slice."""
    return hashlib.sha256(np.ascontiguousarray(values, _LITTLE_FLOAT32).data.cast("B")).hexdigest()


def encode_blocks(values: FloatArray, codec: str = DEFAULT_CODEC) -> Iterator[bytes]:
    """The payloads of a flat float32 array, one for each 8,192 tokens. Raises InvalidInput for an unknown codec."""
    values = np.ascontiguousarray(values.reshape(-1), _LITTLE_FLOAT32)
    if codec == DEFAULT_CODEC:
        values = round_mantissa(values)
    elif codec not in CODECS:
        raise InvalidInput(f"loss codec {codec!r} is not known; use one of {', '.join(CODECS)}")
    compressor = _compressor()
    for start in range(0, values.size, BLOCK_TOKENS):
        yield compressor.compress(_to_bytes(values[start : start + BLOCK_TOKENS], codec))


def encode_block(values: FloatArray, codec: str) -> bytes:
    """The payload of at most 8,192 float32 values. Raises InvalidInput for an unknown codec."""
    (payload,) = encode_blocks(values, codec)
    return payload


def _to_bytes(block: FloatArray, codec: str) -> bytes:
    match codec:
        case "float32r12-shuffle-zstd":
            return _shuffle(block)
        case "float16-shuffle-zstd":
            return _to_small(block)
    return block.tobytes()


def decode_block(payload: bytes, codec: str, offsets: npt.NDArray[np.int64] | None = None) -> FloatArray:
    """The float32 values of one block, in token order; with `offsets`, of the tokens that stand there in the block."""
    raw = _decompressor().decompress(payload, max_output_size=BLOCK_TOKENS * 4 + 1)
    if codec == DEFAULT_CODEC:
        return _unshuffle(raw, offsets)
    if codec == EXACT_CODEC:
        values: FloatArray = np.frombuffer(raw, _LITTLE_FLOAT32)
        return values if offsets is None else values[offsets]
    if codec == SMALL_CODEC:
        return _from_small(raw, offsets)
    raise InvalidInput(f"loss codec {codec!r} is not known; use one of {', '.join(CODECS)}")


def _to_small(block: FloatArray) -> bytes:
    """A byte that says how the values follow: 2, bytes of float16 regrouped by significance; 4, of float32."""
    with np.errstate(over="ignore"):
        small = block.astype("<f2")
    if bool((np.isfinite(block) & ~np.isfinite(small)).any()):  # beyond 65,504: the block stays as precise as it was
        return b"\x04" + _shuffle(round_mantissa(block))
    return b"\x02" + np.ascontiguousarray(small.view(np.uint8).reshape(-1, 2).T).tobytes()


def _from_small(raw: bytes, offsets: npt.NDArray[np.int64] | None) -> FloatArray:
    if raw[0] == 4:
        return _unshuffle(raw[1:], offsets)
    planes = np.frombuffer(raw, np.uint8, offset=1).reshape(2, -1)
    planes = planes if offsets is None else planes[:, offsets]
    return np.ascontiguousarray(planes.T).view("<f2").reshape(-1).astype(_LITTLE_FLOAT32)


def round_mantissa(values: FloatArray) -> FloatArray:
    """float32 rounded to 12 mantissa bits, ties to even: relative error at most 2⁻¹³ = 1.3e-4.

    NaN and infinities stay what they are; the largest finite values are cut instead of becoming infinite.
    """
    bits = np.ascontiguousarray(values, _LITTLE_FLOAT32).view(np.uint32)
    rounded = bits >> np.uint32(_DROPPED_BITS)
    rounded &= np.uint32(1)  # a tie goes up where the last bit that is kept is odd
    rounded += bits
    rounded += np.uint32((1 << (_DROPPED_BITS - 1)) - 1)
    rounded &= _KEPT_BITS
    magnitude = bits & np.uint32(0x7FFFFFFF)
    if int(magnitude.max(initial=0)) >= _LARGEST:
        rounded = np.where(magnitude >= _INFINITY, bits, np.where(magnitude >= _LARGEST, bits & _KEPT_BITS, rounded))
    return rounded.view(_LITTLE_FLOAT32)


def _shuffle(block: FloatArray) -> bytes:
    """Bytes regrouped by significance: equal exponents lie side by side and compress."""
    return np.ascontiguousarray(block.view(np.uint8).reshape(-1, 4).T).tobytes()


def _unshuffle(raw: bytes, offsets: npt.NDArray[np.int64] | None) -> FloatArray:
    """The inverse of `_shuffle`, for all values or those at `offsets`; four strided copies beat one transposed one."""
    planes = np.frombuffer(raw, np.uint8).reshape(4, -1)
    planes = planes if offsets is None else planes[:, offsets]
    by_value = np.empty((planes.shape[1], 4), np.uint8)
    for significance in range(4):
        by_value[:, significance] = planes[significance]
    return by_value.view(_LITTLE_FLOAT32).reshape(-1)


def _compressor() -> zstandard.ZstdCompressor:
    """This thread's own, as of `_decompressor`."""
    if not hasattr(_of_thread, "compressor"):
        _of_thread.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    found: zstandard.ZstdCompressor = _of_thread.compressor
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's own: making one costs a third of a block, and two threads must not share one."""
    if not hasattr(_of_thread, "decompressor"):
        _of_thread.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _of_thread.decompressor
    return found


def pack(values: npt.ArrayLike, dtype: str) -> bytes:
    """An array of any shape as zstd-compressed little-endian bytes of `dtype` (such as "<f8" or "<i4")."""
    return _compressor().compress(np.ascontiguousarray(values, dtype).tobytes())


def unpack(payload: bytes, dtype: str, shape: tuple[int, ...] = (-1,)) -> npt.NDArray[Any]:
    """The inverse of `pack`."""
    return np.frombuffer(_decompressor().decompress(payload), dtype).reshape(shape)
