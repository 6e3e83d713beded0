"""`headrace backup` and `headrace restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(backup)
    app.command()(restore)


def backup(
    folder: Annotated[
        Path, typer.Argument(help="A new folder; its parent is a disk that outlives this one.")
    ],
    with_secrets: Annotated[
        bool,
        typer.Option(
            "--with-secrets", help="Also private keys and passwords: guard the folder as you guard them."
        ),
    ] = False,
) -> None:
    """Save databases, home and lake while all runs; a lake and artifacts in S3 go by reference (docs/runbooks/restore.md)."""
    from datetime import UTC, datetime

    from headrace.display import messages
    from pipelines.backup import job
    from pipelines.settings import load_settings

    with messages().status("Saving …") as status:
        saved = job.save(
            folder.expanduser().resolve(),
            load_settings(),
            datetime.now(UTC),
            with_secrets=with_secrets,
            told=lambda what: status.update(f"Saving: {what} …"),
        )
    messages().print(
        f"{len(saved.files)} files and the versions of {len(saved.tables)} tables are in {folder}."
    )
    if not saved.secrets:
        messages().print("Secrets are not in it: keep those apart (docs/runbooks/restore.md).")


def restore(folder: Annotated[Path, typer.Argument(help="What `headrace backup` wrote.")]) -> None:
    """Fill an empty home, and empty databases, from a backup; then `headrace up`."""
    from headrace.display import messages
    from headrace.supervision import Tree
    from pipelines.backup import job
    from pipelines.errors import ProcessError
    from pipelines.settings import load_settings

    settings = load_settings()
    if Tree(settings).alive():
        raise ProcessError(f"processes of {settings.home} run: headrace down")
    with messages().status("Restoring …") as status:
        restored = job.restore(
            folder.expanduser().resolve(), settings, told=lambda what: status.update(f"Restoring: {what} …")
        )
    messages().print(
        f"{settings.home} is as it was on {restored.at:%Y-%m-%d %H:%M}Z; all {len(restored.tables)} tables can be read."
    )
    if not restored.secrets:
        messages().print(
            f"Secrets were not in the backup: put them into {settings.secrets}, or new ones are made."
        )
