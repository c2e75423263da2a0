"""Request bodies: how large they may be, and which compression is undone, before any route sees them.

A limit that trusts Content-Length alone lets chunked bodies pass, and one on compressed bytes alone lets a bomb pass;
here the bytes are counted as they arrive and again as they unfold.
"""

from __future__ import annotations

import io
import zlib

import zstandard
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phasewatch.errors import InvalidInput, PhasewatchError, TooLarge, UnsupportedMedia
from server.problems import problem_of, status_of

DRAINED_BYTES = 2**30
"""How much of a refused body is read and thrown away: a connection closed on unread bytes loses the answer too."""

_PIECE = 2**20
_MAX_WINDOW = 2**27


class BodyLimit:
    """ASGI middleware: a body of more than `max_bytes`, compressed or not, is answered 413 without being kept."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limited = _Limited(receive, self.max_bytes)
        try:
            await limited.check_length(headers)
            encoding = headers.get("content-encoding", "identity").strip().lower()
            if encoding != "identity":
                receive = await _decoded(limited, encoding)
            else:
                receive = limited.receive
        except PhasewatchError as error:
            await problem_of(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class _Limited:
    """A body that is counted while it is read."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self.max_bytes = max_bytes
        self._seen = 0

    async def check_length(self, headers: Headers) -> None:
        """Refuses a body that says itself that it is too large; one that waits for 100 Continue is never read."""
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:19]) > self.max_bytes:
            if "expect" not in headers:
                await self._drain()
            raise self._too_large()

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self.max_bytes:
            if message.get("more_body", False):
                await self._drain()
            error = self._too_large()
            raise HTTPException(status_of(error), str(error))
        return message

    async def read(self) -> bytes:
        """The whole body; raises TooLarge, and InvalidInput where the client went away."""
        parts = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise InvalidInput("the request ended before its body did")
            parts.append(message.get("body", b""))
            self._seen += len(parts[-1])
            more = message.get("more_body", False)
            if self._seen > self.max_bytes:
                if more:
                    await self._drain()
                raise self._too_large()
        return b"".join(parts)

    async def _drain(self) -> None:
        drained, more = 0, True
        while more and drained < DRAINED_BYTES:
            message = await self._receive()
            drained += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self.max_bytes} bytes; raise PHASEWATCH_MAX_BODY_BYTES or send less")


async def _decoded(limited: _Limited, encoding: str) -> Receive:
    if encoding not in ("gzip", "zstd"):
        raise UnsupportedMedia(f"Content-Encoding {encoding[:40]!r} is not known; send gzip, zstd or none")
    compressed = await limited.read()
    unpack = ungzip if encoding == "gzip" else unzstd
    body = await to_thread.run_sync(unpack, compressed, limited.max_bytes)
    waiting = [body]

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await limited.receive()

    return receive


def ungzip(compressed: bytes, max_bytes: int) -> bytes:
    """What a gzip body holds. Raises TooLarge once it unfolds beyond the limit, InvalidInput where it is damaged."""
    stream = zlib.decompressobj(wbits=31)
    try:
        body = stream.decompress(compressed, max_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not gzip: {error}") from error
    _check_unfolded(len(body), max_bytes)
    if not stream.eof or stream.unused_data:
        raise InvalidInput("the body is not one whole gzip stream")
    return body


def unzstd(compressed: bytes, max_bytes: int) -> bytes:
    """What a zstd body holds. Raises TooLarge once it unfolds beyond the limit, InvalidInput where it is damaged."""
    whole = io.BytesIO()
    try:
        with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(compressed) as stream:
            while piece := stream.read(_PIECE):
                whole.write(piece)
                _check_unfolded(whole.tell(), max_bytes)
    except zstandard.ZstdError as error:
        raise InvalidInput(f"the body is not zstd: {error}") from error
    return whole.getvalue()


def _check_unfolded(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLarge(f"the compressed body unfolds to more than {max_bytes} bytes; send less at once")
