"""Doors for labels: the table ``labels/<registered model>`` of the lake, files dropped into a folder, and the server's.

A file is taken once, by the hash of its content, and then moved to ``taken/``; one that cannot be taken is
moved to ``refused/`` beside a text that says why. What callers sent to the server waits in its spool, and
is removed once it is in the lake, each request once.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.adapters.label_spool import Sent, waiting
from pipelines.adapters.lake import Lake
from pipelines.errors import MonitorError
from pipelines.predictions.job import alone
from pipelines.references import Reference

if TYPE_CHECKING:
    import polars as pl

    from pipelines.settings import Settings

#: Requests that go into one commit, at most.
_REQUESTS_PER_COMMIT = 2_000


class LabelsRef(Reference):
    """What came through the door.

    Attributes:
        rows: Added now.
        taken, refused: Files.
    """

    rows: int
    taken: int
    refused: int


def table_of(registered_name: str) -> str:
    from pipelines.predictions.table import table_of as predictions_of

    return predictions_of(registered_name).replace("predictions/", "labels/", 1)


def folder_of(settings: Settings, registered_name: str) -> Path:
    """Where files with labels are dropped: CSV or Parquet, written elsewhere and renamed into it."""
    return settings.home / "labels" / table_of(registered_name).removeprefix("labels/")


def add(
    lake: Lake, registered_name: str, rows: pl.DataFrame, targets: tuple[str, ...], work: str, now: datetime
) -> int:
    """Append labels once for the named work; returns how many were added now.

    Raises:
        MonitorError: rows are refused; none of them is added.
    """
    import polars as pl

    from pipelines.monitor.labels import checked
    from pipelines.times import TIME

    sound = checked(rows, targets, pl.lit(now, TIME)).with_columns(day=pl.col("labelled_at").dt.date())
    return lake.append(table_of(registered_name), sound, work=[work], partition_by="day").rows_added


def take_files(
    registered_name: str, targets: tuple[str, ...], now: datetime, settings: Settings
) -> LabelsRef:
    """Take what lies in the model's folder."""
    folder, lake = folder_of(settings, registered_name), Lake.of(settings)
    rows = taken = refused = 0
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.suffix not in {".csv", ".parquet"}:
            continue
        content = path.read_bytes()
        try:
            rows += add(
                lake,
                registered_name,
                _read(path, content),
                targets,
                f"labels:{hashlib.sha256(content).hexdigest()}",
                now,
            )
        except MonitorError as error:
            _move(path, "refused")
            (folder / "refused" / f"{path.name}.txt").write_text(f"{error}\n", "utf-8")
            refused += 1
        else:
            _move(path, "taken")
            taken += 1
    return LabelsRef(rows=rows, taken=taken, refused=refused)


class ShippedRef(Reference):
    """What a run took from the servers' spool.

    Attributes:
        requests: Taken, and gone from the spool.
        rows: Added by this run, over all models.
    """

    requests: int
    rows: int


def ship(settings: Settings) -> ShippedRef:
    """Bring to the lake what callers sent to the servers of this machine. Killed and run again, it adds nothing twice.

    Raises:
        LakeError: a table cannot be written; what was not shipped stays in the spool.
    """
    lake = Lake.of(settings)
    requests = rows = 0
    with alone(settings.label_spool):
        for batch in _batches(waiting(settings.label_spool)):
            rows += _append(lake, batch[0].model, batch)
            for sent in batch:
                sent.path.unlink(missing_ok=True)
            requests += len(batch)
    return ShippedRef(requests=requests, rows=rows)


def _batches(found: Iterator[Sent]) -> Iterator[list[Sent]]:
    """Requests of one model each, as many as go into one commit."""
    open_ones: dict[str, list[Sent]] = defaultdict(list)
    for sent in found:
        batch = open_ones[sent.model]
        batch.append(sent)
        if len(batch) == _REQUESTS_PER_COMMIT:
            yield open_ones.pop(sent.model)
    yield from open_ones.values()


def _append(lake: Lake, model: str, batch: Sequence[Sent]) -> int:
    """Add the rows of those requests that the model's table does not hold yet."""
    import polars as pl

    from pipelines.monitor.labels import COLUMNS

    table = table_of(model)
    done = lake.done(table, [sent.work for sent in batch])
    new = [sent for sent in batch if sent.work not in done]
    if not new:
        return 0
    texts = {name: pl.String() if kind.is_temporal() else kind for name, kind in COLUMNS.items()}
    rows = (
        pl.DataFrame([row for sent in new for row in sent.rows], schema=texts)
        .with_columns(
            pl.col(name).str.to_datetime(time_unit="us", time_zone="UTC")
            for name, kind in COLUMNS.items()
            if kind.is_temporal()
        )
        .match_to_schema(COLUMNS)
        .with_columns(day=pl.col("labelled_at").dt.date())
    )
    return lake.append(table, rows, work=[sent.work for sent in new], partition_by="day").rows_added


def _read(path: Path, content: bytes) -> pl.DataFrame:
    import io

    import polars as pl

    try:
        if path.suffix == ".csv":
            return pl.read_csv(io.BytesIO(content), infer_schema_length=None)
        return pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise MonitorError(f"{path.name} is no {path.suffix[1:]} file: {error}") from error


def _move(path: Path, where: str) -> None:
    target = path.parent / where
    target.mkdir(exist_ok=True)
    path.replace(target / path.name)
