"""Pictures of a run, drawn with matplotlib (the `report` extra) from arrays alone."""

from __future__ import annotations

from phasewatch.report.pictures import head_picture, loss_picture, position_picture, score_picture, slope_picture
from phasewatch.report.tokens import token_picture

__all__ = ["head_picture", "loss_picture", "position_picture", "score_picture", "slope_picture", "token_picture"]
