"""A snapshot's parts as arrays, in the form that builders and the gate take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from models.base import Observations
from models.manifest import FieldType, InputField
from models.targets import PREFIX


def observations(
    snapshot: pl.DataFrame, part: str, entity: str, inputs: tuple[InputField, ...]
) -> Observations:
    """Rows of one part, in the snapshot's order."""
    rows = snapshot.filter(pl.col("part") == part)
    return Observations(
        columns=columns(rows, inputs),
        targets={
            name.removeprefix(PREFIX): rows[name].cast(pl.Float64).to_numpy()
            for name in rows.columns
            if name.startswith(PREFIX)
        },
        weight=rows["weight"].to_numpy(),
        entity=rows[entity].to_numpy(),
        time=rows["event_time"].dt.replace_time_zone(None).to_numpy(),
    )


def columns(rows: pl.DataFrame, inputs: Iterable[InputField]) -> dict[str, np.ndarray]:
    """The inputs as predictors take them: strings as objects, all else as floats with NaN for missing."""
    return {field.name: _array(rows[field.name], field) for field in inputs}


def _array(column: pl.Series, field: InputField) -> np.ndarray:
    if field.type is FieldType.STRING:
        return np.array(column.to_list(), dtype=object)
    return column.cast(pl.Float64).to_numpy()
