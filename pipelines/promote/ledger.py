"""The ledger: who moved which pointer, when, why, and what was proved. Append-only, in the lake."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from feature_repo.datasets import Frozen
from pipelines.adapters.lake import Lake

TABLE = "ledger/pointers"


class Action(StrEnum):
    PROMOTE = "promote"
    PROMOTE_BY_HAND = "promote by hand"
    ROLLBACK = "rollback"


class LedgerLine(Frozen):
    """One move of the alias ``production``."""

    at: datetime
    registered_name: str
    action: Action
    actor: str
    from_version: str | None
    to_version: str
    reason: str
    verdict: str | None = None
    evidence_url: str | None = None


def write(lake: Lake, work: str, line: LedgerLine) -> bool:
    """Add a line once for this piece of work; returns whether it was added now."""
    import polars as pl

    row = pl.DataFrame(
        [line.model_dump(mode="python") | {"action": line.action.value}],
        schema={
            "at": pl.Datetime("us", "UTC"),
            "registered_name": pl.String,
            "action": pl.String,
            "actor": pl.String,
            "from_version": pl.String,
            "to_version": pl.String,
            "reason": pl.String,
            "verdict": pl.String,
            "evidence_url": pl.String,
        },
    )
    return lake.append(TABLE, row, work=[work]).rows_added > 0


def read(lake: Lake, registered_name: str | None = None) -> list[LedgerLine]:
    """All lines, or those of one model, oldest first."""
    import polars as pl

    if not lake.exists(TABLE):
        return []
    rows = lake.scan(TABLE)
    if registered_name is not None:
        rows = rows.filter(pl.col("registered_name") == registered_name)
    return [LedgerLine.model_validate(row) for row in rows.sort("at").collect().to_dicts()]
