"""One prediction, by its id: in the spool as long as it is there, in the lake ever after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipelines.adapters.lake import Lake
from pipelines.adapters.spool.ids import moment_of, parse_id
from pipelines.adapters.spool.records import Damage, find
from pipelines.adapters.spool.segments import streams
from pipelines.errors import PredictionError
from pipelines.predictions import table

if TYPE_CHECKING:
    from pipelines.settings import Settings

# File systems round times of change; a segment that holds an answer was changed after it.
_ROUNDING = timedelta(seconds=2)


@dataclass(frozen=True)
class Traced:
    """A prediction.

    Attributes:
        model: Registered model.
        place: Table of the lake, or file of the spool.
        facts: Columns of the prediction log that are neither features nor outputs.
        features: What the model saw; None for missing.
        outputs: All that it answered.
    """

    model: str
    place: str
    facts: dict[str, Any]
    features: dict[str, Any]
    outputs: dict[str, Any]


def trace(prediction_id: str, settings: Settings) -> Traced:
    """Find a prediction.

    Raises:
        PredictionError: nothing has this id.
        ValueError: it is no prediction id.
    """
    high, low = parse_id(prediction_id)
    lake = Lake.of(settings)
    # The spool first: what leaves it meanwhile is in the lake by then.
    found = _in_spool(high, low, settings) or _in_lake(lake, prediction_id)
    if found is None:
        raise PredictionError(
            f"no prediction {prediction_id}, which would be of {moment_of(high):%Y-%m-%d %H:%M:%S} UTC, in "
            f"{lake.address('predictions')} or {settings.prediction_spool}. Was the log on "
            "(HEADRACE_PREDICTION_LOG), and does another machine's spool hold it still?"
        )
    return found


def _in_spool(high: int, low: int, settings: Settings) -> Traced | None:
    from pipelines.predictions.steps import rows_of

    earliest = (moment_of(high) - _ROUNDING).timestamp()
    for stream in streams(settings.prediction_spool):
        for segment in stream.segments:
            try:
                if segment.path.stat().st_mtime < earliest:
                    continue
                content = segment.path.read_bytes()
            except FileNotFoundError:
                continue  # shipped meanwhile
            if found := find(content, high, low, Damage()):
                record, row = found
                rows = rows_of([(segment.replica, record)])
                return _traced(record.layout.model, str(segment.path), rows.row(row, named=True))
    return None


def _in_lake(lake: Lake, prediction_id: str) -> Traced | None:
    found = table.find(lake, prediction_id)
    if found is None:
        return None
    model, row = found
    return _traced(model, lake.address(table.table_of(model)), row)


def _traced(model: str, place: str, row: dict[str, Any]) -> Traced:
    from pipelines.predictions.steps import COLUMNS, FEATURE, OUTPUT

    def named(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): row[name] for name in row if name.startswith(prefix)}

    return Traced(model, place, {name: row[name] for name in COLUMNS}, named(FEATURE), named(OUTPUT))
