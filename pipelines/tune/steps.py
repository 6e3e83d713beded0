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

WORKER = "headrace.worker"
"""User attribute of a trial: the number of the worker that runs it."""


def begin(study: optuna.Study, builder: Builder, champion: Params | None = None) -> None:
    """Have good known parameters, the builder's own and the champion's, tried before all others. Again: changes nothing."""
    for known in (builder.default_params(), champion):
        if known:
            study.enqueue_trial(known, skip_if_exists=True)


def search(
    study: optuna.Study,
    builder: Builder,
    train: Observations,
    valid: Observations,
    inputs: tuple[InputField, ...],
    spec: ModelSpec,
    seed: int,
    worker: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Run trials until the study, over all its workers, has ``spec.tuning.trials``, or to its time limit.

    A study that was cut short goes on where it stopped: trials that an earlier, killed run of this
    worker left running are closed as failed first. Two workers that look in the same instant may
    each begin what both take for the last trial.

    Args:
        worker: Number of this worker among those of the study, which no two have at once; None: it is alone.
    """
    tuning, task = spec.tuning, builder.task(spec)
    parts = judged_parts(train, valid, spec, seed)
    close_abandoned(study, worker)

    def objective(trial: optuna.Trial) -> float:
        if worker is not None:
            trial.set_user_attr(WORKER, worker)
        params = builder.suggest(trial)
        reached = []
        for learn, judge in parts:
            # A trial may be pruned within its one fit; of several, it tells of none by itself.
            watched = trial if len(parts) == 1 else None
            try:
                fitted = builder.fit(learn, judge, inputs, params, seed, spec, watched)
            except ValueError as error:  # a builder's word for inputs that it cannot learn from
                raise TrainingError(f"{spec.name} cannot be trained on this source: {error}") from error
            reached.append(task.statistic(judge, fitted.answer(judge))(np.ones(len(judge))))
        return float(np.mean(reached))

    def report(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        if begun(study) >= tuning.trials:
            study.stop()
        if progress:
            progress(finished(study), tuning.trials, best_value(study))

    remaining = tuning.trials - begun(study)
    if remaining > 0:
        study.optimize(
            objective, n_trials=remaining, timeout=tuning.timeout.total_seconds(), callbacks=[report]
        )


def proved(study: optuna.Study, spec: ModelSpec) -> optuna.Study:
    """The study, where it has an answer.

    Raises:
        TrainingError: no trial was completed.
    """
    if best_value(study) is None:
        raise TrainingError(
            f"study {study.study_name}: none of {len(study.trials)} trials was completed within "
            f"{spec.tuning.timeout}: give it more time, or a smaller snapshot"
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


def close_abandoned(study: optuna.Study, worker: int | None) -> int:
    """Mark trials of this worker that are still running as failed: they are of an earlier run of it, that was killed.

    Args:
        worker: None: no other works on the study, and all are closed.
    """
    from optuna.trial import TrialState

    left = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if worker is None or trial.user_attrs.get(WORKER) == worker
    ]
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
    return len(left)


def begun(study: optuna.Study) -> int:
    """Trials that are finished, or under way at a worker that one knows."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return finished(study) + sum(WORKER in trial.user_attrs for trial in running)


def finished(study: optuna.Study) -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def best_value(study: optuna.Study) -> float | None:
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max((float(trial.value) for trial in complete if trial.value is not None), default=None)
