"""Speaking to a phasewatch server: its address, the token, and its answers as values or errors.

Apart from the recorder's transport, which never raises, and from the command, which never keeps anything: both open
their connection here and read refusals here, so that a server's no reads the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from phasewatch.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PhasewatchError,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)

DEFAULT_URL: Final = "http://127.0.0.1:8000"
API: Final = "/api/v1"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_PAGE: Final = 200  # items asked for at once, the most a list gives
_ERRORS: Final[Mapping[int, type[PhasewatchError]]] = {
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMedia,
    422: InvalidInput,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def server_url(url: str | None) -> str:
    """`url`, or PHASEWATCH_URL, or a server on this machine; without a slash at its end. Raises InvalidInput."""
    given = (url or os.environ.get("PHASEWATCH_URL") or DEFAULT_URL).rstrip("/")
    try:
        parsed = httpx.URL(given)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{given!r} is no address of a server: {error}; give one like {DEFAULT_URL}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(f"{given!r} is no address of a server; give one like {DEFAULT_URL}")
    return given


def server_token(token: str | None) -> str | None:
    """`token`, or PHASEWATCH_TOKEN, or the content of the file PHASEWATCH_TOKEN_FILE. Raises InvalidInput."""
    given, path = token or os.environ.get("PHASEWATCH_TOKEN"), os.environ.get("PHASEWATCH_TOKEN_FILE")
    if not given and path:
        try:
            given = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"PHASEWATCH_TOKEN_FILE: {path} cannot be read: {error}") from error
    given = given.strip() if given else None
    if given and not (given.isascii() and given.isprintable()):
        raise InvalidInput("the token holds characters that no token has; copy it again, on one line")
    return given or None


def connect(url: str, token: str | None, transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """An HTTP client of the server at `url`, its paths below /api/v1; `transport` replaces the network."""
    return httpx.Client(
        base_url=url + API,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=httpx.Timeout(30.0, connect=5.0),
        transport=transport,
        # A proxy is never the way to a server on this machine, whatever the environment says
        trust_env=httpx.URL(url).host not in _LOOPBACK,
    )


def error_of(response: httpx.Response) -> PhasewatchError:
    """The error that a refused request stands for, with the server's own words."""
    kind = _ERRORS.get(response.status_code, PhasewatchError)
    if response.status_code in (401, 403):
        return kind(
            f"the server at {_origin(response)} refuses: {_detail(response)}; "
            "give a token that may do this: --token, Recorder(token=…) or PHASEWATCH_TOKEN"
        )
    return kind(_detail(response))


def _detail(response: httpx.Response) -> str:
    """What a problem+json says, each wrong field included; the status line of any other body."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("detail"), str):
        return f"{_origin(response)} answered {response.status_code} {response.reason_phrase}, not as phasewatch does"
    fields = problem.get("errors")
    wrong = [
        f"{'.'.join(map(str, item.get('loc', ())))}: {item.get('msg')}"
        for item in (fields if isinstance(fields, list) else ())
        if isinstance(item, dict) and str(item.get("msg")) not in problem["detail"]
    ]
    return "; ".join([problem["detail"], *wrong])


def _origin(response: httpx.Response) -> str:
    url = response.request.url
    return f"{url.scheme}://{url.netloc.decode()}"


class Client:
    """Requests that wait for their answer and raise its error: what the command is made of."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = server_url(url)
        self._token = server_token(token)
        self._transport = transport
        self._http = self.connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def connection(self) -> httpx.Client:
        """A further connection, whose answers are whoever asked for it to judge."""
        return connect(self.url, self._token, self._transport)

    def get(self, path: str, **params: Any) -> Any:
        """The JSON at `path`, below /api/v1. Parameters that are None are left out."""
        return self._json("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON that the server answers to `body`."""
        return self._json("POST", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        """The JSON that the server answers to the change `body` of what lies at `path`."""
        return self._json("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        """The JSON that the server answers to the deletion of what lies at `path`."""
        return self._json("DELETE", path)

    def download(
        self, path: str, target: Path, tell: Callable[[int], None] = lambda n_bytes: None, **params: Any
    ) -> int:
        """Writes what lies at `path` into a new file, which is there only once all of it is; its bytes.

        `tell` hears how many have come.
        """
        aside = target.with_name(f".{target.name}.part")
        try:
            with self._http.stream("GET", path, params=params) as response, aside.open("wb") as file:
                if not response.is_success:
                    response.read()
                    raise error_of(response)
                for piece in response.iter_bytes():
                    file.write(piece)
                    tell(file.tell())
                size = file.tell()
            aside.replace(target)
        except httpx.TransportError as error:
            raise Unavailable(
                f"{self.url} did not send all of it ({error or type(error).__name__}); try again"
            ) from error
        finally:
            aside.unlink(missing_ok=True)
        return size

    def items(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        cursor = None
        while True:
            page = self.get(path, limit=_PAGE, cursor=cursor, **params)
            yield from page["items"]
            cursor = page.get("next")
            if cursor is None:
                return

    def _json(self, method: str, path: str, **content: Any) -> Any:
        try:
            response = self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise Unavailable(
                f"no phasewatch server answers at {self.url} ({error or type(error).__name__}); "
                "start one with `python -m server`, or name another with --url or PHASEWATCH_URL"
            ) from error
        if not response.is_success:
            raise error_of(response)
        try:
            return response.json()
        except ValueError as error:
            raise PhasewatchError(f"{self.url}{API}{path} answered no JSON; is it a phasewatch server?") from error
