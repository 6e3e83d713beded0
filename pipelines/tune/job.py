"""tune: search parameters in an Optuna study that outlives this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.references import SnapshotRef, StudyRef

if TYPE_CHECKING:
    import optuna

    from models.base import Params
    from pipelines.settings import Settings
    from pipelines.tune.steps import Progress


def run(
    snapshot: SnapshotRef, settings: Settings, trials: int | None = None, progress: Progress | None = None
) -> StudyRef:
    """Tune on the train and valid parts; the holdout is not read.

    The study is named by the work (snapshot, code, budget, seed): after a kill it goes on.
    """
    import optuna

    from models.base import builder_of
    from pipelines.adapters import tracking
    from pipelines.snapshot.job import load
    from pipelines.snapshot.parts import observations
    from pipelines.sources.profile import load_profile, registered_name
    from pipelines.tune import steps

    rows, manifest = load(snapshot, settings)
    spec = manifest.spec
    if trials is not None:
        spec = spec.model_copy(update={"tuning": spec.tuning.model_copy(update={"trials": trials})})
    seed = settings.random_seed
    key = tracking.run_key(snapshot, spec.tuning.trials, seed)
    name = registered_name(spec, load_profile(snapshot.source), settings.source)
    run_id = tracking.find_or_create_run(
        settings, name, key, {"headrace.snapshot_sha256": snapshot.sha256, "headrace.source": manifest.source}
    )

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=f"{name}-{key}",
        storage=open_storage(settings.tuning),
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=40),
    )
    parts = {part: observations(rows, part, manifest.entity, manifest.inputs) for part in ("train", "valid")}
    builder = builder_of(spec)
    champion = _champion_params(settings, name, builder.default_params())
    steps.tune(
        study, builder, parts["train"], parts["valid"], manifest.inputs, spec, seed, champion, progress
    )
    _log_trials(study, builder.task(spec).objective, settings, name, run_id)
    return StudyRef(
        model=spec.name,
        study=study.study_name,
        trials=steps.finished(study),
        best_value=study.best_value,
        best_params=study.best_params,
        run_id=run_id,
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
