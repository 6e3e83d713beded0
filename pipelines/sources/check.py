"""What a source profile is good for, before anything is stored: its rows, and the models that it can train."""

from __future__ import annotations

import fnmatch
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import HeadraceError
from pipelines.references import Window

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.datasets import Dataset
    from models.specs import ModelSpec
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

_REASONS = 5


@dataclass(frozen=True)
class Sample:
    """Rows of one data set in one window, as validation would sift them.

    Attributes:
        reasons: The most frequent ones for quarantine, with the number of rows.
        absent: Columns of the data set that no file has.
        error: Why nothing could be read; then all else is empty.
    """

    dataset: str
    window: Window
    rows: int = 0
    entities: int = 0
    quarantined: int = 0
    reasons: tuple[tuple[str, int], ...] = ()
    absent: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Fit:
    """Whether a model can be trained on the source.

    Attributes:
        lacks: What the source lacks for it; empty: it can.
    """

    model: str
    question: str
    lacks: tuple[str, ...]


def samples(profile: SourceProfile, day: datetime | None, settings: Settings) -> Iterator[Sample]:
    """Read one day of each data set, and sift it as validation does; nothing is stored.

    Args:
        day: Midnight (UTC). None: the first day of a finite source, else the last one that is over.
    """
    from pipelines.sources.base import open_source

    source = open_source(profile, settings)
    start = day or profile.window_start or _yesterday()
    for dataset in profile.datasets:
        window = Window(start=start, end=start + timedelta(days=1)).widened(dataset.slice)
        try:
            slices = [(source.read(dataset, each), each) for each in window.slices(dataset.slice)]
            yield _sifted(slices, dataset, window)
        except HeadraceError as error:
            yield Sample(dataset.name, window, error=str(error))


def _sifted(slices: Sequence[tuple[pl.DataFrame, Window]], dataset: Dataset, window: Window) -> Sample:
    import polars as pl

    from pipelines.ingest.steps import ROW_IDENTITY, conform, stamp
    from pipelines.validate import steps
    from pipelines.validate.checkpoint import Checkpoints

    raw = pl.concat([stamp(conform(rows, dataset), each) for rows, each in slices])
    there = {name for rows, _ in slices if not rows.is_empty() for name in rows.columns}
    absent = tuple(column.name for column in dataset.columns if column.name not in there)
    if raw.is_empty():
        return Sample(dataset.name, window)
    with tempfile.TemporaryDirectory() as docs:
        findings = Checkpoints(dataset, Path(docs), "check").rows(raw)
    broken = steps.broken(raw, findings, dataset)
    others = raw.select(*dataset.key, *ROW_IDENTITY).clear()
    flagged = pl.concat([broken, steps.duplicates(raw, findings, broken, others, dataset)])
    # Of reasons that differ by the value alone, the number of rows is what tells.
    kind = (
        pl.col(steps.REASONS)
        .str.replace(r"=('[^']*'|\S+)", "")
        .str.replace(r": ('.*'|\S+) is", " is")
        .str.replace(": first seen .*", "")
        .str.replace(r" \S+ is in the future of its slice .*", " is in the future of its slice")
    )
    counts = (
        flagged.explode(steps.REASONS)
        .group_by(kind)
        .len()
        .sort("len", steps.REASONS, descending=[True, False])
    )
    return Sample(
        dataset.name,
        window,
        raw.height,
        raw[dataset.entity].drop_nulls().n_unique(),
        flagged.height,
        tuple(counts.head(_REASONS).iter_rows()),
        absent,
    )


def fits(profile: SourceProfile) -> Iterator[Fit]:
    """Each model of the catalogue, with what the profile lacks for it."""
    from models.catalogue import CATALOGUE

    for spec in CATALOGUE.values():
        try:
            lacks = tuple(_lacking(profile.spec_of(spec), profile))
        except HeadraceError as error:
            lacks = (str(error),)
        yield Fit(spec.name, spec.question, lacks)


def _lacking(spec: ModelSpec, profile: SourceProfile) -> Iterator[str]:
    from pipelines.adapters.feature_store import fields

    there = {dataset.name: dataset for dataset in profile.datasets}
    missing = [name for name in dict.fromkeys([*spec.datasets, *spec.target.datasets]) if name not in there]
    yield from (f"a data set {name!r}" for name in missing)
    for name in spec.target.datasets:
        if name in there:
            wanted = [*getattr(spec.target, "columns", ()), *spec.given.values()]
            wanted += [spec.target.column] if hasattr(spec.target, "column") else []
            own = {column.name for column in there[name].columns}
            yield from (
                f"a column {column!r} in {name}" for column in dict.fromkeys(wanted) if column not in own
            )
    if spec.grid is not None and spec.grid not in profile.features:
        yield f"a feature grid {spec.grid!r}"
        return
    if missing:
        return
    names = [field.name for field in fields(profile, spec.grid)]
    idle = [pattern for pattern in spec.inputs if not fnmatch.filter(names, pattern)]
    naive = [getattr(spec.task, kind, None) for kind in ("naive", "seasonal_naive")]
    yield from (f"a feature that matches {pattern!r}" for pattern in idle)
    yield from (f"the feature {name!r}" for name in naive if name and name not in names)


def _yesterday() -> datetime:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=1)
