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
    confident: bool = Field(
        False, description="The whole 95 % interval must be within the bound, not the figure alone."
    )

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if (self.minimum is None) == (self.maximum is None):
            raise ValueError("give either minimum or maximum")
        return self


class Slice(Frozen):
    """Parts of the holdout by one property of its rows: each value, or each bin between edges, is one part."""

    by: Literal["input", "hour", "weekday", "entity"] = Field(
        "input", description="hour (0 to 23) and weekday (0 is Monday) are those of the observation, in UTC."
    )
    input: str | None = Field(None, description="Name of the input, where rows are parted by one.")
    values: tuple[str | float, ...] = Field(
        (), description="Each value is one part; of entities: shell patterns of their names."
    )
    edges: tuple[float, ...] = Field(
        (), description="Rising: n edges make n + 1 parts, each from its edge on up to below the next."
    )
    min_rows: int = Field(100, ge=1, description="Fewer in a part: insufficient evidence.")
    min_positives: int = Field(
        10, ge=1, description="Where there are outcomes: fewer in a part are insufficient evidence."
    )
    margin: float | None = Field(
        None, gt=0, description="How much of the statistic may be lost on a part; None: the gate's margin."
    )
    required: bool = Field(True, description="False: reported, and never decides.")

    @model_validator(mode="after")
    def _names_its_parts(self) -> Self:
        if (self.by == "input") != (self.input is not None):
            raise ValueError("by='input' names the input, and the others do not")
        if bool(self.values) == bool(self.edges):
            raise ValueError("give either values or edges")
        if self.by == "entity" and (self.edges or not all(isinstance(value, str) for value in self.values)):
            raise ValueError("entities are named by values: shell patterns")
        if any(later <= edge for edge, later in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges do not rise: {self.edges}")
        return self


class Parity(Frozen):
    """A figure that must not differ much between groups."""

    groups: Slice
    metric: str = Field(description="Of the task's figures, such as `alarm_recall` or `wape`.")
    maximum: float = Field(gt=0, description="Largest difference between any two groups (upper bound, 95 %).")


class Stability(Frozen):
    """How far answers may move where the inputs hardly do, or where one is missing.

    A change is the share of rows with another decision; of a number, the mean absolute change over the mean
    absolute deviation of the answers from their median.
    """

    noise: float = Field(
        0.01, gt=0, description="Perturbation, as a share of each number's spread in training."
    )
    max_change: float | None = Field(
        None,
        gt=0,
        description="Largest change under the perturbation; None: 0.02 of decisions, 0.1 of numbers.",
    )
    missing: int = Field(5, ge=0, description="How many inputs are left out, one at a time; the weightiest.")
    max_change_missing: float | None = Field(
        None,
        gt=0,
        description="Largest change where one input is missing; None: 0.1 of decisions, 1 of numbers.",
    )


class Leakage(Frozen):
    """What an input may know of the target before it is too good to be true."""

    max_auc: float = Field(
        0.995, gt=0.5, le=1, description="Of a single input, either direction, for targets of 0 and 1."
    )
    max_correlation: float = Field(
        0.999, gt=0, le=1, description="Of a single input with any other target, within entities, absolute."
    )
    trusted: tuple[str, ...] = Field(
        (), description="Shell patterns of inputs that may: known beforehand, and why is in the model's card."
    )


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
    champion_rule: Literal["superior", "not_inferior"] = Field(
        "superior",
        description="superior: the gain's lower bound is above 0, so that an equal candidate changes nothing. "
        "not_inferior: above minus the margin; needs a stated benefit.",
    )
    benefit: str | None = Field(
        None, description="What a candidate that is no better brings all the same; with not_inferior alone."
    )
    champion_margin: float = Field(
        0.01,
        gt=0,
        description="How much of the task's statistic may be lost to the champion (lower bound, 95 %): under "
        "not_inferior, on slices, and on the older holdout.",
    )
    decision_margin: float = Field(
        0.01,
        gt=0,
        description="Share of rows by which fewer decisions may be right than the champion's (lower bound, 95 %).",
    )
    compared_over: Literal["time", "day", "entity"] | None = Field(
        None,
        description="What varies independently enough to compare by: moments of observation, days, or clusters of "
        "entities. None: time for forecasts, day for decisions, entity for the rest.",
    )
    min_times: int | None = Field(
        None, ge=4, description="Fewer moments or days compared: insufficient evidence; None: 50 or 8."
    )
    slices: tuple[Slice, ...] = Field((), description="Where the candidate must not lose.")
    parities: tuple[Parity, ...] = Field((), description="Between which groups a figure must not differ.")
    stability: Stability = Stability()
    leakage: Leakage = Leakage()

    @model_validator(mode="after")
    def _no_worse_needs_a_benefit(self) -> Self:
        if (self.champion_rule == "not_inferior") != bool(self.benefit and self.benefit.strip()):
            raise ValueError(
                "champion_rule='not_inferior' and benefit go together: say what a candidate that is no better brings"
            )
        return self


class Budgets(Frozen):
    """What a version may cost where it is served. A candidate beyond one of them is not promoted."""

    latency: timedelta = Field(
        timedelta(milliseconds=100),
        gt=timedelta(0),
        description="99th percentile of requests of one row, one after another, through the server on loopback.",
    )
    memory_mb: float = Field(
        512,
        gt=0,
        description="Memory (MiB) that the server's process gains by loading and answering with it.",
    )
    size_mb: float = Field(256, gt=0, description="Size (MiB) of the export's files.")


class Approval(Frozen):
    """Whether a person decides after the gate was passed, and how long there is to do so."""

    required: bool = Field(
        False, description="True: promoted with a person's word only, asked for in Airflow."
    )
    within: timedelta = Field(
        timedelta(hours=24), gt=timedelta(0), description="No answer in this time counts as a refusal."
    )


class DriftTest(Frozen):
    """When a column has drifted."""

    windows: tuple[timedelta, ...] = Field(
        (timedelta(days=1), timedelta(days=7)),
        min_length=1,
        description="That a check looks back over, whole days each: a short one for large changes, a long one for "
        "small ones. All are asked, and the answer is corrected for it.",
    )
    false_alarm_rate: float = Field(
        0.005,
        gt=0,
        lt=0.5,
        description="Of a check of all columns: Benjamini and Hochberg's rate. Measured rates lie at or below 2 %, "
        "since p-values so far out are a little too small where windows are short (benchmarks/drift).",
    )
    min_rows: int = Field(100, ge=1, description="Fewer rows in a window: not enough data.")
    min_cover: float = Field(
        0.5, gt=0, le=1, description="Share of a window's bins that have rows; fewer: not enough data."
    )
    min_cycles: float = Field(
        3.0, ge=2, description="Weeks (without them, days) of training; fewer: not enough data."
    )
    min_effect: float = Field(
        0.1, ge=0, description="Smaller changes, in standard deviations of training, are not called drift."
    )
    min_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Smaller changes of a category's or of missing values' share are not either.",
    )

    @model_validator(mode="after")
    def _windows_are_whole_days(self) -> Self:
        if any(window < timedelta(days=1) or window % timedelta(days=1) for window in self.windows):
            raise ValueError(f"windows are whole days, for like to be compared with like: {self.windows}")
        return self


