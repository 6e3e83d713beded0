"""From data to models: which versions used this version of a table, or this feature.

A table's version is more than its number: what matters is the rows that it brought. Rows stand in
slices of time, and each layer records, in the commit that brings its rows, which slices those are
(:class:`pipelines.adapters.lake.Lake`). So the question is answered slice by slice, through every
layer, and not by guessing from numbers or clocks.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING

from pydantic import Field

from feature_repo.datasets import Frozen
from pipelines.errors import LakeError, LineageError
from pipelines.lineage.record import Lineage, Training
from pipelines.references import Layer, Window

if TYPE_CHECKING:
    from pipelines.adapters.lake import Lake
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

_SHOWN = 3


class Use(Frozen):
    """A registered version that used what was asked for."""

    registered_name: str
    version: str
    how: str = Field(description="By which way it used it, for people.")


class Changed(Frozen):
    """A version of a table: its path, and the slices of a data set that it brought."""

    table: str
    version: int
    dataset: str
    starts: tuple[datetime, ...]


def parse_table(text: str) -> tuple[str, int]:
    """``raw/simulated/telemetry@12`` as path and version.

    Raises:
        LineageError: it is not of that form.
    """
    path, separator, number = text.rpartition("@")
    layers = [layer.value for layer in Layer]
    if not separator or not number.isdecimal() or path.partition("/")[0] not in layers:
        raise LineageError(
            f"{text!r} is no version of a table: write it as raw/simulated/telemetry@12, with a layer of {layers}"
        )
    return path, int(number)


def using_feature(records: Iterable[Lineage], pattern: str) -> tuple[Use, ...]:
    """Versions with an input of that name, or one that the shell pattern matches."""
    found = []
    for record in records:
        names = fnmatch.filter(record.training.features, pattern)
        if names:
            views = sorted({record.training.features[name] or "given by the caller" for name in names})
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            how = f"takes {', '.join(names[:_SHOWN])}{more} ({', '.join(views)})"
            found.append(Use(registered_name=record.registered_name, version=record.version, how=how))
    return tuple(found)


def using_table(records: Iterable[Lineage], table: str, version: int, settings: Settings) -> tuple[Use, ...]:
    """Versions that were trained on a version of a table, or on the rows that it brought.

    Of a feature table: those that read that version of it. Of raw and clean: those whose feature
    tables or targets hold a slice that the version brought, and whose window does not end before it.

    Raises:
        LakeError: there is no such table, or that version of it is gone.
        LineageError: the table is of no source that is known.
    """
    from pipelines.adapters.lake import Lake

    lake = Lake.of(settings)
    layer = Layer(table.partition("/")[0])
    match layer:
        case Layer.FEATURES:
            lake.scan(table, version)  # says so where there is none
            uses = [(record, _read(record, table, version)) for record in records]
        case Layer.QUARANTINE:
            raise LineageError(f"{table}: what is in quarantine is used by no version")
        case Layer.RAW | Layer.CLEAN:
            changed = brought(lake, table, version)
            uses = [(record, _holds(lake, record, changed, layer)) for record in records]
    return tuple(
        Use(registered_name=record.registered_name, version=record.version, how=how)
        for record, how in uses
        if how
    )


def brought(lake: Lake, table: str, version: int) -> Changed:
    """The slices whose rows are not the same in this version of a raw or clean table as in the one before."""
    import polars as pl

    from pipelines.ingest.steps import SLICE_START

    def counts(at: int) -> dict[datetime, int]:
        rows = lake.scan(table, at).group_by(SLICE_START).agg(pl.len()).collect()
        return dict(rows.iter_rows())

    now, before = counts(version), counts(version - 1) if version else {}
    starts = sorted(start for start in {*now, *before} if now.get(start) != before.get(start))
    return Changed(table=table, version=version, dataset=table.rpartition("/")[2], starts=tuple(starts))


def _read(record: Lineage, table: str, version: int) -> str:
    used = record.training.tables.get(table)
    if used is None or used < version:
        return ""
    return "read it" if used == version else f"read version {used} of it, which came after"


def _holds(lake: Lake, record: Lineage, changed: Changed, layer: Layer) -> str:
    """By which table the version was trained on a slice that changed; empty if on none."""
    from pipelines.adapters.feature_store import views
    from pipelines.sources.profile import load_profile

    training = record.training
    profile = load_profile(training.snapshot.source)
    if profile.table(layer, changed.dataset) != changed.table:
        return ""
    starts = [start for start in changed.starts if start < training.window.end]
    ways = []
    clean = profile.table(Layer.CLEAN, changed.dataset)
    read = [(clean, "validate")] if clean in training.tables else []
    for view in views(profile, training.grid):
        path = profile.table(Layer.FEATURES, view.name)
        if changed.dataset in view.sources and path in training.tables:
            read.append((path, "features"))
    ways = [_way(lake, profile, path, kind, changed.dataset, starts, training) for path, kind in read]
    return "; ".join(way for way in ways if way)


def _way(
    lake: Lake,
    profile: SourceProfile,
    table: str,
    kind: str,
    dataset: str,
    starts: list[datetime],
    training: Training,
) -> str:
    """What a table held of these slices when it was read; empty for nothing."""
    from pipelines.buckets import suffixes
    from pipelines.features.clean import work_of as features_of
    from pipelines.validate.job import work_of as validate_of

    step, version = profile.dataset(dataset).slice, training.tables[table]
    parts = suffixes(lake.buckets(table))
    work = {
        start: [
            features_of(dataset, start, part)
            if kind == "features"
            else validate_of(Window(start=start, end=start + step), part)
            for part in parts
        ]
        for start in starts
    }
    try:
        done = lake.done(table, chain.from_iterable(work.values()), version)
    except LakeError:
        return f"{table}@{version} is not kept any more, so it cannot be ruled out"
    held = [start for start, names in work.items() if not done.isdisjoint(names)]
    if not held:
        return ""
    inside = sum(start >= training.window.start for start in held)
    span = f"{held[0]:%Y-%m-%dT%H:%MZ}" + (f" to {held[-1]:%Y-%m-%dT%H:%MZ}" if len(held) > 1 else "")
    return (
        f"{table}@{version} held {len(held)} of its slices ({span}), {inside} of them in the training window"
    )
