"""How this service is set up and what is wrong with it, as the API says it. Secrets are only ever set or not set."""

from __future__ import annotations

import typing
from typing import Literal, Self

from pydantic import BaseModel, Field, SecretStr
from pydantic.fields import FieldInfo

import phasewatch
from phasewatch.storage.schema import REVISION
from server.doctor import Finding
from server.settings import Settings

Value = bool | int | float | str | None
Source = Literal["given", "file", "default"]
_URLS = ("database_url", "artifacts_url")  # may carry a password, or keys, inside


class SettingOut(BaseModel):
    """One setting."""

    name: str = Field(description="the environment variable that gives it")
    value: Value = Field(description="what it is; of a secret `set` or `not set`; of an address without its secrets")
    default: Value = Field(description="what it is where nobody gives it; null where that depends on another")
    description: str = Field(description="what it is for")
    source: Source = Field(description="given (environment or command line), file (its _FILE) or default")
    secret: bool = Field(description="whether its value is never shown")

    @classmethod
    def of(cls, settings: Settings, name: str, field: FieldInfo) -> Self:
        """The setting of a field."""
        secret = SecretStr in (field.annotation, *typing.get_args(field.annotation))
        value = getattr(settings, name)
        shown = ("set" if value else "not set") if secret else _shown(name, value)
        return cls(
            name=f"PHASEWATCH_{name.upper()}", value=shown, default=None if secret else _plain(field.default),
            description=field.description or "", source=_source(settings, name), secret=secret,
        )  # fmt: skip


class SettingsOut(BaseModel):
    """How this service is set up."""

    version: str = Field(description="of phasewatch")
    schema_: str = Field(alias="schema", description="revision of the database's schema, the code's own")
    settings: list[SettingOut] = Field(description="every setting, those that were not given included")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the settings say."""
        found = [SettingOut.of(settings, name, field) for name, field in type(settings).model_fields.items()]
        return cls(version=phasewatch.__version__, schema=REVISION, settings=sorted(found, key=lambda one: one.name))


class FindingOut(BaseModel):
    """One thing that was looked at."""

    what: str = Field(description="what was looked at")
    is_well: bool = Field(description="whether it is as it should be")
    detail: str = Field(description="what was found")
    advice: str = Field(description="what to do where it is not well")

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """The finding."""
        return cls(**{name: getattr(finding, name) for name in cls.model_fields})


class FindingsOut(BaseModel):
    """What `python -m server doctor` would say."""

    is_well: bool = Field(description="whether everything is")
    findings: list[FindingOut] = Field(description="everything that was looked at, in that order")


def _source(settings: Settings, name: str) -> Source:
    value, given = getattr(settings, name), settings.model_fields_set
    if value is None or name not in given:
        return "default"
    return "file" if getattr(settings, f"{name}_file", None) is not None else "given"


def _plain(value: object) -> Value:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _shown(name: str, value: object) -> Value:
    if name not in _URLS or value is None:
        return _plain(value)
    return without_secrets(str(value))


def without_secrets(address: str) -> str:
    """An address without user, password and query, in any of which a secret may stand; a path stays as it is."""
    scheme, has_scheme, rest = address.partition("://")
    if not has_scheme:
        return address
    before, has_user, place = rest.rpartition("@")
    if has_user and "?" in before:  # whose @ it is cannot be told
        return f"{scheme}://…"
    return f"{scheme}://{place.partition('?')[0]}"
