"""What a model is, as data. Imports pydantic and nothing heavy: DAG files read this."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from feature_repo.datasets import Frozen


class Label(Frozen):
    """Binary label: does an event of one kind happen to the entity within the horizon?"""

    dataset: str = Field(description="Events data set that holds the outcome.")
    column: str = "kind"
    value: str = "failure"
    horizon: timedelta = timedelta(hours=24)


class Split(Frozen):
    """How observations are parted. Parts never share time within one label horizon of a cut."""

    by: Literal["time", "entity", "entity_and_time"] = Field(
        "time",
        description="entity_and_time: the holdout also has entities that no other part has. entity: parts share no "
        "entity, and all have the whole time; to compare with published figures, not to prove a model for production.",
    )
    valid_share: float = Field(
        0.15, gt=0, lt=1, description="Share of the window's time; by entity, of the entities."
    )
    holdout_share: float = Field(
        0.25, gt=0, lt=1, description="Share of the window's time, the newest; unused by entity."
    )
    holdout_entities_share: float = Field(
        0.25, gt=0, lt=1, description="Share of the entities; unused by time."
    )
    negatives_kept: float = Field(
        1.0, gt=0, le=1, description="Share of negative observations kept; the rest is in the weights."
    )


class Tuning(Frozen):
    trials: int = Field(12, ge=1)
    timeout: timedelta = timedelta(minutes=2)
    metric: Literal["average_precision"] = "average_precision"


class Thresholds(Frozen):
    """What a candidate must reach on the holdout, and how many rows it takes to say so."""

    max_false_positive_rate: float = Field(0.01, gt=0, lt=1, description="Operating point, per observation.")
    min_recall: float = Field(ge=0, le=1, description="At that operating point.")
    min_average_precision: float = Field(ge=0, le=1)
    max_calibration_error: float = Field(0.05, gt=0, le=1, description="Expected calibration error.")
    min_positives: int = Field(30, ge=1, description="Fewer in the holdout: insufficient evidence.")
    min_entities: int = Field(10, ge=2, description="Fewer in the holdout: insufficient evidence.")
    champion_margin: float = Field(
        0.01, ge=0, description="How much average precision may be lost to the champion (lower bound, 95 %)."
    )


class ModelSpec(Frozen):
    """One model of the catalogue. Stages read this, and know no model by name."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    question: str = Field(description="What the model answers, as its users would ask it.")
    datasets: tuple[str, ...] = Field(description="Data sets that its features and labels need.")
    label: Label
    split: Split = Split()
    tuning: Tuning = Tuning()
    thresholds: Thresholds
    observe_every: timedelta | None = Field(
        timedelta(hours=1), description="Spacing of observations; None: each feature row is one."
    )
    training_window: timedelta = timedelta(days=42)
    schedule: str | None = Field("0 3 * * 1", description="Cron (UTC) of train_<name>.")
    owner: str = "platform"
