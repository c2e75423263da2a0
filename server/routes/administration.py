"""Routes for those who run this service: how it is set up, and what is wrong with it. For admins alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.dependencies import ADMIN_ONLY, Parts
from server.doctor import examine
from server.problems import errors
from server.schemas.administration import FindingOut, FindingsOut, SettingsOut

router = APIRouter(tags=["administration"], responses=errors(), dependencies=ADMIN_ONLY)


@router.get("/settings")
def get_settings(parts: Parts) -> SettingsOut:
    """Every setting with its value and where that comes from; secrets only as set or not set."""
    return SettingsOut.of(parts.settings)


@router.get("/doctor")
def get_findings(
    parts: Parts,
    every_artifact: Annotated[bool, Query(description="read every artifact, not only the newest")] = False,
) -> FindingsOut:
    """Looks the service over, as `python -m server doctor` does."""
    found = list(examine(parts.database, parts.artifacts, lambda *_: None, every_artifact=every_artifact))
    return FindingsOut(is_well=all(one.is_well for one in found), findings=[FindingOut.of(one) for one in found])
