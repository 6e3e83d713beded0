"""Checks in the lake: what was seen of each version, when, and what was decided. Append-only."""

from __future__ import annotations

from pipelines.adapters.lake import Lake
from pipelines.monitor.records import Check

TABLE = "monitor/checks"


def keep(lake: Lake, check: Check) -> Check:
    """Add a check once; returns the one that is there, which is another where this window was looked at before."""
    import polars as pl

    row = pl.DataFrame(
        {
            "at": [check.at],
            "registered_name": [check.registered_name],
            "version": [check.version],
            "window_end": [check.window.end],
            "cause": [check.cause.value],
            "record": [check.model_dump_json()],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC"), "window_end": pl.Datetime("us", "UTC")},
    )
    if lake.append(TABLE, row, work=[check.work]).rows_added:
        return check
    return next(each for each in _all(lake, check.registered_name, check.version) if each.work == check.work)


def read(lake: Lake, registered_name: str | None = None, version: str | None = None) -> list[Check]:
    """Checks of all models, of one or of one of its versions, by the end of their windows; of a window the last."""
    last = {
        (check.registered_name, check.version, check.window.end): check
        for check in sorted(_all(lake, registered_name, version), key=lambda check: check.attempt)
    }
    return sorted(last.values(), key=lambda check: (check.window.end, int(check.version)))


def _all(lake: Lake, registered_name: str | None, version: str | None) -> list[Check]:
    import polars as pl

    if not lake.exists(TABLE):
        return []
    rows = lake.scan(TABLE)
    if registered_name is not None:
        rows = rows.filter(pl.col("registered_name") == registered_name)
    if version is not None:
        rows = rows.filter(pl.col("version") == version)
    return [Check.model_validate_json(text) for text in rows.collect()["record"]]
