"""Servers and series with labelled anomalies: their rows, as validation and features hand them on."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_repo.transformations import telemetry_features
from models.anomaly.spec import SPEC
from models.base import Observations
from models.manifest import FieldType, InputField
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.base import open_source
from pipelines.sources.profile import SourceProfile, load_profile

Array = NDArray[np.float64]

#: Every so many rows of a training part are learned of; neighbours tell the same.
LEARN_EVERY = {"smd": 5, "asd": 1}


@dataclass(frozen=True)
class Labelled:
    """A labelled segment of a test part: rows ``start … end - 1``, and the metrics that show it."""

    start: int
    end: int
    metrics: frozenset[str]


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        learned: Rows of the training part with features, thinned, in the order of time.
        tested: Rows of the test part.
        label: Shape (n,), of the test part.
        train_values: Shape (m, k), the training part as published, for the baselines.
        test_values: Shape (n, k).
    """

    name: str
    learned: Observations
    tested: Observations
    label: NDArray[np.int8]
    segments: tuple[Labelled, ...]
    train_values: Array
    test_values: Array


def servers(source: str, data: Path) -> tuple[tuple[InputField, ...], list[Server]]:
    """The servers of a bundled source, with features as its profile defines them."""
    profile = load_profile(source)
    rows = read(profile, data)
    keys = tuple(sorted(rows["machine_id"].unique().to_list()))
    published = {part: pl.read_parquet(data / source / f"{part}.parquet") for part in ("train", "test")}
    told = pl.read_parquet(data / source / "interpretation.parquet")
    inputs: tuple[InputField, ...] = ()
    result = []
    for key in keys:
        train, test = (part.filter(pl.col("entity") == key).sort("t") for part in published.values())
        inputs, seen = observed(rows.filter(pl.col("machine_id") == key), profile, keys)
        metrics = [name for name in train.columns if fnmatch.fnmatch(name, "m[0-9]*")]
        learned = seen.rows(np.arange(0, train.height, LEARN_EVERY[source]))
        warm = learned.time >= learned.time[0] + np.timedelta64(
            profile.grid(profile.spec_of(SPEC).grid).windows[-1]
        )
        result.append(
            Server(
                name=key,
                learned=learned.rows(warm),
                tested=seen.rows(np.arange(train.height, train.height + test.height)),
                label=test["label"].to_numpy(),
                segments=tuple(
                    Labelled(
                        row["start"], row["end"], frozenset(f"m{number:02d}" for number in row["metrics"])
                    )
                    for row in told.filter(pl.col("entity") == key).iter_rows(named=True)
                ),
                train_values=train.select(metrics).to_numpy().astype(np.float64),
                test_values=test.select(metrics).to_numpy().astype(np.float64),
            )
        )
    return inputs, result


def read(profile: SourceProfile, data: Path) -> pl.DataFrame:
    """All telemetry of a source, as validation hands it on."""
    dataset = profile.dataset("telemetry")
    everything = Window(start=datetime(1970, 1, 1, tzinfo=UTC), end=datetime(2100, 1, 1, tzinfo=UTC))
    read = open_source(profile, load_settings(shared_data=data)).read(dataset, everything)
    at = pl.col(dataset.event_time).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return read.with_columns(at, slice_start=at, ordinal=pl.int_range(pl.len(), dtype=pl.Int64)).unique(
        dataset.key, keep="first", maintain_order=True
    )


def observed(
    rows: pl.DataFrame, profile: SourceProfile, keys: tuple[str, ...]
) -> tuple[tuple[InputField, ...], Observations]:
    """One entity's feature rows in the order of time; its name is an input. Single precision, to save memory."""
    dataset, spec = profile.dataset("telemetry"), profile.spec_of(SPEC)
    features = telemetry_features(rows.lazy(), dataset, profile.grid(spec.grid)).collect()
    wanted = {name for pattern in spec.inputs for name in fnmatch.filter(features.columns, pattern)}
    names = [name for name in features.columns if name in wanted]
    entity = np.array(features[dataset.entity].to_list(), dtype=object)
    assert spec.entity_input is not None
    columns: dict[str, NDArray] = {spec.entity_input: entity} | {
        name: features[name].cast(pl.Float32).to_numpy() for name in names
    }
    inputs = (
        InputField(name=spec.entity_input, type=FieldType.STRING, required=False, categories=keys),
        *(InputField(name=name, type=FieldType.DOUBLE, required=False) for name in names),
    )
    unknown = {"abnormal": np.full(len(entity), np.nan)}
    at = features["event_time"].dt.replace_time_zone(None).to_numpy()
    return inputs, Observations(columns, unknown, np.ones(len(entity)), entity, at)


def joined(parts: Sequence[Observations]) -> Observations:
    return Observations(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        {name: np.concatenate([part.targets[name] for part in parts]) for name in parts[0].targets},
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.entity for part in parts]),
        np.concatenate([part.time for part in parts]),
    )
