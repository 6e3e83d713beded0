"""maintain: what nobody needs goes; what a version in the registry depends on stays.

First it is asked what is needed: if that cannot be told, nothing is touched. Each part can be killed
and run again; one that fails does not keep the others from their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.errors import MaintenanceError
from pipelines.maintain import tables, tracked
from pipelines.maintain.records import Deed, MaintenanceRef
from pipelines.maintain.steps import too_short, unneeded_folders

if TYPE_CHECKING:
    from pipelines.lineage.in_use import InUse
    from pipelines.settings import Settings

SNAPSHOTS = "snapshots"

Progress = Callable[[str], None]


def run(
    settings: Settings,
    at: datetime,
    *,
    dry_run: bool = False,
    progress: Progress = lambda part: None,
) -> MaintenanceRef:
    """Tables, snapshots, runs with their artifacts, and logs.

    Args:
        at: What counts as now.
        dry_run: Tell what would be done, and do nothing.
        progress: Called with each part as it begins.

    Raises:
        MaintenanceError: it cannot be told what is needed, and nothing was touched; or a part failed, and
            the others were done.
        RegistryError: the registry does not answer; nothing was touched.
    """
    from pipelines.lineage.in_use import in_use, protect

    progress("what is needed")
    _refuse_short(settings)
    if not dry_run:
        protect(settings)
    registered = in_use(settings, all_registered=True)
    _refuse_unknown(registered)
    needed = in_use(settings)
    lake = Lake.of(settings)
    before = at - timedelta(days=settings.unused_after_days)
    parts: tuple[tuple[str, Callable[[], Iterator[Deed]]], ...] = (
        (
            "tables",
            lambda: tables.care(
                lake,
                at,
                settings.retention_days,
                timedelta(days=settings.vacuum_after_days),
                needed.tables,
                dry_run=dry_run,
            ),
        ),
        ("snapshots", lambda: _snapshots(lake, registered, before, dry_run=dry_run)),
        ("runs", lambda: tracked.care(settings, registered, before, dry_run=dry_run)),
        ("logs", lambda: _logs(settings, at, dry_run=dry_run)),
    )
    deeds: list[Deed] = []
    for name, part in parts:
        progress(name)
        try:
            deeds += part()
        except Exception as error:  # noqa: BLE001 - the other parts have their turn, and this one is told
            deeds.append(Deed(part=name, name=name, action="failed", failed=True, note=str(error)))
    if failed := [deed for deed in deeds if deed.failed]:
        raise MaintenanceError(
            f"{len(failed)} of {len(deeds)} parts of housekeeping failed, the others were done: "
            + "; ".join(f"{deed.name}: {deed.note}" for deed in failed)
        )
    return MaintenanceRef(dry_run=dry_run, deeds=tuple(deeds))


def _refuse_short(settings: Settings) -> None:
    from models.catalogue import CATALOGUE
    from pipelines.sources.profile import load_profile

    profile = load_profile(settings.source)
    windows = {name: profile.spec_of(spec).training_window for name, spec in CATALOGUE.items()}
    if short := too_short(settings.retention_days, windows):
        raise MaintenanceError(f"HEADRACE_RETENTION: {short[0]}; keep them longer. Nothing was touched")


def _refuse_unknown(registered: InUse) -> None:
    """Fail closed: of a version of ours without lineage nobody can say what it needs."""
    nameless = [each for each in registered.versions if each.snapshot_url is None and each.ours]
    if nameless:
        names = ", ".join(f"{each.registered_name} {each.version}" for each in nameless[:5])
        raise MaintenanceError(
            f"{len(nameless)} registered versions have no lineage ({names}), so that nobody can say which snapshots they "
            "depend on. Nothing was touched. Run the training that made them again, which writes it, or delete them in MLflow"
        )


def _snapshots(lake: Lake, registered: InUse, before: datetime, *, dry_run: bool) -> Iterator[Deed]:
    held = {each.path: each for each in lake.objects(SNAPSHOTS)}
    # By what follows the lake's address: a lake that was moved is still the same lake.
    kept = [f"{SNAPSHOTS}/{url.rpartition(f'/{SNAPSHOTS}/')[2]}" for url in registered.snapshots]
    gone = unneeded_folders(((each.path, each.modified) for each in held.values()), kept, before)
    for folder, paths in gone.items():
        if not dry_run:
            # The rows first: without them the manifest finds nothing, as `reproduce` says.
            for path in sorted(paths):
                lake.delete_object(path)
        yield Deed(
            part="snapshots",
            name=folder,
            action="delete",
            count=len(paths),
            size=sum(held[path].size for path in paths),
        )


def _logs(settings: Settings, at: datetime, *, dry_run: bool) -> Iterator[Deed]:
    """Airflow writes a file per task and try, and never removes one; other logs are rotated as they grow."""
    before = (at - timedelta(days=settings.task_logs_days)).timestamp()
    for name in ("tasks", "dag-files"):
        folder = settings.home / "logs" / name
        old = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime < before]
        if not old:
            continue
        size = sum(path.stat().st_size for path in old)
        if not dry_run:
            for path in old:
                path.unlink(missing_ok=True)
            for path in sorted(folder.rglob("*"), reverse=True):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        yield Deed(part="logs", name=f"logs/{name}", action="delete", count=len(old), size=size)
