"""tune: search parameters in an Optuna study that outlives this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.references import SnapshotRef, StudyRef, TuningShareRef

if TYPE_CHECKING:
    import optuna

    from models.base import Params
    from models.specs import ModelSpec
    from pipelines.settings import Settings
    from pipelines.tune.steps import Progress


def run(
    snapshot: SnapshotRef, settings: Settings, trials: int | None = None, progress: Progress | None = None
) -> StudyRef:
    """Tune on the train and valid parts; the holdout is not read.

    The study is named by the work (snapshot, code, budget, seed): after a kill it goes on.

    Raises:
        TrainingError: no trial was completed.
    """
    (share,) = share_out(snapshot, settings, trials, workers=1)
    search(share, settings, progress)
    return conclude(share, settings)


def share_out(
    snapshot: SnapshotRef, settings: Settings, trials: int | None = None, workers: int = 1
) -> list[TuningShareRef]:
    """Open the study, known good parameters first in its queue, and give each worker its share of it.

    The first of several workers would make the tables of an empty database while the others do.
    """
    from models.base import builder_of
    from pipelines.adapters import tracking
    from pipelines.snapshot.job import load_manifest
    from pipelines.sources.profile import load_profile, registered_name
    from pipelines.tune import steps

    manifest = load_manifest(snapshot, settings)
    spec = _with_budget(manifest.spec, trials)
    key = tracking.run_key(snapshot, spec.tuning.trials, settings.random_seed)
    name = registered_name(spec, load_profile(snapshot.source), settings.source)
    run_id = tracking.find_or_create_run(
        settings, name, key, {"headrace.snapshot_sha256": snapshot.sha256, "headrace.source": manifest.source}
    )
    builder = builder_of(spec)
    study = _open(f"{name}-{key}", settings, settings.random_seed)
    steps.begin(study, builder, _champion_params(settings, name, builder.default_params()))
    return [
        TuningShareRef(
            snapshot=snapshot,
            registered_name=name,
            study=study.study_name,
            run_id=run_id,
            trials=spec.tuning.trials,
            worker=worker,
            workers=workers,
        )
        for worker in range(workers)
    ]


def search(share: TuningShareRef, settings: Settings, progress: Progress | None = None) -> TuningShareRef:
    """Run trials of the study until it has its number of them; any number of workers do so at once."""
    from models.base import builder_of
    from pipelines.adapters.training_cluster import training_cluster
    from pipelines.snapshot.job import load
    from pipelines.snapshot.parts import observations
    from pipelines.tune import steps

    rows, manifest = load(share.snapshot, settings)
    spec = _with_budget(manifest.spec, share.trials)
    parts = {part: observations(rows, part, manifest.entity, manifest.inputs) for part in ("train", "valid")}
    with training_cluster(settings):
        steps.search(
            # Workers with one seed would propose the same parameters.
            _open(share.study, settings, settings.random_seed + share.worker),
            builder_of(spec),
            parts["train"],
            parts["valid"],
            manifest.inputs,
            spec,
            settings.random_seed,
            share.worker if share.workers > 1 else None,
            progress,
        )
    return share


def conclude(share: TuningShareRef, settings: Settings) -> StudyRef:
    """The best of the study, once all of its workers are done, and its trials as runs in MLflow.

    Raises:
        TrainingError: no trial was completed.
    """
    from models.base import builder_of
    from pipelines.snapshot.job import load_manifest
    from pipelines.tune import steps

    spec = _with_budget(load_manifest(share.snapshot, settings).spec, share.trials)
    study = _open(share.study, settings, settings.random_seed)
    steps.close_abandoned(study, None)
    steps.proved(study, spec)
    _log_trials(study, builder_of(spec).task(spec).objective, settings, share.registered_name, share.run_id)
    return StudyRef(
        model=spec.name,
        study=study.study_name,
        trials=steps.finished(study),
        best_value=study.best_value,
        best_params=study.best_params,
        run_id=share.run_id,
    )


def _with_budget(spec: ModelSpec, trials: int | None) -> ModelSpec:
    if trials is None:
        return spec
    return spec.model_copy(update={"tuning": spec.tuning.model_copy(update={"trials": trials})})


def _open(name: str, settings: Settings, seed: int) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=name,
        storage=open_storage(settings.tuning),
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=40),
    )


def open_storage(url: str) -> Any:
    """Optuna storage: an SQLAlchemy URL, or else the path of a journal file."""
    if "://" in url:
        return url
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    Path(url).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(url))


def _champion_params(settings: Settings, name: str, like: Params) -> Params | None:
    """Parameters of the version in production, typed as ``like``; None where it has others, or none serves."""
    from pipelines.adapters.registry import Registry

    registry = Registry(settings.tracking)
    champion = registry.alias_version(name, "production")
    run = registry.run(champion.run_id) if champion and champion.run_id else None
    if run is None or not set(like) <= set(run.params):
        return None
    return {key: type(value)(run.params[key]) for key, value in like.items()}


def _log_trials(
    study: optuna.Study, objective: str, settings: Settings, experiment: str, run_id: str
) -> None:
    """Nested runs, one per trial; those that a killed process logged already are left alone."""
    from mlflow.entities import Metric, Param, RunTag
    from optuna.trial import TrialState

    from pipelines.adapters import tracking

    client = tracking.client(settings)
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    logged = {
        run.data.tags["headrace.trial"]
        for run in client.search_runs(
            [experiment_id],
            filter_string=f"tags.`mlflow.parentRunId` = '{run_id}' and status = 'FINISHED'",
            max_results=1000,
        )
        if "headrace.trial" in run.data.tags
    }
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        if str(trial.number) in logged or trial.datetime_start is None or trial.datetime_complete is None:
            continue
        started, ended = (
            int(at.timestamp() * 1000) for at in (trial.datetime_start, trial.datetime_complete)
        )
        nested = client.create_run(
            experiment_id,
            start_time=started,
            run_name=f"trial {trial.number}",
            tags={
                "mlflow.parentRunId": run_id,
                "headrace.trial": str(trial.number),
                "headrace.trial_state": trial.state.name,
            },
        ).info.run_id
        metrics = (
            []
            if trial.value is None
            else [Metric(f"valid_{objective.replace(' ', '_')}", trial.value, ended, 0)]
        )
        client.log_batch(
            nested,
            metrics=metrics,
            params=[Param(name, str(value)) for name, value in trial.params.items()],
            tags=[RunTag("headrace.study", study.study_name)],
        )
        client.set_terminated(nested, end_time=ended)
