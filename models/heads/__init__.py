"""Heads: how raw answers of estimators become a model's outputs. Adding one: a module, and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from models.heads.action import ActionHead
from models.heads.base import BaseHead, FieldType, OutputField
from models.heads.cost import CostHead
from models.heads.interval import IntervalHead
from models.heads.placement import PlacementHead
from models.heads.probability import ProbabilityHead
from models.heads.severity import SeverityHead
from models.heads.sizing import SizingHead
from models.heads.slo import SloHead

Head = Annotated[
    ActionHead
    | CostHead
    | PlacementHead
    | ProbabilityHead
    | IntervalHead
    | SeverityHead
    | SizingHead
    | SloHead,
    Field(discriminator="kind"),
]

__all__ = [
    "ActionHead",
    "BaseHead",
    "CostHead",
    "FieldType",
    "Head",
    "IntervalHead",
    "OutputField",
    "PlacementHead",
    "ProbabilityHead",
    "SeverityHead",
    "SizingHead",
    "SloHead",
]
