"""How arrays become bytes in the database: losses in blocks of 8,192 tokens, everything else whole.

A codec's name says what it does: number format, rounding (r12: 12 mantissa bits kept), byte shuffle, compressor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from phasewatch.errors import InvalidInput

BLOCK_TOKENS = 8_192
DEFAULT_CODEC = "float32r12-shuffle-zstd"
EXACT_CODEC = "float32-zstd"
CODECS = (DEFAULT_CODEC, EXACT_CODEC)

_LEVEL = 3
_DROPPED_BITS = 23 - 12
_LITTLE_FLOAT32 = np.dtype("<f4")

FloatArray = npt.NDArray[np.float32]


def array_sha256(values: npt.NDArray[Any]) -> str:
    """SHA-256 of the little-endian C-ordered float32 array, the identity of a loss slice."""
    return hashlib.sha256(np.ascontiguousarray(values, _LITTLE_FLOAT32).tobytes()).hexdigest()


def encode_blocks(values: FloatArray, codec: str = DEFAULT_CODEC) -> Iterator[bytes]:
    """The payloads of a flat float32 array, one for each 8,192 tokens. Raises InvalidInput for an unknown codec."""
    values = np.ascontiguousarray(values.reshape(-1), _LITTLE_FLOAT32)
    if codec == DEFAULT_CODEC:
        values = round_mantissa(values)
    elif codec != EXACT_CODEC:
        raise InvalidInput(f"loss codec {codec!r} is not known; use one of {', '.join(CODECS)}")
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    for start in range(0, values.size, BLOCK_TOKENS):
        block = values[start : start + BLOCK_TOKENS]
        yield compressor.compress(_shuffle(block) if codec == DEFAULT_CODEC else block.tobytes())


def decode_block(payload: bytes, codec: str) -> FloatArray:
    """The float32 values of one block, in token order."""
    raw = zstandard.ZstdDecompressor().decompress(payload, max_output_size=BLOCK_TOKENS * 4)
    if codec == DEFAULT_CODEC:
        return np.frombuffer(raw, np.uint8).reshape(4, -1).T.copy().view(_LITTLE_FLOAT32).reshape(-1)
    if codec == EXACT_CODEC:
        return np.frombuffer(raw, _LITTLE_FLOAT32)
    raise InvalidInput(f"loss codec {codec!r} is not known; use one of {', '.join(CODECS)}")


def round_mantissa(values: FloatArray) -> FloatArray:
    """float32 rounded to 12 mantissa bits, ties to even: relative error at most 2⁻¹³ = 1.3e-4.

    NaN and infinities stay what they are; the largest finite values are cut instead of becoming infinite.
    """
    bits = np.ascontiguousarray(values, _LITTLE_FLOAT32).view(np.uint32)
    half = np.uint32((1 << (_DROPPED_BITS - 1)) - 1)
    odd = (bits >> np.uint32(_DROPPED_BITS)) & np.uint32(1)
    mask = np.uint32(0xFFFFFFFF << _DROPPED_BITS & 0xFFFFFFFF)
    rounded = ((bits + half + odd) & mask).view(_LITTLE_FLOAT32)
    finite = np.isfinite(values)
    cut = (bits & mask).view(_LITTLE_FLOAT32)
    return np.where(finite, np.where(np.isfinite(rounded), rounded, cut), values)


def _shuffle(block: FloatArray) -> bytes:
    """Bytes regrouped by significance: equal exponents lie side by side and compress."""
    return np.ascontiguousarray(block.view(np.uint8).reshape(-1, 4).T).tobytes()


def pack(values: npt.ArrayLike, dtype: str) -> bytes:
    """An array of any shape as zstd-compressed little-endian bytes of `dtype` (such as "<f8" or "<i4")."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(np.ascontiguousarray(values, dtype).tobytes())


def unpack(payload: bytes, dtype: str, shape: tuple[int, ...] = (-1,)) -> npt.NDArray[Any]:
    """The inverse of `pack`."""
    return np.frombuffer(zstandard.ZstdDecompressor().decompress(payload), dtype).reshape(shape)
