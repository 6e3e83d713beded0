"""The history fits a terminal, and says of each move who, how long, and whether the version answered."""

import io
from datetime import UTC, datetime, timedelta

from rich.console import Console

from headrace.history_table import history_table
from pipelines.promote.history import entries
from pipelines.promote.records import Action, LedgerLine, State

START = datetime(2026, 1, 1, tzinfo=UTC)


def line(hours, number, start, end, action, state=State.MOVED, reason="[bold]better[/bold]", **more):
    return LedgerLine(
        at=START + timedelta(hours=hours),
        registered_name="failure",
        sequence=number,
        state=state,
        action=action,
        actor="ada",
        from_version=start,
        to_version=end,
        reason=reason,
        **more,
    )


def test_every_move_is_a_row_of_a_narrow_table():
    rows = [
        line(0, 1, None, "1", Action.PROMOTE, verdict="pass", approved_by="grace", approved_at=START),
        line(2, 2, "1", "2", Action.OVERRIDE, verdict="fail"),
        line(3, 3, "2", "1", Action.ROLLBACK),
        line(3.1, 3, "2", "1", Action.ROLLBACK, State.ANSWERED),
        line(4, 4, "1", "2", Action.PROMOTE, State.ABANDONED),
    ]
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(history_table(entries(rows, START + timedelta(hours=30))))
    text = console.export_text()
    for wanted in (
        "- → 1",
        "promote, pass",
        "ada, approved by grace",
        "2 h",
        "override, fail",
        "rollback, answers",
        "1 d 3 h so far",
        "promote, not carried out",
        "[bold]better[/bold]",
    ):
        assert wanted in text
