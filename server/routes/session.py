"""Routes of the browser's session: signing in with a token, who is signed in, and signing out."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter, Request, Response

from phasewatch.storage.sessions import close_session, open_session, trim_sessions
from phasewatch.storage.tokens import find_token
from server.callers import Caller as FoundCaller
from server.dependencies import AuditTarget, Caller, Parts, WriteSession
from server.problems import TokenNeeded, errors
from server.schemas.tokens import SessionOut, SignIn
from server.sessions import COOKIE, csrf_token, drop_cookie, set_cookie

router = APIRouter(prefix="/session", tags=["tokens"], responses=errors())


@router.post("", status_code=201, responses=errors(413, 415))
def sign_in(
    body: SignIn, session: WriteSession, parts: Parts, request: Request, response: Response, target: AuditTarget
) -> SessionOut:
    """Opens a session in this browser: an HttpOnly cookie stands for the token from here on."""
    token = find_token(session, body.token.get_secret_value())
    if token is None:
        raise TokenNeeded("the token is not valid: it is unknown, revoked or has expired")
    trim_sessions(session)
    opened, secret = open_session(session, token, timedelta(hours=parts.settings.session_hours))
    set_cookie(response, secret, opened.expires_at, secure=request.url.scheme == "https")
    request.scope["state"]["caller"] = FoundCaller(token.name, token.scope, token.id)
    target(f"session={opened.id}")
    return SessionOut(name=token.name, scope=token.scope, expires_at=opened.expires_at, csrf=csrf_token(secret))


@router.get("")
async def get_session(caller: Caller, request: Request) -> SessionOut:
    """Who asks, and with what right; with the cookie also what a write needs beside it."""
    secret = request.cookies.get(COOKIE) if "authorization" not in request.headers and caller.token_id else None
    csrf = None if secret is None else csrf_token(secret)
    return SessionOut(name=caller.name, scope=caller.scope, expires_at=caller.expires_at, csrf=csrf)


@router.delete("", status_code=204)
def sign_out(session: WriteSession, parts: Parts, request: Request, response: Response) -> None:
    """Ends this browser's session, and takes its cookie."""
    parts.gate.forget()
    close_session(session, request.cookies.get(COOKIE, ""))
    drop_cookie(response, secure=request.url.scheme == "https")
