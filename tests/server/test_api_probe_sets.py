"""Probe sets over HTTP: content addresses, tokens with their texts, and what is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from phasewatch.probes import ProbeSet
from phasewatch.storage.database import Database

PATH = "/api/v1/probe-sets"
TEXT = [[0, 1, 2, 3], [3, 2, 1, 0]]


def test_the_same_tokens_have_one_id_the_library_s_own(client: TestClient) -> None:
    body = {"slices": {"text": {"tokens": TEXT}}, "vocab_size": 4, "absent": {"repeats": "too few ids"}}
    answers = [client.post(PATH, json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    created = answers[0].json()
    assert created == answers[1].json()
    assert created["id"] == ProbeSet.from_tokens(np.array(TEXT)).sha256
    assert created["slices"] == {
        "text": {
            "n_sequences": 2,
            "n_tokens": 4,
            "n_positions": 3,
            "layout": {"kind": "text", "bos": None, "copy_length": 0, "n_copies": 0},
        }
    }
    assert created["absent"] == {"repeats": "too few ids"}
    assert created["has_pieces"] is False
    assert client.get(f"{PATH}/{created['id']}").json() == created
    assert client.get(PATH).json() == {"items": [created], "next": None}


def test_a_whole_probe_set_travels_with_its_layouts_and_pieces(client: TestClient) -> None:
    rng = np.random.default_rng(0)
    pieces = [chr(97 + index % 26) * (1 + index // 26) for index in range(100)]
    probes = ProbeSet.from_tokens(rng.integers(0, 100, (3, 40)), vocab_size=100, n_repeats=4, copy_length=5)
    slices = {
        name: {"tokens": part.tokens.tolist(), "layout": part.layout.to_dict()} for name, part in probes.slices.items()
    }
    created = client.post(PATH, json={"slices": slices, "vocab_size": 100, "pieces": pieces}).json()
    assert created["id"] == probes.sha256
    assert created["slices"]["repeats"]["layout"] == probes.slices["repeats"].layout.to_dict()
    shown = client.get(f"{PATH}/{created['id']}/slices/repeats").json()
    assert shown["tokens"] == probes.slices["repeats"].tokens.tolist()
    assert shown["texts"] == [[pieces[token] for token in sequence] for sequence in shown["tokens"]]
    answer = client.get(f"{PATH}/{created['id']}/slices/repeats", headers={"Accept": "application/x-npy"})
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), probes.slices["repeats"].tokens)


def test_without_pieces_there_are_no_texts(client: TestClient) -> None:
    created = client.post(PATH, json={"slices": {"mine": {"tokens": TEXT}}}).json()
    assert created["slices"]["mine"]["layout"]["kind"] == "user"
    assert client.get(f"{PATH}/{created['id']}/slices/mine").json() == {"tokens": TEXT, "texts": None}
    missing = client.get(f"{PATH}/{created['id']}/slices/other")
    assert missing.status_code == 404
    assert "mine" in missing.json()["detail"]


WORDS = ("self", ".", "x", "\n", "אב", "👩‍🚀", " = ")


def spelled(client: TestClient, sequences: list[list[int]]) -> str:
    body = {"slices": {"text": {"tokens": sequences}}, "pieces": WORDS}
    return f"{PATH}/{client.post(PATH, json=body).json()['id']}/slices/text"


def test_a_stretch_of_sequences_is_what_is_sent(client: TestClient) -> None:
    rows = [[number % 7, (number + 1) % 7] for number in range(9)]
    path = spelled(client, rows)
    found = client.get(path, params={"first": 3, "count": 2}).json()
    assert found == {"tokens": rows[3:5], "texts": [[WORDS[token] for token in row] for row in rows[3:5]]}
    assert client.get(path, params={"first": 8, "count": 5}).json()["tokens"] == rows[8:]
    answer = client.get(path, params={"first": 7}, headers={"Accept": "application/x-npy"})
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), rows[7:])
    beyond = client.get(path, params={"first": 9})
    assert beyond.status_code == 422
    assert "0 to 8; 9" in beyond.json()["detail"]


def test_text_is_found_across_tokens(client: TestClient) -> None:
    path = f"{spelled(client, [[3, 0, 1, 2, 0, 1, 2], [0, 1, 2, 6, 4, 5, 3], [5, 9, 4, 4, 4, 4, 4]])}/search"

    def found(text: str, **options: Any) -> list[tuple[int, int, int, int | None]]:
        items = client.get(path, params={"text": text, **options}).json()["items"]
        return [(one["sequence"], one["position"], one["n_tokens"], one["token"]) for one in items]

    assert found("self.") == [(0, 1, 2, 0), (0, 4, 2, 3), (1, 0, 2, None)]
    assert found("lf.x") == [(0, 1, 3, 0), (0, 4, 3, 3), (1, 0, 3, None)]
    assert found("🚀") == [(1, 5, 1, 10), (2, 0, 1, None)]
    assert found("\ufffd") == [(2, 1, 1, 12)]  # an id beyond the pieces
    assert found("ב") == [(1, 4, 1, 9), *((2, position, 1, 11 + position) for position in range(2, 7))]
    assert found("e") == found("l") == found("self")
    assert found("אבא") == [(2, 2, 2, 13), (2, 4, 2, 15)]  # none overlap
    assert found("nowhere") == []


def test_what_is_found_is_in_pages(client: TestClient) -> None:
    path = f"{spelled(client, [[0, 0, 0, 1], [0, 1, 0, 0]])}/search"
    first = client.get(path, params={"text": "self", "limit": 4}).json()
    second = client.get(path, params={"text": "self", "limit": 4, "cursor": first["next"]}).json()
    places = [(one["sequence"], one["position"]) for one in first["items"] + second["items"]]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (1, 3)]
    assert second["next"] is None


def test_a_search_needs_a_text_and_pieces(client: TestClient) -> None:
    bare = client.post(PATH, json={"slices": {"mine": {"tokens": TEXT}}}).json()["id"]
    answer = client.get(f"{PATH}/{bare}/slices/mine/search", params={"text": "a"})
    assert (answer.status_code, "no pieces" in answer.json()["detail"]) == (422, True)
    assert client.get(f"{PATH}/{bare}/slices/mine/search", params={"text": ""}).status_code == 422
    assert client.get(f"{PATH}/{bare}/slices/other/search", params={"text": "a"}).status_code == 404


def test_probe_sets_are_listed_in_pages(client: TestClient) -> None:
    ids = [client.post(PATH, json={"slices": {"text": {"tokens": [[0, n]]}}}).json()["id"] for n in range(5)]
    first = client.get(PATH, params={"limit": 3}).json()
    second = client.get(PATH, params={"limit": 3, "cursor": first["next"]}).json()
    assert [item["id"] for item in first["items"] + second["items"]] == sorted(ids)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"slices": {}}, "slices"),
        ({"slices": {"text": {"tokens": []}}}, "tokens"),
        ({"slices": {"text": {"tokens": [[]]}}}, "at least 2"),
        ({"slices": {"text": {"tokens": [[1]]}}}, "at least 2"),
        ({"slices": {"text": {"tokens": [[1, 2], [3, 4, 5]]}}}, "2 to 3 tokens"),
        ({"slices": {"text": {"tokens": [[1, -1]]}}}, "greater than or equal to 0"),
        ({"slices": {"text": {"tokens": [[1, 2**31]]}}}, "less than or equal"),
        ({"slices": {"text": {"tokens": [[1, 1.5]]}}}, "integer"),
        ({"slices": {"text": {"tokens": [[1, "2"]]}}}, "integer"),
        ({"slices": {"text": {"tokens": [[1, 5]]}}, "vocab_size": 5}, "5 ids"),
        ({"slices": {"../x": {"tokens": TEXT}}}, "pattern"),
        ({"slices": {"": {"tokens": TEXT}}}, "pattern"),
        ({"slices": {"text": {"tokens": TEXT, "layout": {"kind": "odd"}}}}, "kind"),
        ({"slices": {"r": {"tokens": TEXT, "layout": {"kind": "repeats", "copy_length": 3, "n_copies": 2}}}}, "7"),
        ({"slices": {"text": {"tokens": TEXT}}, "surprise": 1}, "surprise"),
        ([], "dictionary"),
    ],
)
def test_what_is_no_probe_set_is_named_and_refused(
    sqlite_database: Database, sqlite_client: TestClient, body: Any, words: str
) -> None:
    answer = sqlite_client.post(PATH, json=body)
    assert answer.status_code == 422
    assert words in answer.text
    assert sqlite_client.get(PATH).json()["items"] == []
