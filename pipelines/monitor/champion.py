"""The version in production, loaded as the server loads it, and asked as monitoring asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from models.base import Answers
    from models.specs import ModelSpec
    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.adapters.runtimes.base import Predictor
    from pipelines.lineage.record import Training
    from pipelines.monitor.observe import Observed
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile


@dataclass(frozen=True)
class Champion:
    """A version, and what is recorded of it."""

    name: str
    version: ModelVersion
    predictor: Predictor
    training: Training
    spec: ModelSpec
    profile: SourceProfile


def loaded(registry: Registry, version: ModelVersion, folder: Path, settings: Settings) -> Predictor:
    from pipelines.adapters import exports
    from pipelines.adapters.signing import Trust

    registry.download(version, folder)
    return exports.load_export(
        exports.find_export(folder), version.tags.get(exports.MANIFEST_TAG), Trust.of(settings)
    )


def answers_of(champion: Champion, observed: Observed) -> Answers:
    """What the version says of the observations; nothing where it needs what only callers know."""
    columns = inputs_of(champion, observed.rows)
    return {} if columns is None else champion.predictor.predict(columns)


def inputs_of(champion: Champion, rows: pl.DataFrame) -> dict[str, Any] | None:
    import numpy as np
    import polars as pl

    from models.manifest import FieldType

    spec = champion.spec
    if spec.entity_input:
        entity = next(name for name in rows.columns if name != "event_time")
        rows = rows.with_columns(pl.col(entity).alias(spec.entity_input))
    fields = champion.predictor.manifest.inputs
    if spec.given or any(field.name not in rows.columns for field in fields):
        return None
    return {
        field.name: np.array(rows[field.name].to_list(), dtype=object)
        if field.type is FieldType.STRING
        else rows[field.name].cast(pl.Float64).to_numpy()
        for field in fields
    }
