"""The Feast objects of a source, built from its definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import feature_repo.feast_import  # noqa: F401 - before all else of Feast

# isort: split
from feast import Entity, FeatureService, FeatureView, Field
from feast.types import FeastType, Float64, Int64, String
from feast.value_type import ValueType

from feature_repo.datasets import ColumnType
from feature_repo.definitions import DAY, EVENT_TIME, ViewDefinition
from feature_repo.offline_store import DeltaSource

_TYPES: dict[ColumnType, FeastType] = {
    ColumnType.FLOAT: Float64,
    ColumnType.INTEGER: Int64,
    ColumnType.STRING: String,
    ColumnType.TIMESTAMP: Int64,  # whole microseconds, see feature_repo.offline_store
}
_FOR_EVER = timedelta(0)  # as Feast writes it


def feast_objects(
    views: tuple[ViewDefinition, ...], models: Mapping[str, tuple[str, ...]], table_of: Callable[[str], str]
) -> list[Entity | FeatureView | FeatureService]:
    """Entities and views, and one service per model with the views that it takes.

    Args:
        models: Names of the views that each model takes, by its name.
        table_of: Path below the lake of a view's table.
    """
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
        for name in dict.fromkeys(view.entity for view in views)
    }
    feature_views = {
        view.name: _feature_view(view, entities[view.entity], table_of(view.name)) for view in views
    }
    services = [
        FeatureService(name=model, features=[feature_views[name] for name in chosen])
        for model, chosen in models.items()
        if chosen
    ]
    return [*entities.values(), *feature_views.values(), *services]


def _feature_view(view: ViewDefinition, entity: Entity, table: str) -> FeatureView:
    descriptions = {field.at_column or field.name: field for field in view.fields}
    return FeatureView(
        name=view.name,
        entities=[entity],
        ttl=view.ttl or _FOR_EVER,
        schema=[
            Field(name=view.entity, dtype=String),
            *(
                Field(
                    name=column.name,
                    dtype=_TYPES[column.type],
                    description=descriptions[column.name].description,
                    tags={"unit": descriptions[column.name].unit} if descriptions[column.name].unit else {},
                )
                for column in view.stored
            ),
        ],
        source=DeltaSource(table=table, timestamp_field=EVENT_TIME, date_partition_column=DAY),
        online=True,
    )
