"""Validate: new raw rows go to ``clean`` or, with the reasons, to ``quarantine``.

The order of writing is what makes a rerun decide the same: the quarantine of a whole batch is
stored first, in one commit, and clean is raw less quarantine. A run that was killed in between
finds its slices in quarantine, and only has to copy the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pipelines.references import IngestRef, Layer, TableRef, ValidationRef, Window

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from feature_repo.datasets import Dataset
    from pipelines.adapters.lake import Lake
    from pipelines.settings import Settings
    from pipelines.validate.batch import Tally
    from pipelines.validate.checkpoint import Checkpoints

# Bounds memory: rows that are validated, or copied to clean, at a time.
_ROWS_AT_A_TIME = 1_000_000


def run(ingested: IngestRef, settings: Settings) -> ValidationRef:
    """Validate the slices of the window that raw holds and that were not validated before.

    New slices form one batch. A row that fails an expectation goes to quarantine with its
    reasons, any other to clean: each raw row is in exactly one of the two. A batch that is broken
    as a whole stops the run and leaves both tables as they were.

    Raises:
        DataValidationError: the batch is broken as a whole. The text names the expectations, the
            counts, some rows, the Data Docs and the remedy.
        LakeError: a table is missing or cannot be written.
    """
    from pipelines.adapters.lake import Lake
    from pipelines.ingest.job import work_of as ingest_of
    from pipelines.sources.profile import load_profile

    profile = load_profile(ingested.source)
    dataset = profile.dataset(ingested.dataset)
    layers = (Layer.RAW, Layer.CLEAN, Layer.QUARANTINE)
    tables = _Tables(Lake.of(settings), dataset, *(profile.table(layer, dataset.name) for layer in layers))
    docs = settings.home / "data_docs" / profile.name / dataset.name

    slices = list(ingested.window.slices(dataset.slice))
    held = tables.lake.done(tables.raw, map(ingest_of, slices))
    slices = [each for each in slices if ingest_of(each) in held]
    judged = tables.lake.done(tables.quarantine, map(work_of, slices))
    new = [each for each in slices if work_of(each) not in judged]
    # First what a killed run left half done: its clean rows are what new ones may double.
    added = _copy_clean(tables, [each for each in slices if work_of(each) in judged])
    quarantined = 0
    if new:
        quarantined = _quarantine(tables, new, docs, f"of source {profile.name}")
        added += _copy_clean(tables, new)
    index = docs / "index.html"
    return ValidationRef(
        source=ingested.source,
        dataset=dataset.name,
        window=ingested.window,
        clean=tables.reference(tables.clean, added),
        quarantine=tables.reference(tables.quarantine, quarantined),
        data_docs_url=index.as_uri() if index.exists() else None,
    )


def work_of(window: Window) -> str:
    """Name, in the clean and the quarantine table, of the work of validating one slice."""
    return f"validate:{window.start.isoformat()}"


class _Tables(NamedTuple):
    """The tables of one data set."""

    lake: Lake
    dataset: Dataset
    raw: str
    clean: str
    quarantine: str

    def rows(self, table: str, slices: list[Window]) -> pl.LazyFrame:
        """Rows of these slices of raw or quarantine."""
        import polars as pl

        from pipelines.ingest.steps import SLICE_DAY, SLICE_START
        from pipelines.times import TIME

        starts = [each.start for each in slices]
        return self.lake.scan(table).filter(
            pl.col(SLICE_DAY).is_between(starts[0].date(), starts[-1].date()),
            pl.col(SLICE_START).is_in(pl.Series(starts, dtype=TIME).implode()),
        )

    def parts(self, slices: list[Window]) -> Iterator[list[Window]]:
        """The slices, in order, as many at a time as memory should hold."""
        import polars as pl

        from pipelines.ingest.steps import SLICE_START

        counts = dict(self.rows(self.raw, slices).group_by(SLICE_START).agg(pl.len()).collect().iter_rows())
        part: list[Window] = []
        size = 0
        for each in slices:
            rows = counts.get(each.start, 0)
            if part and size + rows > _ROWS_AT_A_TIME:
                yield part
                part, size = [], 0
            part.append(each)
            size += rows
        yield part

    def reference(self, table: str, rows_added: int) -> TableRef:
        return TableRef(table=table, version=self.lake.version(table), rows_added=rows_added)


def _quarantine(tables: _Tables, slices: list[Window], docs: Path, source: str) -> int:
    """Judge the slices as one batch, and store the rows that it quarantines; returns their number."""
    from pipelines.errors import DataValidationError
    from pipelines.ingest.steps import SLICE_DAY
    from pipelines.validate.checkpoint import Checkpoints

    span = Window(start=slices[0].start, end=slices[-1].end)
    checkpoints = Checkpoints(tables.dataset, docs, f"{span.start:%Y%m%dT%H%MZ}-{span.end:%Y%m%dT%H%MZ}")
    tally, rows = _sift(tables, slices, checkpoints)
    failures = checkpoints.batch(tally.summary())
    docs_url = checkpoints.build_docs()
    if failures:
        raw = tables.reference(tables.raw, 0)
        where = (
            f"data set {tables.dataset.name} {source}, window {span}, table {raw.table} version {raw.version}"
        )
        raise DataValidationError(tally.explain(failures, where, docs_url))
    work = map(work_of, slices)
    return tables.lake.append(tables.quarantine, rows, work=work, partition_by=SLICE_DAY).rows_added


def _sift(tables: _Tables, slices: list[Window], checkpoints: Checkpoints) -> tuple[Tally, pl.DataFrame]:
    """Counts over the batch, and its rows for quarantine (none where it is beyond its limit)."""
    import polars as pl

    from pipelines.validate import steps
    from pipelines.validate.batch import Tally

    dataset = tables.dataset
    tally = Tally(dataset)
    flagged: list[pl.DataFrame] = [steps.FLAGGED.to_frame()]
    quarantined: list[pl.DataFrame] = []
    passed: list[Window] = []
    for part in tables.parts(slices):
        rows = tables.rows(tables.raw, part).collect()
        findings = checkpoints.rows(rows)
        broken = steps.broken(rows, findings, dataset)
        earlier = _earlier_keys(tables, rows, slices, passed, pl.concat(flagged))
        duplicates = steps.duplicates(rows, findings, broken, earlier, dataset)
        tally.add(rows, findings, broken, duplicates)
        flagged += [broken, duplicates]
        quarantined.append(steps.quarantined(rows, pl.concat([broken, duplicates])))
        passed += part
    return tally, pl.concat(quarantined)


def _earlier_keys(
    tables: _Tables, rows: pl.DataFrame, batch: list[Window], passed: list[Window], flagged: pl.DataFrame
) -> pl.DataFrame:
    """Keys of these rows that other rows have already, with the identity of those.

    The others are clean rows of slices outside of the batch, and rows of the batch's earlier parts
    that were not flagged. Where the event time is part of the key, only its days are read.
    """
    import polars as pl

    from pipelines.ingest.steps import ROW_IDENTITY, SLICE_START
    from pipelines.times import TIME
    from pipelines.validate.steps import DAY

    dataset = tables.dataset
    key = list(dataset.key)
    frames = []
    if tables.lake.exists(tables.clean):
        starts = pl.Series([each.start for each in batch], dtype=TIME)
        frames.append(tables.lake.scan(tables.clean).filter(~pl.col(SLICE_START).is_in(starts.implode())))
    if passed:
        day = pl.col(dataset.event_time).dt.date().alias(DAY)
        others = tables.rows(tables.raw, passed).join(flagged.lazy(), on=ROW_IDENTITY, how="anti")
        frames.append(others.with_columns(day))
    if dataset.event_time in key:
        days = rows[dataset.event_time].dt.date().unique().drop_nulls()
        frames = [frame.filter(pl.col(DAY).is_in(days.implode())) for frame in frames]
    wanted = rows.lazy().select(key).unique()
    found = [
        frame.select(*key, *ROW_IDENTITY).join(wanted, on=key, how="semi", nulls_equal=True)
        for frame in frames
    ]
    return pl.concat([rows.select(*key, *ROW_IDENTITY).clear().lazy(), *found]).collect()


def _copy_clean(tables: _Tables, slices: list[Window]) -> int:
    """Copy the rows that are not in quarantine, for judged slices that clean lacks."""
    from pipelines.validate.steps import DAY, cleaned

    stored = tables.lake.done(tables.clean, map(work_of, slices))
    slices = [each for each in slices if work_of(each) not in stored]
    added = 0
    for part in tables.parts(slices) if slices else ():
        rows = tables.rows(tables.raw, part).collect()
        flagged = tables.rows(tables.quarantine, part).collect()
        clean = cleaned(rows, flagged, tables.dataset)
        added += tables.lake.append(tables.clean, clean, work=map(work_of, part), partition_by=DAY).rows_added
    return added
