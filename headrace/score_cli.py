"""`headrace score`: the rows of a table, answered by a version into a table of predictions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.references import Window


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(score)


def score(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name in the registry: the model's, or MODEL-SOURCE.")
    ],
    table: Annotated[
        str | None,
        typer.Option(
            help="Table of the lake with entities and event_time, PATH or PATH@VERSION. Default: the model's features."
        ),
    ] = None,
    window_start: Annotated[
        str | None, typer.Option(help="First moment, ISO 8601, UTC. Default: all.")
    ] = None,
    window_end: Annotated[str | None, typer.Option(help="Moment after the last, ISO 8601, UTC.")] = None,
    model_version: Annotated[str | None, typer.Option(help="Default: the version in production.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Column of the table to keep beside the answers; again for more.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Predict for each row of a table, day by day. Killed or failed, run the same again: it goes on where it was."""
    from headrace.display import messages, output
    from pipelines.score import job
    from pipelines.settings import load_settings

    settings = load_settings()
    with messages().status("Planning …") as shown:
        scoring = job.plan(
            model,
            settings,
            table=table,
            window=_window(window_start, window_end),
            version=model_version,
            keep=keep or (),
        )
        found = job.run(
            scoring,
            settings,
            datetime.now(UTC),
            progress=lambda done, total: shown.update(
                f"Scoring {scoring.table}@{scoring.table_version} by version {scoring.version}: "
                f"{done} of {total} days …"
            ),
        )
    if json:
        print(found.model_dump_json(indent=2))
        return
    answered = f"{found.rows} rows added" + (
        f", {found.refused} of them without an answer" if found.refused else ""
    )
    output().print(
        f"{found.scored.table}@{found.scored.version} holds {found.days} days by version {found.version} of "
        f"{found.registered_name}: {answered if found.rows else 'all were there already'}.",
        markup=False,
    )


def _window(start: str | None, end: str | None) -> Window | None:
    from pipelines.references import Window

    if (start is None) != (end is None):
        raise typer.BadParameter("give both --window-start and --window-end, or neither")
    return Window.parse(start, end) if start and end else None
