"""Ingest: the rows of a window from their source into ``raw``, exactly once per slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from pipelines.references import IngestRef, Layer, TableRef, Window

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.datasets import Dataset
    from pipelines.settings import Settings
    from pipelines.sources.base import Source

# What a kill can cost to read again, and what memory must hold.
_ROWS_PER_COMMIT = 500_000
_SLICES_PER_COMMIT = 32

Progress = Callable[[int, int], None]


def run(
    source: str, dataset: str, window: Window, settings: Settings, progress: Progress | None = None
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

    Raises:
        WindowError: the window is not made of whole slices.
        SourceError: there is no such source or data set, or it cannot be read.
        LakeError: the table cannot be written.
    """
    from pipelines.adapters.lake import Lake
    from pipelines.ingest.steps import SLICE_DAY
    from pipelines.sources.base import open_source
    from pipelines.sources.profile import load_profile

    profile = load_profile(source)
    contract = profile.dataset(dataset)
    slices = list(window.slices(contract.slice))
    lake = Lake.of(settings)
    table = profile.table(Layer.RAW, dataset)

    present = lake.done(table, map(work_of, slices))
    missing = [each for each in slices if work_of(each) not in present]
    done = len(slices) - len(missing)
    report = progress or (lambda _done, _total: None)
    report(done, len(slices))
    added = 0
    for part, rows in _parts(open_source(profile, settings), contract, missing) if missing else ():
        appended = lake.append(table, rows, work=map(work_of, part), partition_by=SLICE_DAY)
        added += appended.rows_added
        done += len(part)
        report(done, len(slices))
    raw = TableRef(table=table, version=lake.version(table), rows_added=added)
    return IngestRef(source=source, dataset=dataset, window=window, raw=raw)


def work_of(window: Window) -> str:
    """Name, in the raw table, of the work of ingesting one slice."""
    return f"ingest:{window.start.isoformat()}"


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
