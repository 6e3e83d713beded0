"""What a table of telemetry is: its columns, their units, and what counts as broken.

A :class:`Dataset` is the contract between a source and everything after it. Ingest casts to it,
validation holds rows against it, and the feature definitions are made from its gauges, counters
and codes. It is data only: DAG files read it, so nothing heavy may be imported here.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TABLE_NAME = r"^[a-z][a-z0-9_]*$"


class ColumnType(StrEnum):
    """How a column is stored in the lake (timestamps are UTC, microseconds)."""

    FLOAT = "float"
    INTEGER = "integer"
    STRING = "string"
    TIMESTAMP = "timestamp"


class ColumnRole(StrEnum):
    """What a column means, which decides the features made from it."""

    ENTITY = "entity"  # the machine, VM, service or account that the row is about
    EVENT_TIME = "event_time"  # when the row became true, and could be known
    GAUGE = "gauge"  # a level that goes up and down: CPU, temperature
    COUNTER = "counter"  # a count that only grows: reallocated sectors
    CATEGORY = "category"  # one of few strings: model, zone, kind of event
    ATTRIBUTE = "attribute"  # a number that hardly changes: capacity
    OTHER = "other"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(Frozen):
    """One column of a data set."""

    name: str = Field(pattern=TABLE_NAME)
    type: ColumnType
    role: ColumnRole = ColumnRole.OTHER
    unit: str = ""
    description: str = ""
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] | None = None


class DatasetKind(StrEnum):
    """Which feature templates apply to the rows."""

    TELEMETRY = "telemetry"  # measurements per entity and time
    EVENTS = "events"  # things that happened to an entity: errors, maintenance, failures
    INVENTORY = "inventory"  # what is known of an entity, from some time on
    BILLING = "billing"  # cost per day and account


class BatchLimits(Frozen):
    """When a batch is broken as a whole, and stops the run instead of being sifted row by row.

    In a batch of less than ``judged_from_rows`` a single row would make a share, so there the
    shares count only where every row is broken.
    """

    min_rows: int = Field(1, ge=0, description="Fewest rows that a batch may bring; 0: an empty one is fine.")
    judged_from_rows: int = Field(20, ge=1, description="Size of a batch from which on shares are judged.")
    max_quarantined_share: float = Field(
        0.2, ge=0, le=1, description="Largest share of a batch that may be quarantined as broken."
    )
    max_duplicate_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Largest share of a batch that may be quarantined as sound, but there already.",
    )
    max_missing_share: float = Field(
        0.5, ge=0, le=1, description="Largest share of missing values in any nullable gauge."
    )


class Dataset(Frozen):
    """The contract of one table: ``raw.<name>``, ``clean.<name>`` and ``quarantine.<name>``."""

    name: str = Field(pattern=TABLE_NAME)
    kind: DatasetKind
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = Field(description="Columns that together name one row.")
    slice: timedelta = Field(
        timedelta(days=1), description="Ingest is exactly-once per slice; windows are cut into slices."
    )
    limits: BatchLimits = BatchLimits()
    schedule: str | None = Field("15 0 * * *", description="Cron (UTC) of ingest_<name>.")

    @model_validator(mode="after")
    def _roles_are_there(self) -> Dataset:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"data set {self.name}: a column is named twice: {sorted(names)}")
        if missing := [name for name in self.key if name not in names]:
            raise ValueError(f"data set {self.name}: key names no column: {missing}")
        for role in (ColumnRole.ENTITY, ColumnRole.EVENT_TIME):
            found = self.named(role)
            if len(found) != 1:
                raise ValueError(
                    f"data set {self.name}: needs exactly one column with role {role}, has {found}"
                )
        return self

    def named(self, *roles: ColumnRole) -> tuple[str, ...]:
        """Names of the columns with one of these roles, in order."""
        return tuple(column.name for column in self.columns if column.role in roles)

    @property
    def entity(self) -> str:
        return self.named(ColumnRole.ENTITY)[0]

    @property
    def event_time(self) -> str:
        return self.named(ColumnRole.EVENT_TIME)[0]

    @property
    def is_summed(self) -> bool:
        """Whether rows of equal entity and time are parts of one value: the items of a bill."""
        return self.kind is DatasetKind.BILLING


class Family(StrEnum):
    """Features that a grid takes on by name; those with a parameter of their own are fields of the grid."""

    BASIC = "basic"  # gauges: newest value, means, spread, change; counters: newest value, growth
    STATISTICS = "statistics"  # the distribution of the rows in each window
    SPECTRAL = "spectral"  # periods within the longest window
    SPIKE = "spike"  # hours since the last value far above the others
    CALENDAR = "calendar"  # hour, weekday and month of the row's time, UTC


class FeatureGrid(Frozen):
    """When feature rows are made, over which windows they look back, and which features they hold."""

    every: timedelta | None = Field(
        timedelta(hours=1),
        description="Feature rows stand at whole multiples of this; None: at each telemetry row.",
    )
    windows: tuple[timedelta, ...] = Field(
        (timedelta(hours=3), timedelta(hours=24)), min_length=1, description="Shortest first."
    )
    ttl: timedelta = Field(
        timedelta(hours=6), description="A feature row older than this is missing, not a value."
    )
    datasets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Telemetry, billing and events that the grid describes. None: all telemetry, and the events beside it.",
    )
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="Gauges and counters that the grid describes; None: all."
    )
    families: tuple[Family, ...] = (Family.BASIC,)
    lags: int = Field(
        0, ge=0, description="How many grid steps are features each, the row's own one included."
    )
    differences: tuple[int, ...] = Field(
        (), description="Grid steps over which the growth of a gauge is a feature."
    )
    autocorrelation: tuple[int, ...] = Field((), description="Steps of the resolution.")
    resolution: timedelta | None = Field(
        None, description="Spacing of the series that spectral and autocorrelation see; None: `every`."
    )

    @model_validator(mode="after")
    def _windows_are_whole(self) -> FeatureGrid:
        if list(self.windows) != sorted(set(self.windows)):
            raise ValueError(f"windows must rise without repeats: {self.windows}")
        if self.every and any(window % self.every for window in self.windows):
            raise ValueError(f"each window must be a multiple of every={self.every}: {self.windows}")
        return self

    @model_validator(mode="after")
    def _steps_are_whole(self) -> FeatureGrid:
        for name in ("differences", "autocorrelation"):
            steps = getattr(self, name)
            if list(steps) != sorted({step for step in steps if step > 0}):
                raise ValueError(f"{name} must be above zero and rise without repeats: {steps}")
        if self.every is None and (self.lags or self.differences or self.sees_series):
            raise ValueError("lags, differences, autocorrelation and spectral need a grid with 'every'")
        if self.every and self.every % self.sample_spacing:
            raise ValueError(f"every={self.every} must be a multiple of resolution={self.resolution}")
        if self.sees_series and self.windows[-1] < 4 * self.sample_spacing:
            raise ValueError(
                f"the longest window {self.windows[-1]} must hold four steps of {self.sample_spacing} for "
                "autocorrelation and spectral"
            )
        if self.autocorrelation and self.autocorrelation[-1] * self.sample_spacing >= self.windows[-1]:
            raise ValueError(f"autocorrelation {self.autocorrelation} reaches over the longest window")
        return self

    @property
    def sees_rows(self) -> bool:
        """Whether features look at the single rows of a window, not only at figures of its buckets."""
        return self.sees_series or Family.STATISTICS in self.families or Family.SPIKE in self.families

    @property
    def sees_series(self) -> bool:
        """Whether features look at the longest window as an evenly spaced series."""
        return Family.SPECTRAL in self.families or bool(self.autocorrelation)

    @property
    def sample_spacing(self) -> timedelta:
        """Spacing of that series."""
        return self.resolution or self.every or self.windows[0]

    @property
    def look_back(self) -> timedelta:
        """A feature row at T uses rows of (T - look_back, T] and none before."""
        steps = max([self.lags, *(step + 1 for step in self.differences)])
        return max(self.windows[-1], steps * (self.every or timedelta(0)))

    def gauges(self, dataset: Dataset) -> tuple[Column, ...]:
        """Gauges of a data set that have features on this grid."""
        return self._covered(dataset, ColumnRole.GAUGE)

    def counters(self, dataset: Dataset) -> tuple[Column, ...]:
        """Counters of a data set that have features on this grid. Counters of bills' items have none."""
        return () if dataset.is_summed else self._covered(dataset, ColumnRole.COUNTER)

    def _covered(self, dataset: Dataset, role: ColumnRole) -> tuple[Column, ...]:
        return tuple(
            column
            for column in dataset.columns
            if column.role is role and (self.columns is None or column.name in self.columns)
        )


Part = Literal["train", "valid", "holdout"]
