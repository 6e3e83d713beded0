"""The assets by which Airflow draws the way from a raw table to the alias ``production``.

Their events carry what came of it as ``extra``. Nothing is scheduled by them but trainings, by
:func:`dags.defaults.retrain_asset`.
"""

from __future__ import annotations

from airflow.sdk import Asset

from models.specs import ModelSpec
from pipelines.references import Layer
from pipelines.sources.profile import SourceProfile

_GROUP_DATA, _GROUP_MODELS = "headrace_data", "headrace_models"


def table(profile: SourceProfile, layer: Layer, dataset: str) -> Asset:
    """Raw or clean rows of one data set."""
    return Asset(
        f"{dataset}_{layer.value}", uri=f"headrace://{profile.table(layer, dataset)}", group=_GROUP_DATA
    )


def features(profile: SourceProfile, grid: str) -> Asset:
    """Feature rows of one grid, offline and online."""
    return Asset(
        f"features_{profile.name}_{grid}", uri=f"headrace://features/{profile.name}/{grid}", group=_GROUP_DATA
    )


def snapshot(spec: ModelSpec) -> Asset:
    """Training sets of one model."""
    return Asset(f"snapshot_{spec.name}", uri=f"headrace://snapshots/{spec.name}", group=_GROUP_MODELS)


def versions(spec: ModelSpec) -> Asset:
    """Registered versions of one model."""
    return Asset(f"versions_{spec.name}", uri=f"headrace://models/{spec.name}/versions", group=_GROUP_MODELS)


def production(spec: ModelSpec) -> Asset:
    """What the alias ``production`` of one model names."""
    return Asset(
        f"production_{spec.name}", uri=f"headrace://models/{spec.name}/production", group=_GROUP_MODELS
    )
