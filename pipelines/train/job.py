"""train: fit with the best parameters, log everything, export for serving, register one version."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from models.manifest import MANIFEST_FILE, FieldType, Manifest
from pipelines.errors import TrainingError
from pipelines.references import CandidateRef, SnapshotRef, StudyRef

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.base import Answers, Builder, Observations
    from pipelines.adapters.registry import Registry
    from pipelines.settings import Settings
    from pipelines.snapshot.job import SnapshotManifest
    from pipelines.train.steps import Trained

#: Artifact of the run: rows of the holdout with the answers of the model as it was trained.
NATIVE_SAMPLE = "servability/native_holdout.json"

_RUN_TAG = "headrace.run_id"
_METRICS_AT_ONCE = 1000  # MLflow's limit
# Share of rows whose decision may differ from the native model's, by roundings at a threshold.
EQUAL_DECISIONS = 0.001
# Inputs in the profile of the data; rows and raw answers that are explained in a plot.
_PROFILED, _EXPLAINED, _ANSWERS = 12, 200, 4


def run(
    snapshot: SnapshotRef, study: StudyRef, settings: Settings, builder: Builder | None = None
) -> CandidateRef:
    """Train, log and register a candidate; the same work again returns the version that is there.

    Args:
        builder: Of an experiment (:mod:`pipelines.workbench`); default is the model's own.

    Raises:
        TrainingError: the model has no signature, or its export answers otherwise than the model.
        ClusterError: the training cluster that the settings name does not answer, or lost a worker.
    """
    import mlflow

    from models.base import builder_of
    from pipelines.adapters import tracking
    from pipelines.adapters.registry import Registry
    from pipelines.adapters.signing import Signer
    from pipelines.adapters.training_cluster import training_cluster
    from pipelines.lineage import record as lineage
    from pipelines.snapshot.job import load
    from pipelines.snapshot.parts import observations
    from pipelines.sources.profile import load_profile, registered_name
    from pipelines.train import card, steps

    registry = Registry(settings.tracking)
    rows, manifest = load(snapshot, settings)
    name = registered_name(manifest.spec, load_profile(snapshot.source), settings.source)
    if (version := _registered(registry, name, study.run_id)) is not None:
        lineage.keep_from_run(settings, version, study.run_id)
        return CandidateRef(
            model=snapshot.model,
            registered_name=name,
            version=version,
            run_id=study.run_id,
            snapshot=snapshot,
        )

    builder = builder or builder_of(manifest.spec)
    parts = {
        part: observations(rows, part, manifest.entity, manifest.inputs)
        for part in ("train", "valid", "holdout")
    }
    with training_cluster(settings) as workers:
        trained = steps.train(
            builder,
            parts["train"],
            parts["valid"],
            manifest.inputs,
            study.best_params,
            manifest.seed,
            manifest.spec,
        )
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder, tracking.resumed(settings, study.run_id):
        export = Path(folder) / "export"
        digest = _export(export, trained, parts["valid"], manifest, snapshot, study)
        Signer.of(settings).sign(export, digest)
        mlflow.log_metrics(_same_as_native(export, trained, parts["holdout"]))
        if workers:  # the trees depend on how many there are
            mlflow.log_param("cluster_workers", workers)
        training = lineage.of_training(name, manifest, snapshot, study)
        mlflow.log_dict(training.model_dump(mode="json"), lineage.ARTIFACT)
        _log_run(builder, trained, parts, export, manifest, snapshot, study, settings)
        source = _log_model(export, manifest, name, study.run_id)
    card.describe(registry, manifest.spec, name, settings.airflow)
    dag_run = lineage.dag_run_page(settings)
    version = registry.create_version(
        name,
        source,
        run_id=study.run_id,
        tags={
            _RUN_TAG: study.run_id,
            "headrace.manifest_sha256": digest,
            "headrace.snapshot_sha256": snapshot.sha256,
            "headrace.source": manifest.source,
            "headrace.code_version": tracking.code_version(),
            **({"headrace.airflow_run": dag_run} if dag_run else {}),
        },
    ).version
    tracking.describe(
        settings,
        study.run_id,
        card.of_run(name, version, snapshot, study, dag_run),
        {"headrace.model": name, "headrace.version": version}
        | ({"headrace.airflow_run": dag_run} if dag_run else {}),
        experiment=manifest.spec.question,
    )
    lineage.keep_from_run(settings, version, study.run_id)
    return CandidateRef(
        model=snapshot.model, registered_name=name, version=version, run_id=study.run_id, snapshot=snapshot
    )


def _registered(registry: Registry, name: str, run_id: str) -> str | None:
    found = registry.versions(name, tags={_RUN_TAG: run_id})
    return found[-1].version if found else None


def _export(
    folder: Path,
    trained: Trained,
    valid: Observations,
    manifest: SnapshotManifest,
    snapshot: SnapshotRef,
    study: StudyRef,
) -> str:
    """Write the serving export and read it back as the server will. Returns the manifest's digest."""
    from pipelines.adapters import exports, tracking
    from pipelines.lineage.code import code
    from pipelines.train import steps

    answers, fitted = trained.valid_answers, trained.fitted
    rows = steps.sample_rows(answers, _numbers(answers)[0])
    return exports.write_export(
        folder,
        fitted.save,
        model=manifest.model,
        inputs=fitted.inputs,
        sample=exports.make_sample(
            fitted.inputs,
            {name: values[rows] for name, values in valid.columns.items()},
            {name: values[rows] for name, values in answers.items()},
        ),
        lineage={
            "source": manifest.source,
            **({"grid": manifest.spec.grid} if manifest.spec.grid else {}),
            **({"entity_input": manifest.spec.entity_input} if manifest.spec.entity_input else {}),
            "snapshot_sha256": snapshot.sha256,
            "run_id": study.run_id,
            "study": study.study,
            "seed": str(manifest.seed),
            "code_version": tracking.code_version(),
            "source_sha256": code().source_sha256,
        },
    )


