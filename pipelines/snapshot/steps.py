"""Observations, parts and weights: how a training set is made from times and targets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from models.specs import Split
from models.targets import PREFIX
from pipelines.errors import SnapshotError

PARTS = ("train", "valid", "holdout")
EVENT = f"{PREFIX}event"
HOURS, OBSERVED = f"{PREFIX}hours", f"{PREFIX}observed"
UNIX_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - Polars truncates in UTC; only the offset matters


@dataclass(frozen=True)
class Cuts:
    """Times that part the observations: train < valid_from <= valid < holdout_from <= holdout."""

    valid_from: datetime
    holdout_from: datetime


def observation_times(lives: pl.DataFrame, entity: str, every: timedelta) -> pl.DataFrame:
    """Each entity at each whole multiple of ``every`` of its life.

    Args:
        lives: Columns entity, ``first`` and ``last`` (UTC): when its features begin and end.

    Returns:
        Columns entity and ``event_time``, sorted by both.
    """
    return (
        lives.lazy()
        .with_columns(first=pl.col("first").dt.offset_by("-1us").dt.truncate(every) + every)
        .filter(pl.col("first") <= pl.col("last"))
        .select(entity, event_time=pl.datetime_ranges("first", "last", interval=every))
        .explode("event_time")
        .sort(entity, "event_time")
        .collect()
    )


#: So many label horizons after a change each part has a horizon's worth of what came after it, about.
HORIZONS_TO_LEARN = 7
# Of the time since a change: what train has of it, and valid.
_TRAIN_SINCE, _VALID_SINCE = 0.4, 0.3


def cut_times(
    observations: pl.DataFrame,
    split: Split,
    changed_at: datetime | None = None,
    horizon: timedelta = timedelta(0),
) -> Cuts:
    """Cuts at shares of the observed span of time.

    Args:
        changed_at: Since when things are otherwise, where that is why a model is trained. Cuts that would leave
            train little of what came since are moved later, so that all parts have of it: else nobody could learn it
            before a whole holdout and a whole valid part of it had gone by. None, or too short a time ago for each
            part to have any: as the split says.
        horizon: Of the target; each part loses as much before its end.

    Raises:
        SnapshotError: there are no observations.
    """
    first, last = observations["event_time"].min(), observations["event_time"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        raise SnapshotError(
            "no observation has a complete target: widen the window beyond the target's horizon"
        )
    span = last - first
    cuts = Cuts(
        valid_from=first + span * (1 - split.valid_share - split.holdout_share),
        holdout_from=first + span * (1 - split.holdout_share),
    )
    if changed_at is None or not first < changed_at < last:
        return cuts
    since = last - changed_at
    if since * min(_TRAIN_SINCE, _VALID_SINCE) <= horizon:
        return cuts
    return Cuts(
        valid_from=max(cuts.valid_from, changed_at + since * _TRAIN_SINCE),
        holdout_from=max(cuts.holdout_from, changed_at + since * (_TRAIN_SINCE + _VALID_SINCE)),
    )


def assign_parts(
    observations: pl.DataFrame, entity: str, split: Split, cuts: Cuts, horizon: timedelta, seed: int
) -> pl.DataFrame:
    """Add ``part``; rows whose horizon reaches over a cut belong to none and are dropped.

    With ``entity_and_time`` a seeded share of the entities has its newest time in the holdout and
    its older time nowhere; the others are never in the holdout. With ``entity`` there are no cuts:
    each entity has its whole time in the part that the seed gives it.
    """
    share = _share(pl.col(entity), seed)
    if split.by == "entity":
        return observations.with_columns(
            part=pl.when(share < split.holdout_entities_share)
            .then(pl.lit("holdout"))
            .when(share < split.holdout_entities_share + split.valid_share)
            .then(pl.lit("valid"))
            .otherwise(pl.lit("train"))
        )
    time, ends = pl.col("event_time"), pl.col("event_time") + horizon
    part = (
        pl.when(ends <= cuts.valid_from)
        .then(pl.lit("train"))
        .when((time >= cuts.valid_from) & (ends <= cuts.holdout_from))
        .then(pl.lit("valid"))
        .when(time >= cuts.holdout_from)
        .then(pl.lit("holdout"))
    )
    parted = observations.with_columns(part=part).filter(pl.col("part").is_not_null())
    if split.by == "time":
        return parted
    return parted.filter((share < split.holdout_entities_share) == (pl.col("part") == "holdout"))


def as_known(parted: pl.DataFrame, cuts: Cuts) -> pl.DataFrame:
    """Durations as they were known when the part ended: what came later is censored there.

    Only ``target__hours`` and ``target__observed`` need this: every other target is whole within
    its horizon, which no part reaches over.
    """
    if not {HOURS, OBSERVED} <= set(parted.columns):
        return parted
    ends = (
        pl.when(pl.col("part") == "train")
        .then(pl.lit(cuts.valid_from).cast(pl.Datetime("us", "UTC")))
        .when(pl.col("part") == "valid")
        .then(pl.lit(cuts.holdout_from).cast(pl.Datetime("us", "UTC")))
    )
    watched = (ends - pl.col("event_time")).dt.total_microseconds() / 3.6e9
    cut_short = (pl.col(HOURS) > watched).fill_null(value=False)
    return parted.with_columns(
        pl.when(cut_short).then(watched).otherwise(pl.col(HOURS)).alias(HOURS),
        pl.when(cut_short).then(0.0).otherwise(pl.col(OBSERVED)).alias(OBSERVED),
    )


def thin(observations: pl.DataFrame, entity: str, split: Split, seed: int) -> pl.DataFrame:
    """Keep a seeded share of the rows; ``weight`` undoes the sampling of negatives.

    ``rows_kept`` samples all alike, so weights stay 1. ``negatives_kept`` keeps every row whose
    ``target__event`` is 1. The choice hangs on the row alone, so a row is kept or not whatever else
    is in the window.
    """
    moment = pl.concat_str(pl.col(entity), pl.col("event_time").cast(pl.Int64).cast(pl.String))
    kept = observations.filter(_share(moment, seed + 2) < split.rows_kept)
    if EVENT not in observations.columns:
        return kept.with_columns(weight=pl.lit(1.0))
    positive = pl.col(EVENT) == 1
    return kept.filter(positive | (_share(moment, seed + 1) < split.negatives_kept)).with_columns(
        weight=pl.when(positive).then(1.0).otherwise(1.0 / split.negatives_kept)
    )


def counts(snapshot: pl.DataFrame) -> tuple[dict[str, int], dict[str, int]]:
    """Rows per part, and positives per part where the target is an event.

    Raises:
        SnapshotError: a part is empty or has one class only, so nothing can be learned or proved.
    """
    rows = dict.fromkeys(PARTS, 0) | dict(snapshot.group_by("part").agg(pl.len()).iter_rows())
    if empty := [part for part in PARTS if rows[part] == 0]:
        raise SnapshotError(f"parts {empty} have no rows: use a longer window, or another split")
    if EVENT not in snapshot.columns:
        return rows, {}
    sums = snapshot.group_by("part").agg(pl.col(EVENT).sum().cast(pl.Int64))
    positives = dict.fromkeys(PARTS, 0) | dict(sums.iter_rows())
    for part in PARTS:
        if positives[part] == 0 or positives[part] == rows[part]:
            raise SnapshotError(
                f"part {part} has {rows[part]} rows, {positives[part]} of them positive: both classes are needed. "
                "Use a longer window, or a data set with more outcomes"
            )
    return rows, positives


def _share(text: pl.Expr, seed: int) -> pl.Expr:
    """A number in [0, 1) that hangs on the text and the seed alone."""
    return text.cast(pl.String).hash(seed).cast(pl.Float64) / 2.0**64
