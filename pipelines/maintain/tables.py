"""Tables of the lake: rows beyond their retention, small files, files that nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pipelines.adapters.lake import LOG_KEPT, Lake
from pipelines.maintain.records import Deed
from pipelines.maintain.steps import DAYS, layer_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deltalake import DeltaTable

# Files of a partition are joined up to this; those that reach it are left alone.
TARGET_BYTES = 128 * 2**20


def care(
    lake: Lake,
    at: datetime,
    retention: Mapping[str, int],
    vacuum_after: timedelta,
    kept: Mapping[str, frozenset[int]],
    *,
    dry_run: bool,
) -> Iterator[Deed]:
    """Retention, compaction and vacuum of each table, one after the other.

    Args:
        at: What counts as now.
        retention: Days that rows are kept, by layer.
        vacuum_after: Age of files that only older versions need.
        kept: Versions by table whose files stay whatever their age.
    """
    for table in lake.tables():
        layer = layer_of(table)
        if layer is None:
            continue
        versions = kept.get(table, frozenset())
        try:
            if layer in retention:
                yield from _expire(
                    lake, table, DAYS[layer], at - timedelta(days=retention[layer]), dry_run=dry_run
                )
            yield from _compact(lake, table, dry_run=dry_run)
            yield from _vacuum(lake, table, vacuum_after, versions, dry_run=dry_run)
        except Exception as error:  # noqa: BLE001 - whatever one table says, the others have their turn
            yield Deed(part="tables", name=table, action="failed", failed=True, note=str(error))


def _expire(lake: Lake, table: str, day: str, until: datetime, *, dry_run: bool) -> Iterator[Deed]:
    """Delete rows of days before the one of a moment; whole partitions, so no file is written anew."""
    import polars as pl

    first = until.date()
    rows = int(lake.scan(table).filter(pl.col(day) < first).select(pl.len()).collect().item())
    if rows:
        if not dry_run:
            lake.open(table).delete(f"{day} < '{first}'")
        yield Deed(
            part="tables", name=table, action="delete rows", count=rows, note=f"of days before {first}"
        )


def _compact(lake: Lake, table: str, *, dry_run: bool) -> Iterator[Deed]:
    """Join the small files of each partition."""
    from deltalake.exceptions import CommitFailedError

    handle = lake.open(table)
    small = _joinable(handle)
    if not small:
        return
    note = ""
    if not dry_run:
        try:
            handle.optimize.compact(target_size=TARGET_BYTES, max_concurrent_tasks=1)
        except CommitFailedError:
            note = "left for next time: somebody wrote at the same moment"
    yield Deed(part="tables", name=table, action="join files", count=small, note=note)


def _joinable(handle: DeltaTable) -> int:
    """Files below the target that share their partition with others."""
    import polars as pl

    files = pl.DataFrame(handle.get_add_actions(flatten=True))
    if files.is_empty():
        return 0
    partition = [name for name in files.columns if name.startswith("partition.")]
    small = files.filter(pl.col("size_bytes") < TARGET_BYTES // 2)
    groups = small.group_by(partition).len() if partition else small.select(pl.len())
    return int(groups.filter(pl.col("len") > 1)["len"].sum())


def _vacuum(
    lake: Lake, table: str, after: timedelta, kept: frozenset[int], *, dry_run: bool
) -> Iterator[Deed]:
    """Remove files that neither a version younger than ``after`` nor one that is kept needs.

    Raises:
        LakeError: a version that is kept cannot be opened, so that its files cannot be told.
    """
    handle = lake.open(table)
    for version in kept:
        lake.open(table, version)
    if not dry_run and handle.metadata().configuration.get(next(iter(LOG_KEPT))) is None:
        handle.alter.set_table_properties(dict(LOG_KEPT))  # the table is older than this rule
    options: dict[str, Any] = {
        "retention_hours": int(after / timedelta(hours=1)),
        "enforce_retention_duration": False,  # our own setting is the rule, of at least a day
        "full": True,  # what a killed writer left is in no log
        "keep_versions": sorted(kept) or None,
    }
    # What was removed before is named again, as long as the log remembers it.
    sizes = {each.path.removeprefix(f"{table}/"): each.size for each in lake.objects(table)}
    files = [name for name in map(unquote, handle.vacuum(dry_run=True, **options)) if name in sizes]
    if not files:
        return
    if not dry_run:
        handle.vacuum(dry_run=False, **options)
    note = f"versions {', '.join(map(str, sorted(kept)))} are in use and stay whole" if kept else ""
    yield Deed(
        part="tables",
        name=table,
        action="remove files",
        count=len(files),
        size=sum(sizes[name] for name in files),
        note=note,
    )
