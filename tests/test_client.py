from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from phasewatch.client import Client, connect, error_of, server_token, server_url
from phasewatch.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PhasewatchError,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)


def answered(status: int, **content: object) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "http://pw.test/api/v1/runs"), **content)  # type: ignore[arg-type]  # its keywords


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound), (409, Conflict), (413, TooLarge), (415, UnsupportedMedia), (422, InvalidInput),
        (503, Unavailable), (500, PhasewatchError), (401, PhasewatchError),
    ],
)  # fmt: skip
def test_a_refusal_is_the_librarys_error_in_the_servers_words(status: int, kind: type[PhasewatchError]) -> None:
    error = error_of(answered(status, json={"detail": "run 7f3 is odd"}))
    assert type(error) is kind
    assert "run 7f3 is odd" in str(error)


def test_every_wrong_field_is_named_once() -> None:
    problem = {
        "detail": "the request has wrong values; body.name: too long",
        "errors": [{"loc": ["body", "name"], "msg": "too long"}, {"loc": ["body", "tags", 3], "msg": "empty"}],
    }
    assert str(error_of(answered(422, json=problem))) == f"{problem['detail']}; body.tags.3: empty"


@pytest.mark.parametrize("content", [{"text": "<html>"}, {"json": [1]}, {"json": {"detail": [1]}}, {}], ids=str)
def test_an_answer_of_something_else_is_said_to_be_that(content: dict[str, object]) -> None:
    assert str(error_of(answered(307, **content))) == (
        "http://pw.test answered 307 Temporary Redirect, not as phasewatch does"
    )


def test_a_page_that_is_no_json_is_an_error() -> None:
    client = Client("http://pw.test", transport=httpx.MockTransport(lambda request: httpx.Response(200, text="hi")))
    with client, pytest.raises(PhasewatchError, match="answered no JSON"):
        client.get("/runs")


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    assert connect("http://127.0.0.1:8000", None)._mounts == {}  # what httpx keeps its proxies in
    assert connect("http://pw.test:8000", None)._mounts != {}


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_url(None) == "http://127.0.0.1:8000"
    assert server_url("https://pw.test/") == "https://pw.test"
    monkeypatch.setenv("PHASEWATCH_URL", "http://[::1]:9")
    assert server_url(None) == "http://[::1]:9"


@pytest.mark.parametrize("token", ["a\nb", "ключ", "a\x00"])
def test_a_token_that_no_header_can_hold(token: str) -> None:
    with pytest.raises(InvalidInput, match="the token holds characters"):
        server_token(token)


def test_a_token_file_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("PHASEWATCH_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(InvalidInput, match="PHASEWATCH_TOKEN_FILE"):
        server_token(None)
    assert server_token(" kept ") == "kept"
