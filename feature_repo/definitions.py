"""Which features a source has: made from the roles of its data sets' columns, never from their names.

Data only, so that DAG files and the server may read it. How the values come about is in
:mod:`feature_repo.transformations`; the templates of the two modules belong together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from itertools import product

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
from feature_repo.fields import FeatureField, measured_fields, window_name

__all__ = [
    "DAY",
    "EVENT_TIME",
    "EventCode",
    "FeatureField",
    "StoredColumn",
    "Template",
    "ViewDefinition",
    "entity_fields",
    "event_codes",
    "feature_views",
    "grid_views",
    "window_name",
]

EVENT_TIME = "event_time"  # when a feature row became true; the same in every view
DAY = "day"  # partition of the feature tables: the date of event_time

# A product of many allowed values would make features by the hundred, nearly all of them null.
MAX_EVENT_CODES = 40


class Template(StrEnum):
    """How the rows of a view are made."""

    WINDOWS = "windows"
    HISTORY = "history"
    PROFILE = "profile"


class StoredColumn(Frozen):
    """One column of a feature table besides entity, event_time and day."""

    name: str
    type: ColumnType


class ViewDefinition(Frozen):
    """One feature view: a table with at most one row per entity and event_time."""

    name: str = Field(pattern=TABLE_NAME)
    grid: str | None = Field(description="Grid that its rows stand on; None: inventory, which has none.")
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


def feature_views(
    datasets: tuple[Dataset, ...], grids: Mapping[str, FeatureGrid], default: str | None = None
) -> tuple[ViewDefinition, ...]:
    """The feature views of a source: grid by grid telemetry first, then events; inventory at the end, once.

    The views of the default grid have plain names, those of the others end in the grid's name.
    Events have features only beside telemetry of the same entity, because their rows stand at the
    telemetry's feature times.

    Raises:
        ValueError: two features that one model would take have the same name, a grid names a
            data set or a column that is not there, or there are several grids and no default.
    """
    if default is None and len(grids) > 1:
        raise ValueError(f"name the default one of the grids {list(grids)}")
    views = [
        view
        for name, grid in grids.items()
        for view in _on_grid(datasets, name, grid, suffix="" if default in (None, name) else f"_{name}")
    ]
    views += [_profile(dataset) for dataset in datasets if dataset.kind is DatasetKind.INVENTORY]
    views = [view for view in views if view.fields]
    for name in grids:
        _check_names(name, grid_views(tuple(views), name))
    return tuple(views)


def grid_views(views: tuple[ViewDefinition, ...], grid: str) -> tuple[ViewDefinition, ...]:
    """The views that a model on one grid takes: those of the grid, and inventory of the same entities.

    A grid without views of its own has all inventory.
    """
    entities = {view.entity for view in views if view.grid == grid}
    return tuple(
        view
        for view in views
        if view.grid == grid or (view.grid is None and (view.entity in entities or not entities))
    )


def entity_fields(views: tuple[ViewDefinition, ...], entity: str | None = None) -> tuple[FeatureField, ...]:
    """Features of one entity in the order in which models take them; by default of the first view's.

    Args:
        views: Those of one grid, with inventory.
    """
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


def _code_name(dataset: str, values: tuple[str, ...]) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", "_".join(values).lower()).strip("_")
    return name if name[:1].isalpha() else f"{dataset}_{name}"


def _combinations(columns: list[Column]) -> int:
    total = 1
    for column in columns:
        total *= len(column.allowed or ())
    return total


def _on_grid(
    datasets: tuple[Dataset, ...], name: str, grid: FeatureGrid, suffix: str
) -> list[ViewDefinition]:
    _check_references(datasets, name, grid)
    measured = [dataset for dataset in datasets if _is_measured(dataset, grid)]
    views: list[ViewDefinition] = []
    for dataset in measured:
        # Of one entity once: the calendar is the same beside each data set.
        first_of_entity = dataset.entity not in {view.entity for view in views if view.fields}
        views.append(_windows(dataset, name, grid, suffix, with_calendar=first_of_entity))
    for dataset in datasets:
        beside = tuple(other.name for other in measured if other.entity == dataset.entity)
        if (
            dataset.kind is DatasetKind.EVENTS
            and beside
            and dataset.name in (grid.datasets or (dataset.name,))
        ):
            views.append(_history(dataset, beside, name, grid, suffix))
    return views


def _is_measured(dataset: Dataset, grid: FeatureGrid) -> bool:
    if grid.datasets is None:
        return dataset.kind is DatasetKind.TELEMETRY
    return dataset.kind in (DatasetKind.TELEMETRY, DatasetKind.BILLING) and dataset.name in grid.datasets


def _check_references(datasets: tuple[Dataset, ...], name: str, grid: FeatureGrid) -> None:
    described = {dataset.name: dataset for dataset in datasets if dataset.kind is not DatasetKind.INVENTORY}
    if missing := sorted(set(grid.datasets or ()) - described.keys()):
        raise ValueError(
            f"features.{name}.datasets: {missing} are none of telemetry, billing and events; those are {sorted(described)}"
        )
    columns = {
        column
        for dataset in datasets
        if _is_measured(dataset, grid)
        for column in dataset.named(ColumnRole.GAUGE, ColumnRole.COUNTER)
    }
    if missing := sorted(set(grid.columns or ()) - columns):
        raise ValueError(
            f"features.{name}.columns: {missing} are no gauges or counters of its data sets; those are {sorted(columns)}"
        )


def _check_names(grid: str, views: tuple[ViewDefinition, ...]) -> None:
    for entity in {view.entity for view in views}:
        names = Counter(field.name for field in entity_fields(views, entity))
        if doubled := sorted(name for name, count in names.items() if count > 1):
            raise ValueError(
                f"features {doubled} of grid {grid} come from more than one data set: rename a column of the profile"
            )


def _windows(
    dataset: Dataset, grid_name: str, grid: FeatureGrid, suffix: str, with_calendar: bool
) -> ViewDefinition:
    view = f"{dataset.name}_windows{suffix}"
    return ViewDefinition(
        name=view,
        grid=grid_name,
        template=Template.WINDOWS,
        entity=dataset.entity,
        dataset=dataset.name,
        sources=(dataset.name,),
        fields=measured_fields(view, dataset, grid, with_calendar),
        ttl=grid.ttl,
    )


def _history(
    dataset: Dataset, beside: tuple[str, ...], grid_name: str, grid: FeatureGrid, suffix: str
) -> ViewDefinition:
    view = f"{dataset.name}_history{suffix}"
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
        grid=grid_name,
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
        grid=None,
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
