"""Who asks: the caller that the gate found, and the scopes that allow what they do.

Apart from the gate, which finds callers, because routes need to know no more of access than this.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from phasewatch.storage.schema import Scope

ALLOWS: dict[Scope, tuple[Scope, ...]] = {
    "read": ("read",),
    "write": ("read", "write"),
    "admin": ("read", "write", "admin"),
}


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request; `token_id` is None for this machine's own user, where there are no tokens."""

    name: str
    scope: Scope
    token_id: int | None = None
    expires_at: datetime | None = None

    def may(self, scope: Scope) -> bool:
        """True where what needs `scope` is allowed."""
        return scope in ALLOWS[self.scope]

    @property
    def is_admin(self) -> bool:
        return self.may("admin")


LOCAL = Caller("local", "admin")
"""The only caller there is while a server has no tokens and listens on loopback alone."""
