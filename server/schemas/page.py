"""Lists in pages, and the cursor that says where the next page begins: the position of the last item shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Self, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

Item = TypeVar("Item")
Row = TypeVar("Row")

MAX_LIMIT = 200


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
    return str(position)


def _whole(cursor: Any) -> Any:
    if cursor is not None and not _INTEGER.fullmatch(str(cursor)):
        raise ValueError("not a cursor of this list; take it from `next` of the page before")
    return cursor


def _cursor(pattern: str) -> tuple[Any, ...]:
    schema = {"type": "string", "pattern": pattern, "description": "`next` of the page before"}
    return WithJsonSchema(schema), Query(alias="cursor", description="`next` of the page before")


_INTEGER = re.compile(r"[0-9]{1,18}", re.ASCII)
_HEX = "[0-9a-f]"
_UUID = f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$"
_WORD = r"^[A-Za-z0-9_.:-]{1,200}$"

IntCursor = Annotated[int | None, BeforeValidator(_whole), *_cursor(r"^[0-9]{1,18}$")]
TextCursor = Annotated[Annotated[str, Field(pattern=_WORD)] | None, *_cursor(_WORD)]
IdCursor = Annotated[UUID | None, *_cursor(_UUID)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many items a page has at most")]
