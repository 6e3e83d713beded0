"""Labels that come from outside: one value per key, whatever comes late, twice or in contradiction. Pure.

A label names a prediction by its id, or else an entity and a time, and the target it is of. The newest word
(`labelled_at`) counts; of two at one time the larger value, so that the order of files does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipelines.errors import MonitorError
from pipelines.times import TIME, utc_times

#: Columns of the table of labels.
COLUMNS = {
    "prediction_id": pl.String(),
    "entity": pl.String(),
    "event_time": TIME,
    "target": pl.String(),
    "value": pl.Float64(),
    "labelled_at": TIME,
}
KEY = ("prediction_id", "entity", "event_time", "target")


@dataclass(frozen=True)
class Resolved:
    """One row per key.

    Attributes:
        duplicates: Rows that said again what was said.
        contradictions: Keys of which different values were said.
    """

    rows: pl.DataFrame
    duplicates: int
    contradictions: int


def checked(rows: pl.DataFrame, targets: tuple[str, ...], arrived: pl.Expr) -> pl.DataFrame:
    """Rows as :data:`COLUMNS` has them.

    Args:
        rows: Columns ``value`` and either ``prediction_id`` or ``entity`` and ``event_time``; ``target`` where the
            model has several, ``labelled_at`` where it is not the time of arrival.
        targets: Of the model, without their prefix.
        arrived: When they came.

    Raises:
        MonitorError: a column is missing, or a row has no key, no number or another target; the first are named.
    """
    by_id = "prediction_id" in rows.columns
    if "value" not in rows.columns or not (by_id or {"entity", "event_time"} <= set(rows.columns)):
        raise MonitorError(
            f"labels need the columns value and prediction_id, or value, entity and event_time; there are {rows.columns}"
        )
    if "target" not in rows.columns and len(targets) > 1:
        raise MonitorError(f"labels need the column target, which says of which of {list(targets)} each is")
    given = {
        "prediction_id": pl.col("prediction_id").cast(pl.String).str.to_lowercase()
        if by_id
        else pl.lit(None, pl.String),
        "entity": pl.col("entity").cast(pl.String) if "entity" in rows.columns else pl.lit(None, pl.String),
        "event_time": utc_times(pl.col("event_time"), rows.schema["event_time"])
        if "event_time" in rows.columns
        else pl.lit(None, TIME),
        "target": pl.col("target") if "target" in rows.columns else pl.lit(targets[0]),
        "value": pl.col("value").cast(pl.Float64, strict=False),
        "labelled_at": utc_times(pl.col("labelled_at"), rows.schema["labelled_at"])
        if "labelled_at" in rows.columns
        else arrived,
    }
    found = rows.select(**given).match_to_schema(COLUMNS)
    has_key = pl.col("prediction_id").is_not_null() | (
        pl.col("entity").is_not_null() & pl.col("event_time").is_not_null()
    )
    # An id says all: with or without its entity and time it must be the same key.
    found = found.with_columns(
        pl.when(pl.col("prediction_id").is_null()).then(pl.col(name)).alias(name)
        for name in ("entity", "event_time")
    )
    sound = (
        has_key
        & pl.col("value").is_finite()
        & pl.col("target").is_in(list(targets))
        & pl.col("labelled_at").is_not_null()
    )
    wrong = found.with_row_index("row").filter(~sound.fill_null(value=False))
    if wrong.height:
        raise MonitorError(
            f"{wrong.height} of {found.height} labels have no key, no finite value, no time or no target among {list(targets)}, "
            f"such as row {wrong['row'][0]}: {wrong.drop('row').row(0, named=True)}"
        )
    return found


def resolve(rows: pl.DataFrame) -> Resolved:
    """The word that counts, per key."""
    newest = rows.sort("labelled_at", "value").unique(list(KEY), keep="last", maintain_order=True)
    values = rows.group_by(list(KEY)).agg(different=pl.col("value").n_unique(), all=pl.len())
    said_again = int((values["all"] - values["different"]).sum())
    return Resolved(newest, said_again, int((values["different"] > 1).sum()))


def joined(predictions: pl.DataFrame, labels: pl.DataFrame, target: str) -> pl.DataFrame:
    """Predictions with ``target__<target>``: by id first, else by entity and time; null where nobody said.

    Args:
        predictions: Columns ``prediction_id``, ``entity``, ``event_time``; each row stays one row.
    """
    mine = labels.filter(pl.col("target") == target)
    by_id = mine.filter(pl.col("prediction_id").is_not_null()).select("prediction_id", _by_id="value")
    by_time = mine.filter(pl.col("prediction_id").is_null()).select("entity", "event_time", _by_time="value")
    return (
        predictions.join(by_id, on="prediction_id", how="left", maintain_order="left")
        .join(by_time, on=["entity", "event_time"], how="left", maintain_order="left")
        .with_columns(pl.coalesce("_by_id", "_by_time").alias(f"target__{target}"))
        .drop("_by_id", "_by_time")
    )
