"""Records of the spool as rows of the prediction log. Frames out, nothing stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.manifest import FieldType
from pipelines.adapters.spool.records import Layout, Record
from pipelines.times import TIME

DAY = "day"
FEATURE = "feature__"
OUTPUT = "output__"

#: Columns of each prediction log, besides one per feature and one per output.
COLUMNS: Mapping[str, pl.DataType] = {
    "prediction_id": pl.String(),
    "answered_at": TIME,
    DAY: pl.Date(),
    "version": pl.String(),
    "alias": pl.String(),
    "transport": pl.String(),
    "replica": pl.String(),
    "entity": pl.String(),
    "event_time": TIME,
    "latency_seconds": pl.Float64(),
    "batch_rows": pl.Int64(),
    "request_id": pl.String(),
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Whole numbers are floats in the server, with NaN for missing; a version that makes of one the
# other must not need another column.
_TYPES: Mapping[FieldType, pl.DataType] = {
    FieldType.DOUBLE: pl.Float64(),
    FieldType.LONG: pl.Float64(),
    FieldType.BOOLEAN: pl.Boolean(),
    FieldType.STRING: pl.String(),
}


def rows_of(
    records: Iterable[tuple[str, Record]], table: Mapping[str, pl.DataType] | None = None
) -> pl.DataFrame:
    """Rows of one model's prediction log, one per predicted row, in order of time.

    Args:
        records: Each with the name of the replica that answered. All are of one model; versions may differ
            in features and outputs.
        table: Columns that the log has already. Where a feature changed its type, it gets a column
            of its own, ``feature__<name>__<type>``.

    Returns:
        The columns :data:`COLUMNS`, then ``feature__<name>`` and ``output__<name>``; missing values are null.
    """
    groups: dict[Layout, list[tuple[str, Record]]] = defaultdict(list)
    for replica, record in records:
        groups[record.layout].append((replica, record))
    columns = {**COLUMNS, **(table or {})}
    frames = [_frame(layout, group, columns) for layout, group in groups.items()]
    return pl.concat([pl.DataFrame(schema=dict(COLUMNS)), *frames], how="diagonal").sort("prediction_id")


def _frame(
    layout: Layout, group: Sequence[tuple[str, Record]], columns: dict[str, pl.DataType]
) -> pl.DataFrame:
    records = [record for _, record in group]
    counts = np.array([len(record.ids) for record in records])

    def repeated(values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
        return pl.Series(values, dtype=dtype, strict=True).gather(np.repeat(np.arange(len(counts)), counts))

    answered = repeated([_microseconds(record.answered_at) for record in records], pl.Int64()).cast(TIME)
    about = repeated([_microseconds(record.at) for record in records], pl.Int64()).cast(TIME)
    seconds = repeated([record.seconds for record in records], pl.Float64())
    series = {
        "prediction_id": pl.Series([text for record in records for text in record.ids], dtype=pl.String()),
        "answered_at": answered,
        DAY: answered.cast(pl.Date()),
        "version": repeated([layout.version] * len(records), pl.String()),
        "alias": repeated([layout.alias] * len(records), pl.String()),
        "transport": repeated([layout.transport] * len(records), pl.String()),
        "replica": repeated([replica for replica, _ in group], pl.String()),
        "entity": _texts([record.entities for record in records], counts),
        "event_time": about,
        "latency_seconds": seconds,
        "batch_rows": repeated(counts.tolist(), pl.Int64()),
        "request_id": repeated([record.request_id or None for record in records], pl.String()),
    }
    features = np.concatenate([record.features for record in records])
    for position, (name, kind) in enumerate(layout.inputs):
        texts = _texts([record.texts["inputs"].get(name) for record in records], counts)
        series[_column(FEATURE + name, kind, columns)] = _values(kind, features[:, position], texts)
    outputs = np.concatenate([record.outputs for record in records])
    for name, kind in layout.outputs:
        texts = _texts([record.texts["outputs"].get(name) for record in records], counts)
        numbers = outputs[:, layout.numeric_outputs.index(name)] if name in layout.numeric_outputs else None
        series[_column(OUTPUT + name, kind, columns)] = _values(kind, numbers, texts)
    return pl.DataFrame(series)


def _column(name: str, kind: FieldType, columns: dict[str, pl.DataType]) -> str:
    """The column for a value of this kind, entered in ``columns``."""
    dtype = _TYPES[kind]
    if columns.get(name, dtype) != dtype:
        name = f"{name}__{kind.value}"
    columns[name] = dtype
    return name


def _values(kind: FieldType, numbers: NDArray[np.float64] | None, texts: pl.Series) -> pl.Series:
    if kind is FieldType.STRING or numbers is None:
        return texts
    return pl.Series(numbers).fill_nan(None).cast(_TYPES[kind])


def _texts(values: Sequence[Sequence[str | None] | None], counts: NDArray[np.int64]) -> pl.Series:
    """One value per row; null where an answer has none."""
    flat = [
        text
        for given, count in zip(values, counts.tolist(), strict=True)
        for text in (given if given is not None else [None] * count)
    ]
    return pl.Series(flat, dtype=pl.String())


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round((moment - _EPOCH).total_seconds() * 1_000_000)
