"""What housekeeping may remove, of what there is. Pure: facts in, choices out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

#: Layers of tables, with the column of the day by which their rows age and their files are apart.
DAYS: Mapping[str, str] = {
    "raw": "slice_day",
    "quarantine": "slice_day",
    "clean": "day",
    "features": "day",
    "predictions": "day",
    "scores": "day",
}
#: Layers that trainings read: shorter than a training window, they would starve it.
LEARNED_FROM = ("clean", "features")


class RunFacts(NamedTuple):
    """A run of the tracking server. ``parent``: the run below which it is nested."""

    run_id: str
    parent: str | None
    started_at: datetime
    ours: bool


def layer_of(table: str) -> str | None:
    """The layer that a table belongs to; None for records, which are small and kept."""
    layer = table.partition("/")[0]
    return layer if layer in DAYS else None


def too_short(retention: Mapping[str, int], needed: Mapping[str, timedelta]) -> list[str]:
    """Layers whose retention is shorter than what a model is trained on.

    Args:
        needed: Training window by model.
    """
    return [
        f"{layer}={retention[layer]} is less than the {window.days} days that {model} is trained on"
        for layer in LEARNED_FROM
        if layer in retention
        for model, window in needed.items()
        if timedelta(days=retention[layer]) < window
    ]


def unneeded_runs(runs: Iterable[RunFacts], needed: Iterable[str], before: datetime) -> list[str]:
    """Our runs that began before a moment, that no registered version names and none below such a one.

    A run is kept with all runs nested below it: they are its evidence. One that is nested below a run
    that is not known any more goes by itself.
    """
    known = {run.run_id: run for run in runs}
    kept = set(needed)

    def needs(run: RunFacts) -> bool:
        seen = set()
        at: RunFacts | None = run
        while at is not None and at.run_id not in seen:
            # Young by itself or by its parent: a study may have trials from before a break.
            if at.run_id in kept or at.started_at >= before:
                return True
            seen.add(at.run_id)
            at = known.get(at.parent) if at.parent else None
        return False

    def is_ours(run: RunFacts) -> bool:
        parent = known.get(run.parent) if run.parent else None
        return run.ours or (parent is not None and parent.ours)

    return [run.run_id for run in known.values() if is_ours(run) and not needs(run)]


def unneeded_folders(
    objects: Iterable[tuple[str, datetime]], needed: Iterable[str], before: datetime
) -> dict[str, list[str]]:
    """Folders of objects of which none is needed and the newest was written before a moment, with their objects.

    Args:
        objects: Path and time of writing.
        needed: Paths; the whole folder of each is kept.
    """
    folders: dict[str, list[tuple[str, datetime]]] = {}
    for path, modified in objects:
        folders.setdefault(path.rpartition("/")[0], []).append((path, modified))
    kept = {path.rpartition("/")[0] for path in needed}
    return {
        folder: [path for path, _ in held]
        for folder, held in folders.items()
        if folder not in kept and max(modified for _, modified in held) < before
    }
