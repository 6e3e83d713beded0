"""Which features a source has: made from the roles of its data sets' columns, never from their names.

Data only, so that DAG files and the server may read it. How the values come about is in
:mod:`feature_repo.transformations`; the templates of the two modules belong together.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from enum import StrEnum
from itertools import product
from typing import Literal

from pydantic import Field

from feature_repo.datasets import (
    TABLE_NAME,
    Column,
    ColumnRole,
    ColumnType,
    Dataset,
    DatasetKind,
    FeatureGrid,
    Frozen,
)

EVENT_TIME = "event_time"  # when a feature row became true; the same in every view
DAY = "day"  # partition of the feature tables: the date of event_time

# A product of many allowed values would make features by the hundred, nearly all of them null.
MAX_EVENT_CODES = 40


class Template(StrEnum):
    """How the rows of a view are made."""

    WINDOWS = "windows"
    HISTORY = "history"
    PROFILE = "profile"


class FeatureField(Frozen):
    """One feature, as models take it."""

    name: str = Field(pattern=TABLE_NAME)
    view: str
    type: ColumnType
    unit: str = ""
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    kind: Literal["stored", "elapsed"] = "stored"
    at_column: str | None = Field(
        None,
        description="For elapsed features: the stored time from which the hours are counted at retrieval.",
    )


class StoredColumn(Frozen):
    """One column of a feature table besides entity, event_time and day."""

    name: str
    type: ColumnType


class ViewDefinition(Frozen):
    """One feature view: a table with at most one row per entity and event_time."""

    name: str = Field(pattern=TABLE_NAME)
    template: Template
    entity: str = Field(description="Column that names the entity.")
    dataset: str = Field(description="Data set that the features describe.")
    sources: tuple[str, ...] = Field(description="All data sets that decide its rows.")
    fields: tuple[FeatureField, ...]
    ttl: timedelta | None = Field(description="A row older than this is missing; None: rows never age.")

    @property
    def stored(self) -> tuple[StoredColumn, ...]:
        """Columns of the table; an elapsed feature is stored as the time that it is counted from."""
        return tuple(
            StoredColumn(name=field.at_column, type=ColumnType.TIMESTAMP)
            if field.at_column
            else StoredColumn(name=field.name, type=field.type)
            for field in self.fields
        )


class EventCode(Frozen):
    """One kind of event that gets its own features: the value of each column that tells it apart."""

    name: str
    values: tuple[tuple[str, str], ...]


def feature_views(datasets: tuple[Dataset, ...], grid: FeatureGrid) -> tuple[ViewDefinition, ...]:
    """The feature views of a source: telemetry first, then events, then inventory.

    Events have features only beside telemetry of the same entity, because their rows stand at the
    telemetry's feature times.

    Raises:
        ValueError: two features would have the same name.
    """
    telemetry = [dataset for dataset in datasets if dataset.kind is DatasetKind.TELEMETRY]
    views = [_windows(dataset, grid) for dataset in telemetry]
    for dataset in datasets:
        beside = tuple(other.name for other in telemetry if other.entity == dataset.entity)
        if dataset.kind is DatasetKind.EVENTS and beside:
            views.append(_history(dataset, beside, grid))
    views += [_profile(dataset) for dataset in datasets if dataset.kind is DatasetKind.INVENTORY]
    views = [view for view in views if view.fields]
    names = Counter(name for view in views for name in (field.name for field in view.fields))
    if doubled := sorted(name for name, count in names.items() if count > 1):
        raise ValueError(
            f"features {doubled} come from more than one data set: rename a column of the profile"
        )
    return tuple(views)


def entity_fields(views: tuple[ViewDefinition, ...], entity: str | None = None) -> tuple[FeatureField, ...]:
    """Features of one entity in the order in which models take them; by default of the first view's."""
    if not views:
        return ()
    wanted = entity or views[0].entity
    return tuple(field for view in views if view.entity == wanted for field in view.fields)


def event_codes(dataset: Dataset) -> tuple[EventCode, ...]:
    """What is counted apart: each combination of the values that the category columns declare.

    A column that declares no values is not told apart; with too many combinations the last
    columns are not either. No column left: all events count as one code of the data set's name.
    """
    columns = [column for column in dataset.columns if column.role is ColumnRole.CATEGORY and column.allowed]
    while columns and _combinations(columns) > MAX_EVENT_CODES:
        columns.pop()
    if not columns:
        return (EventCode(name=dataset.name, values=()),)
    return tuple(
        EventCode(
            name=_code_name(dataset.name, values),
            values=tuple(zip((column.name for column in columns), values, strict=True)),
        )
        for values in product(*(column.allowed or () for column in columns))
    )


def window_name(window: timedelta) -> str:
    """Short name of a window: ``3h``, ``24h``, ``3d``, ``30min``, ``90s``. Days from two days on."""
    seconds = int(window.total_seconds())
    if seconds % 86_400 == 0 and seconds > 86_400:
        return f"{seconds // 86_400}d"
    if seconds % 3_600 == 0:
        return f"{seconds // 3_600}h"
    return f"{seconds // 60}min" if seconds % 60 == 0 else f"{seconds}s"