class Rollout(Frozen):
    """How a challenger comes into production: in the shadow first, then by growing shares of the requests."""

    steps: tuple[float, ...] = Field(
        (10, 50), description="Percentages between the shadow and production, rising."
    )
    hold: timedelta = Field(
        timedelta(minutes=30), ge=timedelta(0), description="Least time in the shadow, and at each step."
    )
    within: timedelta = Field(
        timedelta(days=3),
        gt=timedelta(0),
        description="A challenger that is not through by then is withdrawn.",
    )
    min_requests: int = Field(
        500, ge=1, description="That the challenger was asked at each step; fewer: it stays there."
    )
    max_errors: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Share of requests on which it may fail beyond the champion's own share.",
    )
    latency: timedelta | None = Field(
        None, gt=timedelta(0), description="That one answer may take; None: the budgets' latency."
    )
    max_slow: float = Field(
        0.01, gt=0, lt=1, description="Share of answers that may take longer beyond the champion's own share."
    )
    min_outcomes: int = Field(
        0,
        ge=0,
        description="Answers of the challenger whose outcome is known, before it advances; 0: outcomes come too late to "
        "be waited for, and withdraw it where they speak against it.",
    )
    margin: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="Loss (0 to 1) by which the challenger may be worse: it is shown to be within, or waits.",
    )
    error_rate: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Chance that a challenger that keeps to all of this is withdrawn, however often one looks.",
    )

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        rising = all(step < later for step, later in zip(self.steps, self.steps[1:], strict=False))
        if not rising or any(not 0 < step < 100 for step in self.steps):
            raise ValueError(f"steps are percentages between 0 and 100 that rise: {self.steps}")
        return self


