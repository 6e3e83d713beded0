"""Train a version again from its lineage, and say whether it is the same.

The training set is the stored one if it is still there, else it is built again from the versions
of the tables that it read. The model is fitted with the recorded parameters and seed by the code
that runs now, exported, and asked for the training set's valid and holdout rows beside the export
that is registered.
"""

from __future__ import annotations

import hashlib
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, ValidationError

from feature_repo.datasets import Frozen
from pipelines.errors import LakeError, LineageError, SnapshotError
from pipelines.lineage import record
from pipelines.lineage.code import code, code_differences, environment, environment_differences

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    from numpy.typing import NDArray

    from models.base import Observations
    from pipelines.adapters.runtimes.base import Predictor
    from pipelines.lineage.record import Lineage, Training
    from pipelines.settings import Settings
    from pipelines.snapshot.job import SnapshotManifest

_PARTS = ("valid", "holdout")


class Sameness(StrEnum):
    """How alike the version and its reproduction are, from best to worst."""

    IDENTICAL = "identical"  # each prediction, bit by bit
    WITHIN_TOLERANCE = "within tolerance"  # of the export's manifest; no other decision
    DIFFERENT = "different"


class OutputDifference(Frozen):
    """One output over all rows that were asked for."""

    output: str
    largest: float = Field(description="Absolute difference of numbers; share of rows for anything else.")
    differing: int = Field(description="Rows that are not the same bit by bit.")


class Reproduction(Frozen):
    """What came of training a version again."""

    registered_name: str
    version: str
    sameness: Sameness
    rows: int
    tolerance: float
    outputs: tuple[OutputDifference, ...]
    snapshot: str = Field(description="Where the training set came from: stored, or built again.")
    snapshot_identical: bool
    same_files: tuple[str, ...] = Field(description="Model files that are the same byte by byte.")
    other_files: tuple[str, ...]
    code: tuple[str, ...] = Field(description="What of the code differs from then.")
    environment: tuple[str, ...] = Field(description="What of the environment differs from then.")


def reproduce(
    registered_name: str,
    version: str,
    settings: Settings,
    progress: Callable[[str], None] = lambda step: None,
    *,
    rebuild: bool = False,
) -> Reproduction:
    """Train a version again and compare.

    Args:
        progress: Called with what begins.
        rebuild: Build the training set again even where the stored one is there.

    Raises:
        LineageError: the version, its lineage or its training set cannot be had.
    """
    from pipelines.adapters.lake import Lake
    from pipelines.adapters.training_cluster import training_cluster

    lineage = record.find(Lake.of(settings), registered_name, version)
    training = lineage.training
    with tempfile.TemporaryDirectory(prefix="headrace-reproduce-") as folder:
        progress("fetching the registered version")
        registered = _registered(lineage, Path(folder) / "registered", settings)
        progress("reading the training set")
        rows, manifest, origin = _training_set(training, settings, rebuild=rebuild)
        progress("training")
        with training_cluster(settings):
            again, parts = _trained_again(training, rows, manifest, Path(folder) / "again")
        progress("comparing predictions")
        outputs, counted = _compare(registered, again, parts)
    tolerance = registered.manifest.tolerance
    theirs, ours = registered.manifest.files, again.manifest.files
    models = sorted({estimator.file for estimator in registered.manifest.estimators})
    return Reproduction(
        registered_name=registered_name,
        version=version,
        sameness=_sameness(outputs, tolerance),
        rows=counted,
        tolerance=tolerance,
        outputs=outputs,
        snapshot=origin,
        snapshot_identical=_digest(rows) == training.snapshot.sha256,
        same_files=tuple(name for name in models if theirs[name] == ours.get(name)),
        other_files=tuple(name for name in models if theirs[name] != ours.get(name)),
        code=code_differences(training.code, code()),
        environment=environment_differences(training.environment, environment()),
    )


def _registered(lineage: Lineage, folder: Path, settings: Settings) -> Predictor:
    from pipelines.adapters import exports
    from pipelines.adapters.registry import Registry
    from pipelines.adapters.signing import Trust

    name, number = lineage.registered_name, lineage.version
    with Registry(settings.tracking) as registry:
        version = registry.version(name, number)
        if version is None:
            raise LineageError(f"{name} has no version {number} any more: there is nothing to compare with")
        registry.download(version, folder)
    digest = version.tags.get(exports.MANIFEST_TAG)
    return exports.load_export(exports.find_export(folder), digest, Trust.of(settings))