def _same_as_native(export: Path, trained: Trained, holdout: Observations) -> dict[str, float]:
    """How far the export's answers are from the native model's on the holdout's inputs.

    Some of the native answers stay with the run, for the gate to hear the same from the server.

    Raises:
        TrainingError: further than the tolerance that the export states.
    """
    import mlflow

    from pipelines.adapters import exports
    from pipelines.train import steps

    predictor = exports.load_export(export)
    manifest = predictor.manifest
    native, exported = trained.fitted.answer(holdout), predictor.predict(holdout.columns)
    differences = steps.largest_difference(native, exported, manifest.outputs)
    for field in manifest.outputs:
        bound = manifest.tolerance if field.type is FieldType.DOUBLE else EQUAL_DECISIONS
        if not differences[field.name] <= bound:
            raise TrainingError(
                f"the serving export answers {field.name} otherwise than the model that was trained: "
                f"{differences[field.name]:g} on the holdout, {bound:g} is allowed"
            )
    rows = steps.sample_rows(native, _numbers(native)[0])
    kept = exports.make_sample(
        manifest.inputs,
        {name: values[rows] for name, values in holdout.columns.items()},
        {name: values[rows] for name, values in native.items()},
    )
    mlflow.log_dict(kept.model_dump(mode="json"), NATIVE_SAMPLE)
    return {f"export_difference_{name}": value for name, value in differences.items()}


def _numbers(answers: Answers) -> list[str]:
    return [name for name, values in answers.items() if values.dtype.kind == "f"]


def _log_run(
    builder: Builder,
    trained: Trained,
    parts: Mapping[str, Observations],
    export: Path,
    manifest: SnapshotManifest,
    snapshot: SnapshotRef,
    study: StudyRef,
    settings: Settings,
) -> None:
    import mlflow
    from mlflow.data.http_dataset_source import HTTPDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    from models import plots, profile_plots
    from pipelines.train import card

    mlflow.log_params({**study.best_params, "trials": study.trials, "random_seed": manifest.seed})
    mlflow.log_params({f"rows_{part}": count for part, count in snapshot.rows.items()})
    mlflow.log_params({f"positives_{part}": count for part, count in snapshot.positives.items()})
    mlflow.log_metrics(trained.metrics)
    dataset = MetaDataset(
        HTTPDatasetSource(snapshot.url), name=f"snapshot of {manifest.window}", digest=snapshot.sha256[:36]
    )
    mlflow.log_input(dataset, context="training", tags={"sha256": snapshot.sha256})
    mlflow.log_dict(manifest.model_dump(mode="json"), "snapshot_manifest.json")
    mlflow.log_dict(trained.fitted.importance(), "importance.json")
    if (told := card.card(manifest.spec)) is not None:
        mlflow.log_text(told, card.CARD)
    for fold, figures in enumerate(trained.backtest):
        mlflow.log_metrics({f"backtest_{name}": value for name, value in figures.items()}, step=fold)
    task, valid = builder.task(manifest.spec), parts["valid"]
    importance = trained.fitted.importance()
    values = _trial_values(study, settings)
    _log_search(study.run_id, values)
    for name, figure in {
        "data_profile": profile_plots.data_profile(
            {name: parts[name].columns for name in ("train", "holdout")}, _weightiest(importance, valid)
        ),
        **task.plots(valid, trained.valid_answers),
        "importance": plots.importance(importance),
        **_explanations(export, valid, manifest.seed),
        "tuning_history": plots.tuning_history(values, f"valid {task.objective}"),
    }.items():
        mlflow.log_figure(figure, f"plots/{name}.png")


