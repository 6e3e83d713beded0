"""Rows to be scored become inputs, and answers become rows. Pure: frames in, frames out.

Each row of the table gives one row, answered or refused with the reason; where the model looks
several steps ahead and the table does not say how far, one row per step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import polars as pl

from models.manifest import FieldType, InputField, OutputField
from models.targets import STEPS_AHEAD
from pipelines.errors import ScoringError
from pipelines.times import TIME

ENTITY, EVENT_TIME, DAY = "entity", "event_time", "day"
VERSION, SCORED_AT, REFUSED = "version", "scored_at", "refused"
OUTPUT = "output__"
NO_FEATURES = "no features within their time to live"

_TYPES = {
    FieldType.DOUBLE: pl.Float64(),
    FieldType.LONG: pl.Int64(),
    FieldType.BOOLEAN: pl.Boolean(),
    FieldType.STRING: pl.String(),
}


def asked(rows: pl.DataFrame, inputs: Sequence[InputField], features: Sequence[str]) -> pl.DataFrame:
    """The rows as questions: with each step that the model looks ahead, where they do not name one.

    Args:
        inputs: Of the version.
        features: Inputs that the feature store has; the others must be columns of ``rows``.

    Raises:
        ScoringError: a required input is neither a feature nor a column.
    """
    steps = next((field for field in inputs if field.name == STEPS_AHEAD), None)
    if steps is not None and STEPS_AHEAD not in rows.columns:
        ahead = pl.DataFrame({STEPS_AHEAD: np.arange(1.0, int(steps.maximum or 1) + 1)})
        rows = rows.join(ahead, how="cross", maintain_order="left_right")
    known = {*rows.columns, *features}
    if lacking := [field.name for field in inputs if field.required and field.name not in known]:
        raise ScoringError(
            f"the version takes {lacking}, which callers suppose: the table needs columns of these names. It has "
            f"{rows.columns[:12]}"
        )
    return rows


def refusals(rows: pl.DataFrame, inputs: Sequence[InputField], own: Sequence[str]) -> pl.Series:
    """Per row why it gets no answer; null where it gets one.

    Args:
        rows: With the inputs.
        own: Features of the model's own view. Where all are missing, so are they in no training set.
    """
    required = [field.name for field in inputs if field.required and field.name in rows.columns]
    absent = [pl.when(pl.col(name).is_null()).then(pl.lit(f"input {name} is missing")) for name in required]
    stale = pl.all_horizontal(pl.col(name).is_null() for name in own) if own else pl.lit(False)
    reason = pl.coalesce(pl.when(stale).then(pl.lit(NO_FEATURES)), *absent, pl.lit(None, pl.String))
    return rows.select(reason.alias(REFUSED)).to_series()


def answered(
    rows: pl.DataFrame,
    refused: pl.Series,
    answers: Mapping[str, np.ndarray],
    outputs: Sequence[OutputField],
    *,
    entity: str,
    version: str,
    keep: Sequence[str],
    at: datetime,
) -> pl.DataFrame:
    """Rows of the table of predictions.

    Args:
        rows: The questions, with the entity and ``event_time``.
        refused: As :func:`refusals` says.
        answers: Of the others, in order; empty where there are none.
        keep: Columns of the questions that stay beside the answers.
        at: When they were scored.

    Returns:
        ``entity``, ``event_time``, ``day``, ``version``, ``scored_at``, ``refused``, what is kept and
        ``output__<name>``.
    """
    answer = (
        refused.is_null().to_frame("ok").select(pl.when("ok").then(pl.col("ok").cum_sum() - 1)).to_series()
    )
    told = {
        f"{OUTPUT}{field.name}": _series(answers.get(field.name, np.empty(0)), field.type).gather(answer)
        for field in outputs
    }
    return rows.select(
        pl.col(entity).alias(ENTITY),
        pl.col(EVENT_TIME),
        pl.col(EVENT_TIME).dt.date().alias(DAY),
        pl.lit(version).alias(VERSION),
        pl.lit(at, TIME).alias(SCORED_AT),
        refused.alias(REFUSED),
        *keep,
    ).with_columns(values.alias(name) for name, values in told.items())


def _series(values: np.ndarray, kind: FieldType) -> pl.Series:
    series = pl.Series(values.tolist(), dtype=_TYPES[kind])
    return series.fill_nan(None) if kind is FieldType.DOUBLE else series