def _training_set(
    training: Training, settings: Settings, *, rebuild: bool
) -> tuple[pl.DataFrame, SnapshotManifest, str]:
    """Rows, manifest, and where the rows came from."""
    from pipelines.snapshot import job as snapshot

    manifest = _manifest_of_run(training, settings)
    if not rebuild:
        try:
            rows, _ = snapshot.load(training.snapshot, settings)
        except (LakeError, SnapshotError):
            rebuild = True
        else:
            return rows, manifest, "stored"
    try:
        rows = snapshot.rebuild(manifest, settings)
    except (LakeError, SnapshotError) as error:
        raise LineageError(
            f"the training set {training.snapshot.sha256[:12]} of {training.registered_name} is not to be had again: {error}"
        ) from error
    return rows, manifest, "built again from the tables"


def _manifest_of_run(training: Training, settings: Settings) -> SnapshotManifest:
    """As it was at training: an object of the lake is named by its rows, and may have been written again since."""
    import mlflow
    from mlflow.exceptions import MlflowException

    from pipelines.adapters import tracking
    from pipelines.snapshot.job import SnapshotManifest

    tracking.client(settings)
    try:
        text = mlflow.artifacts.load_text(f"runs:/{training.run_id}/snapshot_manifest.json")
    except MlflowException as error:
        raise LineageError(
            f"run {training.run_id} has no snapshot_manifest.json any more, so what was trained is not known: {error}"
        ) from error
    try:
        return SnapshotManifest.model_validate_json(text)
    except ValidationError as error:
        raise LineageError(
            f"the code of now cannot read the spec that run {training.run_id} was trained by: check out its code, "
            f"{training.code.named()}, and ask again ({error.error_count()} fields are refused)"
        ) from error


def _trained_again(
    training: Training, rows: pl.DataFrame, manifest: SnapshotManifest, folder: Path
) -> tuple[Predictor, tuple[Observations, ...]]:
    from models.base import builder_of
    from pipelines.adapters import exports
    from pipelines.snapshot.parts import observations
    from pipelines.train import steps

    parts = {part: observations(rows, part, manifest.entity, manifest.inputs) for part in ("train", *_PARTS)}
    fitted = builder_of(manifest.spec).fit(
        parts["train"], parts["valid"], manifest.inputs, training.params, training.seed, manifest.spec
    )
    answers = fitted.answer(parts["valid"])
    steps.refuse_unspoken(answers)
    sample = steps.sample_rows(
        answers, next(name for name, values in answers.items() if values.dtype.kind == "f")
    )
    exports.write_export(
        folder,
        fitted.save,
        model=manifest.model,
        inputs=fitted.inputs,
        sample=exports.make_sample(
            fitted.inputs,
            {name: values[sample] for name, values in parts["valid"].columns.items()},
            {name: values[sample] for name, values in answers.items()},
        ),
        lineage={"reproduces_run_id": training.run_id},
    )
    return exports.load_export(folder), tuple(parts[part] for part in _PARTS)


def _compare(
    registered: Predictor, again: Predictor, parts: tuple[Observations, ...]
) -> tuple[tuple[OutputDifference, ...], int]:
    asked = [(registered.predict(part.columns), again.predict(part.columns)) for part in parts if len(part)]
    names = [field.name for field in registered.manifest.outputs]
    if missing := [name for name in names if any(name not in ours for _, ours in asked)]:
        raise LineageError(
            f"the code of now makes a model without the outputs {missing}: it cannot be compared"
        )
    differences = tuple(
        difference(
            name,
            np.concatenate([theirs[name] for theirs, _ in asked]),
            np.concatenate([ours[name] for _, ours in asked]),
        )
        for name in names
    )
    return differences, sum(len(part) for part in parts)


def difference(output: str, then: NDArray, now: NDArray) -> OutputDifference:
    """Two arrays of shape (n,); numbers bit by bit, so that 0.0 and -0.0 are not the same, and NaN is NaN."""
    if then.dtype.kind == "f":
        other = then.astype(np.float64).view(np.int64) != now.astype(np.float64).view(np.int64)
        other &= ~(np.isnan(then) & np.isnan(now))
        # What is the same is left out before subtracting: infinity less infinity is not a number.
        apart = np.nan_to_num(np.abs(then[other] - now[other]), nan=np.inf)
        return OutputDifference(
            output=output, largest=float(np.max(apart, initial=0.0)), differing=int(np.sum(other))
        )
    other = then != now
    return OutputDifference(output=output, largest=float(np.mean(other)), differing=int(np.sum(other)))


def _sameness(outputs: tuple[OutputDifference, ...], tolerance: float) -> Sameness:
    if not any(each.differing for each in outputs):
        return Sameness.IDENTICAL
    return (
        Sameness.WITHIN_TOLERANCE
        if all(each.largest <= tolerance for each in outputs)
        else Sameness.DIFFERENT
    )


def _digest(rows: pl.DataFrame) -> str:
    from pipelines.snapshot.job import parquet

    return hashlib.sha256(parquet(rows)).hexdigest()
