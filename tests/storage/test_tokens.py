"""API tokens: only their hash is kept, and an expired one is none."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update

from phasewatch.storage.database import Database
from phasewatch.storage.schema import ApiToken, utc_now
from phasewatch.storage.tokens import any_token, find_token, new_token, put_token


def put(database: Database, token: str, **content: str) -> None:
    with database.transaction() as session:
        put_token(session, token, **{"name": "me", "scope": "write", **content})  # type: ignore[arg-type]


def test_a_stored_token_is_found_by_its_text_alone(database: Database) -> None:
    token = new_token()
    put(database, token, scope="admin")
    with database.reading() as session:
        found = find_token(session, token)
        assert found is not None
        assert (found.name, found.scope) == ("me", "admin")
        assert find_token(session, token + "x") is None
        assert find_token(session, found.sha256) is None


def test_the_text_is_nowhere(database: Database) -> None:
    token = new_token()
    put(database, token)
    with database.reading() as session:
        row = session.scalars(select(ApiToken)).one()
    assert not any(token in str(value) for value in vars(row).values())


def test_the_same_again_changes_nothing(database: Database) -> None:
    for name in ("first", "second"):
        put(database, "secret", name=name)
    with database.reading() as session:
        assert [row.name for row in session.scalars(select(ApiToken))] == ["first"]


def test_an_expired_one_is_none_but_there_still_is_a_token(database: Database) -> None:
    with database.reading() as session:
        assert any_token(session) is False
    put(database, "secret")
    with database.transaction() as session:
        session.execute(update(ApiToken).values(expires_at=utc_now() - timedelta(seconds=1)))
    with database.reading() as session:
        assert find_token(session, "secret") is None
        assert any_token(session) is True


def test_new_ones_are_long_and_differ() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 40 for token in tokens)