def _code_name(dataset: str, values: tuple[str, ...]) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", "_".join(values).lower()).strip("_")
    return name if name[:1].isalpha() else f"{dataset}_{name}"


def _combinations(columns: list[Column]) -> int:
    total = 1
    for column in columns:
        total *= len(column.allowed or ())
    return total


def _windows(dataset: Dataset, grid: FeatureGrid) -> ViewDefinition:
    view = f"{dataset.name}_windows"
    fields: list[FeatureField] = []
    for column in dataset.columns:
        if column.role is ColumnRole.GAUGE:
            fields += _gauge_fields(view, column, grid)
        elif column.role is ColumnRole.COUNTER:
            fields += _counter_fields(view, column, grid)
    return ViewDefinition(
        name=view,
        template=Template.WINDOWS,
        entity=dataset.entity,
        dataset=dataset.name,
        sources=(dataset.name,),
        fields=tuple(fields),
        ttl=grid.ttl,
    )


def _gauge_fields(view: str, column: Column, grid: FeatureGrid) -> list[FeatureField]:
    shortest, longest = window_name(grid.windows[0]), window_name(grid.windows[-1])
    bounds = {"minimum": column.minimum, "maximum": column.maximum}
    span = None if column.minimum is None or column.maximum is None else column.maximum - column.minimum

    def field(suffix: str, description: str, **limits: float | None) -> FeatureField:
        return FeatureField(
            name=f"{column.name}__{suffix}",
            view=view,
            type=ColumnType.FLOAT,
            unit=column.unit,
            description=f"{column.description or column.name} {description}",
            **limits,
        )

    fields = [field("last", f"Newest value of the last {longest}.", **bounds)]
    for window in map(window_name, grid.windows):
        fields.append(field(f"mean_{window}", f"Mean of the last {window}.", **bounds))
    # Spread only over the longest window: the shortest may hold a single value.
    fields.append(
        field(f"std_{longest}", f"Standard deviation of the last {longest}.", minimum=0.0, maximum=span)
    )
    if len(grid.windows) > 1:
        limits = {} if span is None else {"minimum": -span, "maximum": span}
        fields.append(
            field("change", f"Mean of the last {shortest} minus mean of the last {longest}.", **limits)
        )
    return fields


def _counter_fields(view: str, column: Column, grid: FeatureGrid) -> list[FeatureField]:
    longest = window_name(grid.windows[-1])

    def field(suffix: str, description: str, maximum: float | None) -> FeatureField:
        return FeatureField(
            name=f"{column.name}__{suffix}",
            view=view,
            type=column.type,
            unit=column.unit,
            description=f"{column.description or column.name} {description}",
            minimum=column.minimum if suffix == "last" else 0.0,
            maximum=maximum,
        )

    return [
        field("last", f"Newest value of the last {longest}.", column.maximum),
        *(
            field(
                f"increase_{window}",
                f"Growth within the last {window}; a fall counts as a new start at zero.",
                None,
            )
            for window in map(window_name, grid.windows)
        ),
    ]


def _history(dataset: Dataset, beside: tuple[str, ...], grid: FeatureGrid) -> ViewDefinition:
    view = f"{dataset.name}_history"
    longest = window_name(grid.windows[-1])
    fields: list[FeatureField] = []
    for code in event_codes(dataset):
        what = " and ".join(f"{column} {value}" for column, value in code.values) or dataset.name
        # One window is enough for counts: whether a shorter one holds an event is in the hours
        # since the last.
        count = FeatureField(
            name=f"{code.name}__count_{longest}",
            view=view,
            type=ColumnType.INTEGER,
            unit="count",
            minimum=0.0,
            description=f"Events with {what} in the last {longest}.",
        )
        since = FeatureField(
            name=f"hours_since_{code.name}",
            view=view,
            type=ColumnType.FLOAT,
            unit="hours",
            minimum=0.0,
            kind="elapsed",
            at_column=f"{code.name}_last_at",
            description=f"Since the last event with {what}; null when there was none.",
        )
        fields += [count, since]
    return ViewDefinition(
        name=view,
        template=Template.HISTORY,
        entity=dataset.entity,
        dataset=dataset.name,
        sources=(dataset.name, *beside),
        fields=tuple(fields),
        ttl=grid.ttl,
    )


def _profile(dataset: Dataset) -> ViewDefinition:
    view = f"{dataset.name}_profile"
    return ViewDefinition(
        name=view,
        template=Template.PROFILE,
        entity=dataset.entity,
        dataset=dataset.name,
        sources=(dataset.name,),
        fields=tuple(
            FeatureField(
                name=column.name,
                view=view,
                type=column.type,
                unit=column.unit,
                description=column.description,
                minimum=column.minimum,
                maximum=column.maximum,
            )
            for column in dataset.columns
            if column.role in (ColumnRole.CATEGORY, ColumnRole.ATTRIBUTE)
        ),
        ttl=None,
    )
