"""What a model is, as data. Imports pydantic and nothing heavy: DAG files read this."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from feature_repo.datasets import Frozen
from models.targets import Target


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
    rows_kept: float = Field(
        1.0, gt=0, le=1, description="Share of all observations kept, whatever their target."
    )


class Tuning(Frozen):
    """Budget of the search, and the folds that a trial is judged by."""

    trials: int = Field(12, ge=1)
    timeout: timedelta = timedelta(minutes=2)
    folds: int = Field(
        1,
        ge=1,
        description="1: trials are judged on the valid part. More: on folds of train and valid together, which "
        "costs as many fits, and is worth it where outcomes are few.",
    )


class Backtest(Frozen):
    """Fits of the chosen parameters on further parts of the past, to see how figures vary."""

    folds: int = Field(3, ge=0, description="0: none.")
    by: Literal["time", "entity"] = Field(
        "time",
        description="time: rolling origin, each fold learns from what lies before it. entity: grouped.",
    )


class Classification(Frozen):
    """A calibrated probability of an event, and an alarm from a threshold on."""

    kind: Literal["classification"] = "classification"
    max_false_positive_rate: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Operating point, per observation; the alarm threshold is learned for it.",
    )


class Forecast(Frozen):
    """A figure with an interval."""

    kind: Literal["forecast"] = "forecast"
    target: str = Field(description="Name of the target, without its prefix.")
    output: str = "forecast"
    lower: str | None = "lower"
    upper: str | None = "upper"
    coverage: float = Field(
        0.8, gt=0, lt=1, description="Share of truths that the interval promises to hold."
    )
    naive: str | None = Field(
        None, description="Input whose value is the naive forecast; None: the training part's median."
    )
    seasonal_naive: str | None = Field(None, description="Input whose value is the seasonal-naive forecast.")


class Detection(Frozen):
    """A score of how abnormal a row is, without labels to learn from."""

    kind: Literal["detection"] = "detection"
    max_false_positive_rate: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Share of normal rows that may be called abnormal; thresholds are learned for it.",
    )


class Decision(Frozen):
    """A choice, judged by what it costs beyond the best one. The builder knows the costs."""

    kind: Literal["decision"] = "decision"
    max_risk: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Largest probability that a choice may turn out too small, where that applies.",
    )


TaskKind = Annotated[Classification | Forecast | Detection | Decision, Field(discriminator="kind")]


class Bound(Frozen):
    """What a metric must reach on the holdout."""

    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if (self.minimum is None) == (self.maximum is None):
            raise ValueError("give either minimum or maximum")
        return self


class Gate(Frozen):
    """What a candidate must prove on the holdout, and how many rows it takes to say so."""

    bounds: dict[str, Bound] = Field(min_length=1, description="By metric of the task.")
    min_rows: int = Field(200, ge=1, description="Fewer in the holdout: insufficient evidence.")
    min_clusters: int = Field(10, ge=2, description="Fewer independent clusters: insufficient evidence.")
    min_positives: int = Field(
        30, ge=1, description="Where there are outcomes: fewer are insufficient evidence."
    )
    block: timedelta | None = Field(
        None,
        description="Rows of one entity within one such span are one cluster; None: all rows of an entity.",
    )
    champion_margin: float = Field(
        0.01,
        ge=0,
        description="How much of the task's statistic may be lost to the champion (lower bound, 95 %).",
    )


class ModelSpec(Frozen):
    """One model of the catalogue. Stages read this, and know no model by name."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    question: str = Field(description="What the model answers, as its users would ask it.")
    datasets: tuple[str, ...] = Field(description="Data sets that its features and targets need.")
    grid: str | None = Field(None, description="Feature grid of the source; None: the source's first.")
    inputs: tuple[str, ...] = Field(
        ("*",), description="Shell patterns of the features that the model takes."
    )
    given: dict[str, str] = Field(
        default_factory=dict,
        description="Inputs that a caller supposes, and training reads from the target's data set over the target's "
        "own span: input to column. A model is asked 'what if' through them.",
    )
    entity_input: str | None = Field(
        None,
        description="Name under which the model takes the entity itself: an optional string. None: it does not, and "
        "answers for an entity that it never saw as for any other.",
    )
    target: Target
    task: TaskKind
    gate: Gate
    split: Split = Split()
    tuning: Tuning = Tuning()
    backtest: Backtest = Backtest()
    observe_every: timedelta | None = Field(
        timedelta(hours=1), description="Spacing of observations; None: each feature row is one."
    )
    training_window: timedelta = timedelta(days=42)
    schedule: str | None = Field("0 3 * * 1", description="Cron (UTC) of train_<name>.")
    owner: str = "platform"
