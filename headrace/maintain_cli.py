"""`headrace maintain`: what nobody needs goes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.maintain.records import MaintenanceRef


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(maintain)


def maintain(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Retention, compaction and vacuum of tables; snapshots, runs and logs that nothing refers to. As the DAG does.

    What a version in the registry depends on is never touched; where that cannot be told, nothing is.
    """
    from headrace.display import messages
    from pipelines.maintain import job
    from pipelines.settings import load_settings

    with messages().status("") as shown:
        found = job.run(
            load_settings(),
            datetime.now(UTC),
            dry_run=dry_run,
            progress=lambda part: shown.update(f"Housekeeping: {part} …"),
        )
    if json:
        print(found.model_dump_json(indent=2))
    else:
        _show(found)


def _show(found: MaintenanceRef) -> None:
    from rich.table import Table

    from headrace.display import output

    if not found.deeds:
        output().print("There is nothing to do.")
        return
    table = Table("part", "name", "action", "count", "size", "", box=None, padding=(0, 2))
    for deed in found.deeds:
        size = f"{deed.size / 2**20:.1f} MiB" if deed.size else ""
        table.add_row(
            deed.part, deed.name, deed.action, f"{deed.count:,}" if deed.count else "", size, deed.note
        )
    output().print(table)
    if found.dry_run:
        output().print("A dry run: nothing was done.", style="yellow")
