"""Routes of API tokens: made, listed, changed and revoked by admins; the text of a token is shown once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from phasewatch.storage import tokens
from server.dependencies import ADMIN_ONLY, AuditTarget, Caller, Parts, ReadSession, WriteSession
from server.problems import errors
from server.schemas.page import IntCursor, Limit, Page
from server.schemas.tokens import NewToken, TokenCreate, TokenOut, TokenUpdate

router = APIRouter(prefix="/tokens", tags=["tokens"], dependencies=ADMIN_ONLY, responses=errors())

TokenId = Annotated[int, Path(ge=1, lt=2**31, description="the token's id")]


@router.post("", status_code=201, responses=errors(409, 413, 415))
def create_token(
    body: TokenCreate, session: WriteSession, caller: Caller, parts: Parts, target: AuditTarget
) -> NewToken:
    """Makes a token and shows it, once. The first of all needs scope admin."""
    row, text = tokens.create_token(session, **body.model_dump(), made_by=caller.name)
    target(f"token={row.id}")
    parts.gate.forget()
    return NewToken.shown(row, text)


@router.get("")
def list_tokens(
    session: ReadSession,
    revoked: Annotated[bool, Query(description="also those that were revoked")] = False,
    cursor: IntCursor = None,
    limit: Limit = 50,
) -> Page[TokenOut]:
    """Tokens, oldest first, without their text."""
    rows = tokens.list_tokens(session, revoked=revoked, after=cursor, limit=limit + 1)
    return Page[TokenOut].of(rows, limit, TokenOut.of, lambda row: row.id)


@router.get("/{token}", responses=errors(404))
def get_token(token: TokenId, session: ReadSession) -> TokenOut:
    """One token, revoked or not."""
    return TokenOut.of(tokens.get_token(session, token))


@router.patch("/{token}", responses=errors(404, 409, 413, 415))
def update_token(token: TokenId, body: TokenUpdate, session: WriteSession) -> TokenOut:
    """Renames a token or gives it another end; its scope stays."""
    return TokenOut.of(tokens.edit_token(session, token, **body.model_dump(exclude_unset=True)))


@router.delete("/{token}", responses=errors(404, 409))
def revoke_token(
    token: TokenId,
    session: WriteSession,
    parts: Parts,
    last_admin: Annotated[bool, Query(description="also the last one of scope admin")] = False,
) -> TokenOut:
    """Revokes a token, and ends the sessions opened with it; within a second everywhere."""
    parts.gate.forget()
    return TokenOut.of(tokens.revoke_token(session, token, last_admin=last_admin))
