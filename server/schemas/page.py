"""Lists in pages, and the opaque cursor that says where the next page begins."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Self, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

Item = TypeVar("Item")
Row = TypeVar("Row")

MAX_LIMIT = 200
_MAX_CURSOR = 1_000


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item] = Field(description="what there is, in the list's order")
    next: str | None = Field(None, description="give it as ?cursor= for the next page; null on the last one")

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        limit: int,
        convert: Callable[[Row], Item],
        position: Callable[[Row], int | str | UUID],
    ) -> Self:
        """A page of at most `limit` of the rows; one row more than that says that there is a next page."""
        shown = rows[:limit]
        more = len(rows) > limit
        return cls(items=[convert(row) for row in shown], next=encode_cursor(position(shown[-1])) if more else None)


def encode_cursor(position: int | str | UUID) -> str:
    """A position in a list as a cursor."""
    value = position if isinstance(position, int) else str(position)
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def decode_cursor(cursor: Any) -> Any:
    """The position that a cursor holds; raises ValueError for one that no list gave."""
    if cursor is None:
        return None
    text = str(cursor)
    try:
        if len(text) > _MAX_CURSOR:
            raise ValueError("too long")
        position = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise ValueError("not a cursor of this list; take it from `next` of the page before") from error
    if isinstance(position, bool) or not isinstance(position, int | str) or "\x00" in str(position):
        raise ValueError("not a cursor of this list; take it from `next` of the page before")
    return position


_CURSOR = (
    BeforeValidator(decode_cursor),
    WithJsonSchema({"type": "string", "description": "`next` of the page before"}),
    Query(alias="cursor", description="`next` of the page before"),
)
IntCursor = Annotated[Annotated[int, Field(ge=-(2**63), lt=2**63)] | None, *_CURSOR]
TextCursor = Annotated[Annotated[str, Field(strict=True)] | None, *_CURSOR]
IdCursor = Annotated[UUID | None, *_CURSOR]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many items a page has at most")]
