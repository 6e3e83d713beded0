"""Observations, labels, parts and weights: how a training set is made from times and outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from models.specs import Split
from pipelines.errors import SnapshotError

PARTS = ("train", "valid", "holdout")
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


def label(
    observations: pl.DataFrame, outcomes: pl.DataFrame, entity: str, horizon: timedelta, known_until: datetime
) -> pl.DataFrame:
    """Does the outcome happen in ``(event_time, event_time + horizon]``?

    Args:
        observations: Columns entity, ``event_time``.
        outcomes: Columns entity, ``event_time`` of each outcome.
        known_until: Outcomes are complete up to this time; later horizons are not labelled.

    Returns:
        The observations whose horizon has ended, with column ``label`` (Int8).
    """
    upcoming = (
        outcomes.select(entity, pl.col("event_time").alias("outcome_time")).unique().sort("outcome_time")
    )
    return (
        observations.filter(pl.col("event_time") + horizon <= known_until)
        .sort("event_time")
        .join_asof(
            upcoming,
            left_on="event_time",
            right_on="outcome_time",
            by=entity,
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .with_columns(
            label=((pl.col("outcome_time") - pl.col("event_time")) <= horizon)
            .fill_null(value=False)
            .cast(pl.Int8)
        )
        .drop("outcome_time")
        .sort(entity, "event_time")
    )


def cut_times(observations: pl.DataFrame, split: Split) -> Cuts:
    """Cuts at shares of the observed span of time.

    Raises:
        SnapshotError: there are no observations.
    """
    first, last = observations["event_time"].min(), observations["event_time"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        raise SnapshotError(
            "no observation has a complete label: widen the window beyond the label's horizon"
        )
    span = last - first
    return Cuts(
        valid_from=first + span * (1 - split.valid_share - split.holdout_share),
        holdout_from=first + span * (1 - split.holdout_share),
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


def thin_negatives(observations: pl.DataFrame, entity: str, kept: float, seed: int) -> pl.DataFrame:
    """Keep all positives and a seeded share of the negatives; ``weight`` undoes the sampling.

    The choice hangs on the row alone, so a row is kept or not whatever else is in the window.
    """
    chosen = (
        _share(pl.concat_str(pl.col(entity), pl.col("event_time").cast(pl.Int64).cast(pl.String)), seed + 1)
        < kept
    )
    positive = pl.col("label") == 1
    return observations.filter(positive | chosen).with_columns(
        weight=pl.when(positive).then(1.0).otherwise(1.0 / kept)
    )


def counts(snapshot: pl.DataFrame) -> tuple[dict[str, int], dict[str, int]]:
    """Rows and positives per part.

    Raises:
        SnapshotError: a part is empty or has one class only, so nothing can be learned or proved.
    """
    table = snapshot.group_by("part").agg(rows=pl.len(), positives=pl.col("label").sum().cast(pl.Int64))
    rows = dict.fromkeys(PARTS, 0) | dict(table.select("part", "rows").iter_rows())
    positives = dict.fromkeys(PARTS, 0) | dict(table.select("part", "positives").iter_rows())
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
