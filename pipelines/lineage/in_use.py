"""What must be kept because a version needs it, and the runs that somebody deleted all the same.

``mlflow gc`` looks at nothing but the lifecycle stage: a run that is deleted in the UI goes, with
its artifacts, though an alias names the version that it made. So a run in use is brought back from
that stage before the next ``gc``, and said aloud.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from feature_repo.datasets import Frozen
from pipelines.lineage.record import Lineage, read

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipelines.adapters.registry import ModelVersion
    from pipelines.settings import Settings

#: Aliases whose versions are in use, by what they are for (DESIGN: production, previous, challenger).
ALIASES = ("production", "previous", "challenger")
#: A version without this tag is still being judged.
VERDICT_TAG = "headrace.verdict"
_OURS = "headrace."
#: Outcome with which a version may still be promoted: newer than the champion, it waits for that.
_PASSED = "pass"


class Needed(Frozen):
    """A version in use and what it needs."""

    registered_name: str
    version: str
    why: tuple[str, ...] = Field(description="Aliases that name it, or why it is pending.")
    run_id: str | None
    source: str = Field(description="The logged model, as MLflow names it.")
    snapshot_url: str | None = Field(description="None: the version has no lineage.")
    tables: dict[str, int]
    ours: bool = Field(True, description="Whether Headrace registered it, by its tags.")


class InUse(Frozen):
    """Everything that housekeeping must leave alone."""

    versions: tuple[Needed, ...]

    @property
    def runs(self) -> frozenset[str]:
        return frozenset(each.run_id for each in self.versions if each.run_id)

    @property
    def snapshots(self) -> frozenset[str]:
        """Addresses of the snapshots' rows; their manifests lie beside them."""
        return frozenset(each.snapshot_url for each in self.versions if each.snapshot_url)

    @property
    def tables(self) -> dict[str, frozenset[int]]:
        """Versions of each table that a snapshot in use can be built from again."""
        found: dict[str, set[int]] = {}
        for each in self.versions:
            for table, version in each.tables.items():
                found.setdefault(table, set()).add(version)
        return {table: frozenset(versions) for table, versions in sorted(found.items())}


class Endangered(Frozen):
    """Something that a version in use needs and that was deleted."""

    registered_name: str
    version: str
    what: str
    restored: bool


def in_use(settings: Settings, *, all_registered: bool = False) -> InUse:
    """Versions that an alias names or that wait for their promotion, with what they need.

    A version is pending while it is newer than the champion and was not judged, or passed.

    Args:
        all_registered: The other versions of the registry as well.
    """
    from pipelines.adapters.lake import Lake
    from pipelines.adapters.registry import Registry

    records = {(each.registered_name, each.version): each for each in read(Lake.of(settings))}
    found: list[Needed] = []
    with Registry(settings.tracking) as registry:
        for model in registry.registered_models():
            why: dict[str, list[str]] = {}
            for alias in ALIASES:
                # One alias at a time: the registry's searches leave aliases out.
                named = registry.alias_version(model.name, alias)
                if named is not None:
                    why.setdefault(named.version, []).append(alias)
            versions = registry.versions(model.name)
            champion = next((int(number) for number, names in why.items() if ALIASES[0] in names), 0)
            for version in versions:
                if reason := _pending(version, champion):
                    why.setdefault(version.version, []).append(reason)
                if all_registered:
                    why.setdefault(version.version, ["registered"])
            found += _needed(versions, why, records)
    return InUse(versions=tuple(found))


def protect(settings: Settings) -> tuple[Endangered, ...]:
    """Bring runs of versions in use back from deletion, and report what cannot be brought back.

    Safe to repeat; nothing is found where nothing was deleted.
    """
    from pipelines.adapters import tracking

    client = tracking.client(settings)
    found: list[Endangered] = []
    for each in in_use(settings).versions:
        found += _protect(client, each)
    return tuple(found)


def _protect(client: MlflowClient, each: Needed) -> Iterable[Endangered]:
    from mlflow.exceptions import MlflowException

    def told(what: str, restored: bool) -> Endangered:
        return Endangered(
            registered_name=each.registered_name, version=each.version, what=what, restored=restored
        )

    if each.run_id is not None:
        try:
            run = client.get_run(each.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            yield told(f"run {each.run_id} is gone for good", restored=False)
        else:
            experiment = client.get_experiment(run.info.experiment_id)
            if experiment.lifecycle_stage == "deleted":
                client.restore_experiment(experiment.experiment_id)
                yield told(f"experiment {experiment.name}", restored=True)
                run = client.get_run(each.run_id)
            if run.info.lifecycle_stage == "deleted":
                client.restore_run(each.run_id)
                yield told(f"run {each.run_id}", restored=True)
    model_id = each.source.removeprefix("models:/")
    if model_id.startswith("m-"):
        try:
            client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            # MLflow can delete a logged model, and has no way to take that back.
            yield told(
                f"logged model {model_id}, which MLflow cannot restore: promote another version before `mlflow gc` runs",
                restored=False,
            )


def _pending(version: ModelVersion, champion: int) -> str:
    if int(version.version) <= champion:
        return ""
    verdict = version.tags.get(VERDICT_TAG)
    if verdict is None:
        return "not judged yet"
    return "passed, not promoted" if verdict == _PASSED else ""


def _needed(
    versions: Iterable[ModelVersion],
    why: dict[str, list[str]],
    records: dict[tuple[str, str], Lineage],
) -> Iterable[Needed]:
    for version in versions:
        if version.version not in why:
            continue
        record = records.get((version.name, version.version))
        yield Needed(
            registered_name=version.name,
            version=version.version,
            why=tuple(why[version.version]),
            run_id=version.run_id,
            source=version.source,
            snapshot_url=record.training.snapshot.url if record else None,
            tables=record.training.tables if record else {},
            ours=any(tag.startswith(_OURS) for tag in version.tags),
        )
