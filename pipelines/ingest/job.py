"""Ingest: the rows of a window from their source into ``raw``, exactly once per slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pipelines.references import IngestRef, Layer, TableRef, Window

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.datasets import Dataset
    from pipelines.adapters.lake import Lake
    from pipelines.settings import Settings
    from pipelines.sources.base import Source

# What a kill can cost to read again, and what memory must hold.
_ROWS_PER_COMMIT = 500_000
_SLICES_PER_COMMIT = 32

Progress = Callable[[int, int], None]


def run(
    source: str,
    dataset: str,
    window: Window,
    settings: Settings,
    progress: Progress | None = None,
    buckets: Sequence[int] | None = None,
) -> IngestRef:
    """Append the rows that arrived in the window to the raw table.

    Slices that the table holds already are not read again, so a run that was killed goes on where
    it stopped.

    Args:
        source: Bundled profile's name, or the path of a YAML profile.
        dataset: Data set of that source.
        window: Whole slices of the data set.
        settings: Where the lake is.
        progress: Called with slices done and slices in all, at the start and after each commit.
        buckets: Only entities of these buckets of the table; None: all.

    Raises:
        WindowError: the window is not made of whole slices.
        SourceError: there is no such source or data set, or it cannot be read.
        LakeError: the table cannot be written.
    """
    from pipelines.adapters.lake import Lake
    from pipelines.buckets import suffixes
    from pipelines.sources.base import open_source
    from pipelines.sources.profile import load_profile

    profile = load_profile(source)
    contract = profile.dataset(dataset)
    slices = list(window.slices(contract.slice))
    lake = Lake.of(settings)
    table = profile.table(Layer.RAW, dataset)

    count = _buckets(lake, table, contract, settings)
    parts = suffixes(count, buckets)
    present = lake.done(table, (work_of(each, part) for each in slices for part in parts))
    missing = [each for each in slices if any(work_of(each, part) not in present for part in parts)]
    done = len(slices) - len(missing)
    report = progress or (lambda _done, _total: None)
    report(done, len(slices))
    added = 0
    for several, rows in _parts(open_source(profile, settings), contract, missing) if missing else ():
        added += _append(lake, table, rows, several, parts, present, contract, count)
        done += len(several)
        report(done, len(slices))
    raw = TableRef(table=table, version=lake.version(table), rows_added=added)
    return IngestRef(source=source, dataset=dataset, window=window, raw=raw)


def buckets(source: str, dataset: str, settings: Settings) -> int:
    """In how many buckets the raw table is kept, or will be."""
    from pipelines.adapters.lake import Lake
    from pipelines.sources.profile import load_profile

    profile = load_profile(source)
    return _buckets(Lake.of(settings), profile.table(Layer.RAW, dataset), profile.dataset(dataset), settings)


def _buckets(lake: Lake, table: str, dataset: Dataset, settings: Settings) -> int:
    # Where rows of several entities may share a key, duplicates are seen only side by side.
    return lake.buckets(table, settings.entity_buckets if dataset.entity in dataset.key else 1)


def work_of(window: Window, part: str = "") -> str:
    """Name, in the raw table, of the work of ingesting one slice, or one bucket of it."""
    return f"ingest:{window.start.isoformat()}{part}"


def held(lake: Lake, table: str, slices: Iterable[Window]) -> list[Window]:
    """Those of the slices that the raw table holds whole."""
    from pipelines.buckets import suffixes

    wanted, parts = list(slices), suffixes(lake.buckets(table))
    done = lake.done(table, (work_of(each, part) for each in wanted for part in parts))
    return [each for each in wanted if all(work_of(each, part) in done for part in parts)]


def _append(
    lake: Lake,
    table: str,
    rows: pl.DataFrame,
    slices: list[Window],
    parts: list[str],
    present: set[str],
    dataset: Dataset,
    buckets: int,
) -> int:
    """Append the rows of some slices, each bucket in a commit of its own; returns how many were new."""
    import polars as pl

    from pipelines.buckets import BUCKET, with_bucket
    from pipelines.ingest.steps import SLICE_DAY, SLICE_START
    from pipelines.times import TIME

    if buckets == 1:
        return lake.append(table, rows, work=map(work_of, slices), partition_by=SLICE_DAY).rows_added
    added = 0
    rows = with_bucket(rows, dataset.entity, buckets)
    lake.create(table, rows, partition_by=(SLICE_DAY, BUCKET), buckets=buckets)
    for part in parts:
        mine = [each for each in slices if work_of(each, part) not in present]
        starts = pl.Series([each.start for each in mine], dtype=TIME)
        held_by_part = rows.filter(
            pl.col(BUCKET) == int(part.removeprefix("#")), pl.col(SLICE_START).is_in(starts.implode())
        )
        if mine:
            added += lake.append(table, held_by_part, work=[work_of(each, part) for each in mine]).rows_added
    return added


def read_slice(source: Source, dataset: Dataset, window: Window) -> pl.DataFrame:
    """Rows of one slice as the raw table stores them."""
    from pipelines.ingest.steps import conform, stamp

    return stamp(conform(source.read(dataset, window), dataset), window)


def _parts(
    source: Source, dataset: Dataset, slices: Iterable[Window]
) -> Iterator[tuple[list[Window], pl.DataFrame]]:
    """Slices with their rows, as many at a time as one commit takes."""
    import polars as pl

    part: list[Window] = []
    frames: list[pl.DataFrame] = []
    for each in slices:
        part.append(each)
        frames.append(read_slice(source, dataset, each))
        if len(part) == _SLICES_PER_COMMIT or sum(frame.height for frame in frames) >= _ROWS_PER_COMMIT:
            yield part, pl.concat(frames)
            part, frames = [], []
    if part:
        yield part, pl.concat(frames)
