"""The objective and the study: which parameters do best on the valid part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from models.base import Builder, Observations, Params
from models.folds import folds, together
from models.manifest import InputField
from models.specs import ModelSpec
from pipelines.errors import TrainingError

if TYPE_CHECKING:
    import optuna

Progress = Callable[[int, int, float | None], None]


def tune(
    study: optuna.Study,
    builder: Builder,
    train: Observations,
    valid: Observations,
    inputs: tuple[InputField, ...],
    spec: ModelSpec,
    seed: int,
    champion: Params | None = None,
    progress: Progress | None = None,
) -> optuna.Study:
    """Bring the study to ``spec.tuning.trials`` finished trials, or to its time limit.

    A study that was cut short goes on where it stopped. Trials that a killed process left running
    are closed as failed first. The builder's own good parameters, and those of the champion where
    there is one, are tried before all others.

    Raises:
        TrainingError: no trial was completed.
    """
    tuning, task = spec.tuning, builder.task(spec)
    parts = judged_parts(train, valid, spec, seed)
    close_abandoned(study)
    for known in (builder.default_params(), champion):
        if known:
            study.enqueue_trial(known, skip_if_exists=True)

    def objective(trial: optuna.Trial) -> float:
        params = builder.suggest(trial)
        reached = []
        for learn, judge in parts:
            # A trial may be pruned within its one fit; of several, it tells of none by itself.
            watched = trial if len(parts) == 1 else None
            fitted = builder.fit(learn, judge, inputs, params, seed, spec, watched)
            reached.append(task.statistic(judge, fitted.answer(judge))(np.ones(len(judge))))
        return float(np.mean(reached))

    def report(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        done = finished(study)
        if done >= tuning.trials:
            study.stop()
        if progress:
            progress(done, tuning.trials, best_value(study))

    remaining = tuning.trials - finished(study)
    if remaining > 0:
        study.optimize(
            objective, n_trials=remaining, timeout=tuning.timeout.total_seconds(), callbacks=[report]
        )
    if best_value(study) is None:
        raise TrainingError(
            f"study {study.study_name}: none of {len(study.trials)} trials was completed within {tuning.timeout}: "
            "give it more time, or a smaller snapshot"
        )
    return study


def judged_parts(
    train: Observations, valid: Observations, spec: ModelSpec, seed: int
) -> list[tuple[Observations, Observations]]:
    """What each trial learns from and is judged on: train and valid, or folds of both together.

    The folds are cut as the spec's backtest is: by time or by entity.
    """
    if spec.tuning.folds == 1:
        return [(train, valid)]
    horizon = np.timedelta64(spec.target.horizon)
    return list(folds(together(train, valid), spec.tuning.folds, spec.backtest.by, horizon, seed))


def close_abandoned(study: optuna.Study) -> int:
    """Mark trials that are still running as failed; one process owns a study, so they are of a killed one."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        study.tell(trial.number, state=TrialState.FAIL)
    return len(running)


def finished(study: optuna.Study) -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def best_value(study: optuna.Study) -> float | None:
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max((float(trial.value) for trial in complete if trial.value is not None), default=None)