def _weightiest(importance: Mapping[str, float], part: Observations) -> list[str]:
    """Inputs to show, by what they weigh; an estimator's own features are no columns of the snapshot."""
    there = [name for name in sorted(importance, key=lambda name: -importance[name]) if name in part.columns]
    return (there or list(part.columns))[:_PROFILED]


def _explanations(export: Path, part: Observations, seed: int) -> dict[str, Figure]:
    """What moves each raw answer of the export, over rows drawn from the part; none without an exact account."""
    import numpy as np

    from models import profile_plots
    from pipelines.adapters import exports

    drawn = np.random.default_rng(seed).permutation(len(part))[:_EXPLAINED]
    columns = part.rows(np.sort(drawn)).columns
    told = exports.load_export(export).explain(columns)
    return {
        f"explanation_{name}": profile_plots.explanation(found.inputs, columns, name.replace("_", " "))
        for name, found in list(told.items())[:_ANSWERS]
        if found is not None
    }


def _log_search(run_id: str, values: list[float | None]) -> None:
    """The objective trial by trial, and the best so far, as lines that MLflow draws."""
    import time

    from mlflow import MlflowClient
    from mlflow.entities import Metric

    now, best, lines = int(time.time() * 1000), float("-inf"), []
    for trial, value in enumerate(values):
        if value is not None:
            best = max(best, value)
            lines += [Metric("trial_objective", value, now, trial), Metric("trial_best", best, now, trial)]
    for place in range(0, len(lines), _METRICS_AT_ONCE):
        MlflowClient().log_batch(run_id, metrics=lines[place : place + _METRICS_AT_ONCE])


def _trial_values(study: StudyRef, settings: Settings) -> list[float | None]:
    import optuna

    from pipelines.tune.job import open_storage

    loaded = optuna.load_study(study_name=study.study, storage=open_storage(settings.tuning))
    return [trial.value for trial in loaded.get_trials(deepcopy=False)]


def _log_model(export: Path, manifest: SnapshotManifest, name: str, run_id: str) -> str:
    """Log the export as a pyfunc model without any pickle; returns its address in MLflow.

    A model that a killed process logged, and did not register, is removed first.

    Raises:
        TrainingError: MLflow stored no signature.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    client = mlflow.MlflowClient()
    for left in client.get_run(run_id).outputs.model_outputs:
        client.delete_logged_model(left.model_id)

    stored = Manifest.model_validate_json((export / MANIFEST_FILE).read_text("utf-8"))
    signature = ModelSignature(
        inputs=Schema(
            [ColSpec(field.type.value, field.name, required=field.required) for field in stored.inputs]
        ),
        outputs=Schema([ColSpec(FieldType(field.type).value, field.name) for field in stored.outputs]),
    )
    info = mlflow.pyfunc.log_model(
        name="model",
        loader_module="pipelines.adapters.mlflow_flavor",
        data_path=str(export),
        signature=signature,
        pip_requirements=["headrace[serving]"],
        metadata={"headrace.model": manifest.model, "headrace.registered_name": name},
    )
    if info.signature is None or not info.signature.inputs or not info.signature.outputs:
        raise TrainingError(
            f"MLflow stored {info.model_uri} without a signature; it cannot be served or compared"
        )
    return str(info.model_uri)
