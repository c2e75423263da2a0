"""What alerts say: the JSON that a webhook is sent, and the title and text for every other service.

Pure. Names come from outside and go to services that read Markdown, HTML and mentions: `plain` takes from them what has
a meaning there.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MAX_TEXT = 1_800  # characters: Discord takes 2,000
MAX_LISTED = 10
NAME_LENGTH = 200

# Signs that begin markup, mentions or links somewhere, and what looks like them and does not.
_SIGNS = str.maketrans({"<": "‹", ">": "›", "&": "＆", "@": "＠", "`": "ˋ", "*": "∗", "~": "∼", "|": "ǀ", "\\": "＼"})
_UNSEEN = re.compile(r"\s+")
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is none
_QUIET_KEYS = ("run", "run_name", "phase_change", "explanation", "text")


@dataclass(frozen=True)
class Notice:
    """One alert as a message has it; payload: what the rules saw, as JSON."""

    kind: str
    title: str
    payload: dict[str, Any]
    raised_at: datetime
    alert_id: int | None = None


def plain(text: str) -> str:
    """The text on one line, without what a service could take for markup, a mention, a link or a control character."""
    kept = "".join(one for one in _UNSEEN.sub(" ", text) if unicodedata.category(one)[0] != "C")
    kept = kept.translate(_SIGNS).replace("](", "］(").replace("://", ":∕∕")
    return _EMPHASIS.sub("＿", kept).strip()


def body_of(notices: Sequence[Notice], delivery: str, link_base: str | None) -> bytes:
    """The JSON body of a webhook. Names stand in it as they are: whoever shows them escapes them."""
    alerts = [
        {
            "id": notice.alert_id,
            "kind": notice.kind,
            "title": notice.title,
            "text": text_of(notice),
            "link": link_of(notice, link_base),
            "raised_at": notice.raised_at.isoformat().replace("+00:00", "Z"),
            "data": notice.payload,
        }
        for notice in notices
    ]
    return json.dumps({"delivery": delivery, "alerts": alerts}).encode()


def words_of(notices: Sequence[Notice], link_base: str | None) -> tuple[str, str]:
    """Title and text of a message: one alert, or a digest of several."""
    if len(notices) == 1:
        (notice,) = notices
        text = plain(text_of(notice))[:MAX_TEXT]
        return _short(plain(notice.title)), "\n\n".join(part for part in (text, link_of(notice, link_base)) if part)
    lines = []
    room = MAX_TEXT
    for notice in notices[:MAX_LISTED]:
        line = "\n".join(part for part in (f"• {_short(plain(notice.title))}", link_of(notice, link_base)) if part)
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    if len(lines) < len(notices):
        lines.append(f"… and {len(notices) - len(lines)} more: GET /api/v1/alerts")
    return f"phasewatch: {len(notices)} alerts", "\n".join(lines)


def text_of(notice: Notice) -> str:
    """What an alert says beyond its title: the change's explanation, or its values by name."""
    for key in ("explanation", "text"):
        if isinstance(notice.payload.get(key), str):
            return str(notice.payload[key])
    values = {name: value for name, value in notice.payload.items() if name not in _QUIET_KEYS and value is not None}
    return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in values.items())


def link_of(notice: Notice, link_base: str | None) -> str | None:
    """The page that shows it; None where there is none, or nobody said where the pages are."""
    if link_base is None:
        return None
    change, run = notice.payload.get("phase_change"), notice.payload.get("run")
    if change is not None:
        return f"{link_base}/changes/{change}"
    return None if run is None else f"{link_base}/runs/{run}"


def _short(title: str) -> str:
    return title if len(title) <= NAME_LENGTH else f"{title[: NAME_LENGTH - 1]}…"
