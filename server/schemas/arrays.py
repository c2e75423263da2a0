"""Arrays on the wire: .npy bodies read without ever unpickling, and which form an Accept header asks for.

numpy.load trusts the header; here the header is checked against the bytes that came before anything is allocated.
"""

from __future__ import annotations

import ast
import io
import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from phasewatch.errors import InvalidInput, TooLarge, UnsupportedMedia
from server.problems import NotAcceptable

NPY = "application/x-npy"
OCTETS = "application/octet-stream"
JSON = "application/json"

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 4_096
_FLOATS = {f"{order}f{size}" for order in "<>=" for size in (2, 4, 8)}
_KEYS = {"descr", "fortran_order", "shape"}


def read_npy(body: bytes, content_type: str | None, max_bytes: int) -> npt.NDArray[np.floating]:
    """The array of a .npy body: float16, float32 or float64.

    Raises UnsupportedMedia for other kinds of bytes and for arrays of objects, TooLarge where the header claims more
    than `max_bytes`, InvalidInput where header and bytes disagree.
    """
    media = (content_type or NPY).partition(";")[0].strip().lower()
    if media not in (NPY, OCTETS) or not body.startswith(_MAGIC):
        raise UnsupportedMedia(f"expected a {NPY} body, not {len(body)} bytes of {media[:80]} {describe(body)}")
    header, start = _header(body)
    dtype, shape = _dtype(header["descr"]), header["shape"]
    claimed, given = math.prod(shape) * dtype.itemsize, len(body) - start
    if claimed > max_bytes:
        raise TooLarge(f"the .npy header claims shape {_short(shape)}, {claimed} bytes; at most {max_bytes} are taken")
    if claimed != given:
        raise InvalidInput(f"the .npy header claims shape {_short(shape)}, {claimed} bytes, but {given} follow it")
    flat = np.frombuffer(body, dtype, offset=start)
    return flat.reshape(shape, order="F" if header["fortran_order"] else "C")


def write_npy(values: npt.NDArray[Any]) -> bytes:
    """An array as a .npy body."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def describe(body: bytes) -> str:
    """What bytes look like, for a message: pickles and archives are named, because they are never read."""
    if body.startswith(b"\x80"):
        return "(a pickle, which is never read)"
    if body.startswith(b"PK"):
        return "(a zip archive, such as .npz or torch.save writes; it is never read)"
    return f"(beginning with {body[:8]!r})"


def wants_npy(accept: str | None) -> bool:
    """True where an Accept header prefers .npy to JSON. Raises NotAcceptable where it takes neither."""
    return chosen_media(accept, (JSON, NPY)) == NPY


def chosen_media(accept: str | None, offered: Sequence[str]) -> str:
    """Of the media types offered the one that an Accept header likes best, the first of several.

    Raises NotAcceptable where it takes none of them.
    """
    ranges = [part.partition(";") for part in (accept or "*/*").lower().split(",")]
    quality = {media.strip(): _quality(parameters) for media, _, parameters in ranges}
    everything = quality.get("application/*", quality.get("*/*", 0.0))
    best = max(offered, key=lambda media: quality.get(media, everything))
    if not quality.get(best, everything):
        raise NotAcceptable(f"this is answered as {' or '.join(offered)}, not as {str(accept)[:80]}")
    return best


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _header(body: bytes) -> tuple[dict[str, Any], int]:
    """The header of a .npy file, its three entries of the right types, and where the values begin."""
    version = body[6:7]
    size = struct.calcsize("<H") if version == b"\x01" else struct.calcsize("<I")
    start = 8 + size
    if version not in (b"\x01", b"\x02", b"\x03") or len(body) < start:
        raise InvalidInput(f"the .npy body has version {version!r} or ends within its first {start} bytes")
    length = int.from_bytes(body[8:start], "little")
    if length > _MAX_HEADER or len(body) < start + length:
        raise InvalidInput(f"the .npy header has {length} bytes; at most {_MAX_HEADER} are taken, all of them sent")
    try:
        header = _read_header(body[start : start + length])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InvalidInput("the .npy header is not a dictionary of descr, fortran_order and shape") from error
    if not isinstance(header, dict) or set(header) != _KEYS or not _is_shape(header["shape"]):
        raise InvalidInput("the .npy header is not a dictionary of descr, fortran_order and shape")
    return header, start + length


@lru_cache(maxsize=64)  # a recorder sends the same one every time
def _read_header(text: bytes) -> Any:
    return ast.literal_eval(text.decode("utf-8").strip())


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, tuple) or len(shape) > 32:
        return False
    return all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63 for size in shape)


def _dtype(description: Any) -> np.dtype[np.floating]:
    if "O" in str(description):
        raise UnsupportedMedia("an array of objects is never read; send float16, float32 or float64")
    if not isinstance(description, str) or description not in _FLOATS:
        raise InvalidInput(f"the array has dtype {_short(description)}; expected float16, float32 or float64")
    dtype: np.dtype[np.floating] = np.dtype(description)
    return dtype


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:80] + "…"
