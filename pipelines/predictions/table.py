"""The prediction logs in the lake: one table per registered model, partitioned by day."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipelines.adapters.lake import Lake
from pipelines.adapters.spool.ids import moment_of, parse_id
from pipelines.adapters.traffic import SHADOW

if TYPE_CHECKING:
    import polars as pl

_INDEX = "predictions_index"


def table_of(model: str) -> str:
    """Name of a registered model's table."""
    # A name could be "..", and Delta reads percent signs in paths as escapes of its own.
    escaped = quote(model, safe="").replace("~", "%7E").replace(".", "%2E").replace("%", "~")
    return f"predictions/{escaped}"


def models(lake: Lake) -> list[str]:
    """Registered models that have a prediction log."""
    if not lake.exists(_INDEX):
        return []
    names: list[str] = lake.scan(_INDEX).collect()["model"].unique().sort().to_list()
    return [name for name in names if lake.exists(table_of(name))]


def scan(lake: Lake, model: str, start: datetime | None = None, end: datetime | None = None) -> pl.LazyFrame:
    """Predictions of a model that were answered in ``[start, end)``.

    Returns:
        Columns as :func:`pipelines.predictions.steps.rows_of` makes them. Labels join by
        ``prediction_id``, or by ``entity`` and ``event_time``; answers of challengers are rows
        of their own, with another ``alias``.

    Raises:
        LakeError: the model has no prediction log.
    """
    import polars as pl

    rows = lake.scan(table_of(model))
    if start is not None:
        rows = rows.filter(pl.col("day") >= start.date(), pl.col("answered_at") >= start)
    if end is not None:
        rows = rows.filter(pl.col("day") <= end.date(), pl.col("answered_at") < end)
    return rows


def find(lake: Lake, prediction_id: str) -> tuple[str, dict[str, Any]] | None:
    """Registered model and row of a prediction; reads one day of each model.

    Raises:
        ValueError: it is no prediction id.
    """
    import polars as pl

    day = moment_of(parse_id(prediction_id)[0]).date()
    for model in models(lake):
        rows = lake.scan(table_of(model)).filter(
            pl.col("day") == day,
            pl.col("prediction_id") == prediction_id.lower(),
            pl.col("alias") != SHADOW,  # mirrored answers go by the ids of those that they mirror
        )
        if found := rows.collect().to_dicts():
            return model, found[0]
    return None


def enter(lake: Lake, model: str) -> None:
    """Put a model into the index, once."""
    import polars as pl

    lake.append(_INDEX, pl.DataFrame({"model": [model]}), work=[f"predictions:{model}"])
