"""The pointer history as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from pipelines.promote.history import spoken
from pipelines.promote.records import State

if TYPE_CHECKING:
    from pipelines.promote.history import Entry


def history_table(found: Sequence[Entry]) -> Table:
    """One row per move, and dimmed ones for what moved nothing. Narrow: a terminal has 80 columns."""
    table = Table("when (UTC)", "from → to", "what", "who", "served", "why", box=None, padding=(0, 1))
    for column in table.columns[:2]:
        column.no_wrap = True
    for entry in found:
        line = entry.line
        table.add_row(
            f"{line.at:%Y-%m-%d %H:%M}",
            f"{line.from_version or '-'} → {line.to_version or '-'}",
            _what(entry),
            Text(line.actor + (f", approved by {line.approved_by}" if line.approved_by else "")),
            _served(entry),
            Text(line.reason),
            style="" if entry.moved else "dim",
        )
    return table


def _what(entry: Entry) -> Text:
    """The action, the verdict behind it, and whether the version was seen to answer."""
    line = entry.line
    text = Text(line.action.value)
    if line.state is State.ABANDONED:
        text.append(", not carried out")
    if line.verdict:
        text.append(f", {line.verdict}")
    if entry.proof is not None:
        answered = entry.proof.state is State.ANSWERED
        text.append(", answers" if answered else ", does not answer", style="green" if answered else "red")
    return text


def _served(entry: Entry) -> str:
    if entry.served is None:
        return ""
    return spoken(entry.served) + (" so far" if entry.until is None else "")
