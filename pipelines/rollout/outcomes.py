"""Outcomes of predictions: how wrong each version was on the same question, once the truth is known.

The boundary to whoever knows truths: one row per prediction and version, with its loss from 0 (right) to
1 (as wrong as can be): the Brier score of a probability, the share of a decision's regret, a bounded
error of a forecast. :func:`write` puts them into the lake; the rollout reads them from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.adapters.lake import Lake
from pipelines.predictions.table import table_of
from pipelines.rollout.sequential import Interval, difference, mean_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Outcome(NamedTuple):
    """How wrong a version was on one prediction.

    Attributes:
        prediction_id: Of the answer that the client has; a mirrored answer has the same.
        version: That gave this answer.
        unit: The entity that it is about; the prediction's id where it is about none.
        at: When the answer was given, UTC.
        loss: From 0 to 1.
        answered: Whether the client has this answer; False: it was mirrored.
    """

    prediction_id: str
    version: str
    unit: str
    at: datetime
    loss: float
    answered: bool = True


def write(lake: Lake, model: str, outcomes: Iterable[Outcome], work: str) -> int:
    """Add outcomes once for a piece of work; returns how many were added.

    Raises:
        ValueError: a loss is not from 0 to 1; the prediction is named.
    """
    import polars as pl

    rows = list(outcomes)
    for row in rows:
        if not 0 <= row.loss <= 1:
            raise ValueError(
                f"the loss of prediction {row.prediction_id} is {row.loss!r}; from 0 to 1 is wanted: clip it, or divide it "
                "by the largest that there can be"
            )
    schema = {
        "prediction_id": pl.String(),
        "version": pl.String(),
        "unit": pl.String(),
        "at": pl.Datetime("us", "UTC"),
        "loss": pl.Float64(),
        "answered": pl.Boolean(),
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return lake.append(_table(model), frame, work=[work]).rows_added


def read(lake: Lake, model: str, champion: str, challenger: str, since: datetime) -> list[Outcome]:
    """Outcomes of two versions on predictions since a moment, in the order of the predictions."""
    import polars as pl

    if not lake.exists(_table(model)):
        return []
    rows = lake.scan(_table(model)).filter(
        pl.col("version").is_in([champion, challenger]), pl.col("at") >= since
    )
    return [Outcome(*row) for row in rows.sort("at", "prediction_id").collect().iter_rows()]


def compare(outcomes: Iterable[Outcome], champion: str, challenger: str, alpha: float) -> Interval | None:
    """Loss of the challenger less that of the champion; None: nothing can be compared yet.

    Where both versions answered the same predictions (one of them mirrored), by these pairs. Where they
    did not, by the two arms: each unit counts once, with its first outcome, since a unit always gets
    the same version and its outcomes are alike; which units got which version is as good as random.

    Args:
        alpha: Chance that the interval ever fails to hold the difference, over all looks.
    """
    found = list(outcomes)
    pairs = _pairs(found, champion, challenger)
    if len(pairs):
        return mean_interval(pairs, alpha)
    arms = [mean_interval(_arm(found, version), alpha / 2, low=0.0) for version in (challenger, champion)]
    if arms[0] is None or arms[1] is None:
        return None
    return difference(arms[0], arms[1])


def _pairs(outcomes: list[Outcome], champion: str, challenger: str) -> NDArray[np.float64]:
    losses: dict[str, dict[str, float]] = {}
    for each in outcomes:
        losses.setdefault(each.prediction_id, {})[each.version] = each.loss
    both = [found for found in losses.values() if champion in found and challenger in found]
    return np.array([found[challenger] - found[champion] for found in both])


def _arm(outcomes: list[Outcome], version: str) -> NDArray[np.float64]:
    first: dict[str, float] = {}
    for each in outcomes:
        if each.version == version and each.answered:
            first.setdefault(each.unit, each.loss)
    return np.array(list(first.values()))


def _table(model: str) -> str:
    return table_of(model).replace("predictions/", "outcomes/", 1)
