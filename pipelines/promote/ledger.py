"""The ledger: who moved which pointer, when, why, and what was proved. Append-only, in the lake."""

from __future__ import annotations

from pipelines.adapters.lake import Lake
from pipelines.promote.records import PRODUCTION, LedgerLine, State
from pipelines.promote.records import Action as Action

TABLE = "ledger/pointers"


def write(lake: Lake, work: str, line: LedgerLine) -> bool:
    """Add a row once for this piece of work; returns whether it was added now."""
    import polars as pl

    texts = dict.fromkeys(
        (
            *("registered_name", "alias", "state", "action", "actor", "from_version", "to_version", "reason"),
            *("verdict", "evidence_url", "approved_by", "work", "mover"),
        ),
        pl.String,
    )
    moments = dict.fromkeys(("at", "approved_at"), pl.Datetime("us", "UTC"))
    row = line.model_dump(mode="python") | {"action": line.action.value, "state": line.state.value}
    frame = pl.DataFrame([row], schema={**moments, **texts, "sequence": pl.Int64})
    return lake.append(TABLE, frame, work=[work]).rows_added > 0


def rows(lake: Lake, registered_name: str | None = None) -> list[LedgerLine]:
    """All rows, or those of one model: moves by their number, the others where their time puts them."""
    import polars as pl

    if not lake.exists(TABLE):
        return []
    found = lake.scan(TABLE)
    if registered_name is not None:
        found = found.filter(pl.col("registered_name") == registered_name)
    # Rows from before a column was added have null there, which means the field's default.
    return [
        LedgerLine.model_validate({name: value for name, value in row.items() if value is not None})
        for row in found.collect().sort("at", maintain_order=True).to_dicts()
    ]


def read(lake: Lake, registered_name: str | None = None, alias: str = PRODUCTION) -> list[LedgerLine]:
    """The moves that were carried out, of all models or of one, oldest first."""
    moved = [line for line in rows(lake, registered_name) if (line.alias, line.state) == (alias, State.MOVED)]
    # By number first: clocks of two machines may differ, the numbers of one alias cannot.
    return sorted(moved, key=lambda line: line.sequence) if registered_name is not None else moved
