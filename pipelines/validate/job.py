"""Validate: new raw rows go to ``clean`` or, with the reasons, to ``quarantine``.

The order of writing is what makes a rerun decide the same: the quarantine of a whole batch is
stored first, in one commit, and clean is raw less quarantine. A run that was killed in between
finds its slices in quarantine, and only has to copy the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.errors import LakeError
from pipelines.references import IngestRef, Layer, Reference, TableRef, ValidationRef, Window
from pipelines.validate.batch import Tally

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from feature_repo.datasets import Dataset
    from pipelines.adapters.lake import Lake
    from pipelines.settings import Settings
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
    import polars as pl

    tables, docs = _opened(ingested, settings)
    judged, new = _parted(tables, ingested.window)
    # First what a killed run left half done: its clean rows are what new ones may double.
    added = _copy_clean(tables, judged)
    quarantined = 0
    if new:
        checkpoints = _checkpoints(tables, docs, new)
        sifted = [_sift(part, new, checkpoints) for part in tables.by_bucket()]
        tally, rows = Tally.together([each for each, _ in sifted]), pl.concat([each for _, each in sifted])
        quarantined = _quarantine(tables, new, tally, rows, checkpoints)
        added += _copy_clean(tables, new)
    return _left_behind(tables, ingested, docs, added, quarantined)


class SiftedRef(Reference):
    """What sifting found in one bucket of a batch; its rows for quarantine wait beside the tables."""

    bucket: int
    slices: tuple[Window, ...]
    tally: dict[str, Any]
    rows_url: str


def sift(ingested: IngestRef, settings: Settings, bucket: int) -> SiftedRef:
    """Look through one bucket of the batch. :func:`judge` decides on all of them together.

    Raises:
        LakeError: a table is missing or cannot be written.
    """
    import io

    tables, docs = _opened(ingested, settings)
    judged, new = _parted(tables, ingested.window)
    part = tables.of_bucket(bucket)
    _copy_clean(part, judged)
    span = f"{new[0].start:%Y%m%dT%H%M}-{new[-1].end:%Y%m%dT%H%M}-{len(new)}" if new else "none"
    if new:
        checkpoints = _checkpoints(tables, docs, new)
        tally, rows = _sift(part, new, checkpoints)
        checkpoints.build_docs()
    else:
        tally, rows = Tally(tables.dataset), tables.lake.scan(tables.raw).head(0).collect()
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    path = f"staging/{tables.quarantine}/{span}-{bucket}.parquet"
    url = tables.lake.write_object(path, buffer.getvalue())
    return SiftedRef(bucket=bucket, slices=tuple(new), tally=tally.to_dict(), rows_url=url)


def judge(ingested: IngestRef, sifted: Iterable[SiftedRef], settings: Settings) -> TableRef:
    """Decide on a batch whose buckets were sifted, and store its quarantine in one commit.

    Raises:
        DataValidationError: the batch is broken as a whole.
        LakeError: buckets are missing, or did not see the same slices: sift again.
    """
    import io

    import polars as pl

    parts = sorted(sifted, key=lambda each: each.bucket)
    tables, docs = _opened(ingested, settings)
    _, new = _parted(tables, ingested.window)
    if not new:
        return tables.reference(tables.quarantine, 0)
    if [each.bucket for each in parts] != list(range(tables.buckets)) or any(
        each.slices != tuple(new) for each in parts
    ):
        raise LakeError(
            f"{tables.raw}: buckets {[each.bucket for each in parts]} of {tables.buckets} were sifted, or of other slices "
            "than the table has now: sift them again"
        )
    rows = pl.concat([pl.read_parquet(io.BytesIO(tables.lake.read_object(each.rows_url))) for each in parts])
    tally = Tally.together([Tally.of_dict(tables.dataset, each.tally) for each in parts])
    checkpoints = _checkpoints(tables, docs, new)
    quarantined = _quarantine(tables, new, tally, rows, checkpoints)
    for each in parts:
        tables.lake.delete_object(each.rows_url.removeprefix(f"{tables.lake.url}/"))
    return tables.reference(tables.quarantine, quarantined)


def copy(ingested: IngestRef, settings: Settings, bucket: int) -> TableRef:
    """Copy what was judged and is not in quarantine to clean, of one bucket."""
    tables, _ = _opened(ingested, settings)
    judged, _ = _parted(tables, ingested.window)
    return tables.reference(tables.clean, _copy_clean(tables.of_bucket(bucket), judged))


def work_of(window: Window, part: str = "") -> str:
    """Name, in the quarantine table, of the work of validating one slice; in clean, of one bucket of it."""
    return f"validate:{window.start.isoformat()}{part}"


class _Tables(NamedTuple):
    """The tables of one data set, or one bucket of them."""

    lake: Lake
    dataset: Dataset
    raw: str
    clean: str
    quarantine: str
    buckets: int
    chosen: tuple[int, ...]

    def of_bucket(self, bucket: int) -> _Tables:
        return self._replace(chosen=(bucket,))

    def by_bucket(self) -> Iterator[_Tables]:
        """One after the other."""
        for bucket in self.chosen:
            yield self.of_bucket(bucket)

    def rows(self, table: str, slices: list[Window]) -> pl.LazyFrame:
        """Rows of these slices of raw or quarantine."""
        import polars as pl

        from pipelines.buckets import BUCKET
        from pipelines.ingest.steps import SLICE_DAY, SLICE_START
        from pipelines.times import TIME

        starts = [each.start for each in slices]
        rows = self.lake.scan(table).filter(
            pl.col(SLICE_DAY).is_between(starts[0].date(), starts[-1].date()),
            pl.col(SLICE_START).is_in(pl.Series(starts, dtype=TIME).implode()),
        )
        if table == self.raw and len(self.chosen) < self.buckets:
            rows = rows.filter(pl.col(BUCKET).is_in(list(self.chosen)))
        return rows

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


def _opened(ingested: IngestRef, settings: Settings) -> tuple[_Tables, Path]:
    """The tables, and the folder of the Data Docs."""
    from pipelines.adapters.lake import Lake
    from pipelines.sources.profile import load_profile

    profile = load_profile(ingested.source)
    dataset = profile.dataset(ingested.dataset)
    lake = Lake.of(settings)
    raw, clean, quarantine = (
        profile.table(layer, dataset.name) for layer in (Layer.RAW, Layer.CLEAN, Layer.QUARANTINE)
    )
    buckets = lake.buckets(raw)
    tables = _Tables(lake, dataset, raw, clean, quarantine, buckets, tuple(range(buckets)))
    return tables, settings.home / "data_docs" / profile.name / dataset.name


def _parted(tables: _Tables, window: Window) -> tuple[list[Window], list[Window]]:
    """Slices of the window that raw holds: those that were judged, and the others."""
    from pipelines.ingest.job import held

    slices = held(tables.lake, tables.raw, window.slices(tables.dataset.slice))
    judged = tables.lake.done(tables.quarantine, map(work_of, slices))
    return (
        [each for each in slices if work_of(each) in judged],
        [each for each in slices if work_of(each) not in judged],
    )


def _left_behind(
    tables: _Tables, ingested: IngestRef, docs: Path, added: int, quarantined: int
) -> ValidationRef:
    index = docs / "index.html"
    return ValidationRef(
        source=ingested.source,
        dataset=tables.dataset.name,
        window=ingested.window,
        clean=tables.reference(tables.clean, added),
        quarantine=tables.reference(tables.quarantine, quarantined),
        data_docs_url=index.as_uri() if index.exists() else None,
    )


def _checkpoints(tables: _Tables, docs: Path, slices: list[Window]) -> Checkpoints:
    from pipelines.validate.checkpoint import Checkpoints

    span = Window(start=slices[0].start, end=slices[-1].end)
    return Checkpoints(tables.dataset, docs, f"{span.start:%Y%m%dT%H%MZ}-{span.end:%Y%m%dT%H%MZ}")


def _quarantine(
    tables: _Tables,
    slices: list[Window],
    tally: Tally,
    rows: pl.DataFrame,
    checkpoints: Checkpoints,
) -> int:
    """Judge the slices as one batch, and store the rows that it quarantines; returns their number."""
    from pipelines.buckets import BUCKET
    from pipelines.errors import DataValidationError
    from pipelines.ingest.steps import ROW_IDENTITY, SLICE_DAY

    failures = checkpoints.batch(tally.summary())
    docs_url = checkpoints.build_docs()
    if failures:
        span = Window(start=slices[0].start, end=slices[-1].end)
        raw = tables.reference(tables.raw, 0)
        source = tables.raw.split("/")[1]
        where = f"data set {tables.dataset.name} of source {source}, window {span}, table {raw.table} version {raw.version}"
        raise DataValidationError(tally.explain(failures, where, docs_url))
    work = map(work_of, slices)
    whole = rows.drop(BUCKET, strict=False).sort(ROW_IDENTITY)
    return tables.lake.append(tables.quarantine, whole, work=work, partition_by=SLICE_DAY).rows_added


def _sift(tables: _Tables, slices: list[Window], checkpoints: Checkpoints) -> tuple[Tally, pl.DataFrame]:
    """Counts over the batch, and its rows for quarantine (none where it is beyond its limit)."""
    import polars as pl

    from pipelines.validate import steps

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
    days = rows[dataset.event_time].dt.date().unique().drop_nulls()
    timed = dataset.event_time in key
    if passed:
        day = pl.col(dataset.event_time).dt.date().alias(DAY)
        near = _that_may_hold(passed, days) if timed else passed
        if near:
            others = tables.rows(tables.raw, near).join(flagged.lazy(), on=ROW_IDENTITY, how="anti")
            frames.append(others.with_columns(day))
    if timed:
        frames = [frame.filter(pl.col(DAY).is_in(days.implode())) for frame in frames]
    wanted = rows.lazy().select(key).unique()
    found = [
        frame.select(*key, *ROW_IDENTITY).join(wanted, on=key, how="semi", nulls_equal=True)
        for frame in frames
    ]
    return pl.concat([rows.select(*key, *ROW_IDENTITY).clear().lazy(), *found]).collect()


def _that_may_hold(slices: list[Window], days: pl.Series) -> list[Window]:
    """Those that may hold a sound row of these days: it is never later than its slice."""
    first = days.min()
    return [each for each in slices if isinstance(first, date) and each.end.date() >= first]


def _copy_clean(tables: _Tables, slices: list[Window]) -> int:
    """Copy the rows that are not in quarantine, for judged slices that clean lacks, bucket by bucket."""
    from pipelines.buckets import suffixes

    if not slices:
        return 0
    parts = suffixes(tables.buckets, tables.chosen)
    stored = tables.lake.done(tables.clean, (work_of(each, part) for each in slices for part in parts))
    added = 0
    for bucket, part in zip(tables.chosen, parts, strict=True):
        lacking = [each for each in slices if work_of(each, part) not in stored]
        added += _copy_bucket(tables.of_bucket(bucket), lacking, part) if lacking else 0
    return added


def _copy_bucket(tables: _Tables, slices: list[Window], part: str) -> int:
    from pipelines.buckets import BUCKET, with_bucket
    from pipelines.validate.steps import DAY, cleaned

    added = 0
    for several in tables.parts(slices):
        rows = tables.rows(tables.raw, several).collect()
        flagged = tables.rows(tables.quarantine, several).collect()
        clean = with_bucket(cleaned(rows, flagged, tables.dataset), tables.dataset.entity, tables.buckets)
        by = DAY if tables.buckets == 1 else (DAY, BUCKET)
        tables.lake.create(tables.clean, clean, partition_by=by, buckets=tables.buckets)
        work = [work_of(each, part) for each in several]
        added += tables.lake.append(tables.clean, clean, work=work).rows_added
    return added