class DataTest(Frozen):
    """When data are broken: nothing is learned from them, and somebody is told."""

    max_age: timedelta = Field(
        timedelta(hours=6), gt=timedelta(0), description="Of the newest row when a check begins."
    )
    min_volume: float = Field(
        0.5, ge=0, lt=1, description="Least share of the rows that such a window had in training."
    )
    max_missing: float = Field(
        0.2, gt=0, le=1, description="Largest rise of a column's share of missing values since training."
    )
    max_out_of_range: float = Field(
        0.01, gt=0, le=1, description="Largest share of values outside of what the column can be."
    )
    max_stuck: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Largest rise of the share of values that only repeat the entity's last one.",
    )
    unit_ratio: float = Field(
        20, gt=1, description="A median this many times larger or smaller than in training is another unit's."
    )


class Retrain(Frozen):
    """What a request to train again is made for, besides the schedule and by hand. None: not for this."""

    drift_score: float | None = Field(
        0.3,
        gt=0,
        le=1,
        description="Share of drifted columns, weighted by importance, above which it is asked for.",
    )
    important_columns: int | None = Field(
        3, ge=1, description="Drifted columns of at least mean importance, from which on it is asked for."
    )
    quality_below_floor: timedelta | None = Field(
        timedelta(hours=24),
        description="How long the realised or estimated quality must lie below its floor.",
    )
    drift_needs_loss: bool = Field(
        False,
        description="True: drift is asked for only where the quality, estimated or realised, has left its band as well.",
    )


class Monitor(Frozen):
    """How a model in production is watched, and what is done about what is seen."""

    schedule: str | None = Field("45 2 * * *", description="Cron (UTC) of monitor_<name>.")
    drift: DriftTest = DriftTest()
    data: DataTest = DataTest()
    retrain: Retrain = Retrain()
    needed: int = Field(2, ge=1, description="So many of the last checks, and the latest, make an alarm.")
    of: int = Field(5, ge=1, description="How many last checks that is out of.")
    cooldown: timedelta = Field(
        timedelta(days=3), ge=timedelta(0), description="After a training no request is made for so long."
    )
    floors: dict[str, Bound] = Field(
        default_factory=dict, description="Of the quality, by metric of the task; empty: the gate's bounds."
    )
    min_labels: int = Field(100, ge=1, description="Fewer labelled predictions: no figure of quality.")

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.needed > self.of:
            raise ValueError(f"needed={self.needed} of the last {self.of} checks can never be")
        return self


class ModelSpec(Frozen):
    """One model of the catalogue. Stages read this, and know no model by name."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    question: str = Field(description="What the model answers, as its users would ask it.")
    datasets: tuple[str, ...] = Field(description="Data sets that its features and targets need.")
    grid: str | None = Field(None, description="Feature grid of the source; None: the source's default.")
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
    budgets: Budgets = Budgets()
    approval: Approval = Approval()
    rollout: Rollout = Rollout()
    monitor: Monitor = Monitor()
    split: Split = Split()
    tuning: Tuning = Tuning()
    backtest: Backtest = Backtest()
    observe_every: timedelta | None = Field(
        timedelta(hours=1), description="Spacing of observations; None: each feature row is one."
    )
    training_window: timedelta = timedelta(days=42)
    schedule: str | None = Field("0 3 * * 1", description="Cron (UTC) of train_<name>.")
    owner: str = "platform"
