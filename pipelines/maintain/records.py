"""What housekeeping did, or would do."""

from __future__ import annotations

from pipelines.references import Reference


class Deed(Reference):
    """One thing that was done; in a dry run, that would be done.

    Attributes:
        part: tables, snapshots, runs, logged models or logs.
        name: Of the table, folder or experiment.
        count: Rows, files, objects or runs.
        size: Bytes, where they are known.
        failed: It was not done, and ``note`` says why.
    """

    part: str
    name: str
    action: str
    count: int = 0
    size: int = 0
    note: str = ""
    failed: bool = False


class MaintenanceRef(Reference):
    """All of a run."""

    dry_run: bool
    deeds: tuple[Deed, ...]
