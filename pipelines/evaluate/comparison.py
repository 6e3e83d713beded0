"""Candidate against another model on the same rows: the test that fits the kind of model, and its checks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Observations, Task
from models.specs import Gate, ModelSpec
from pipelines.evaluate import paired
from pipelines.evaluate.checks import Check, CheckKind, by_interval
from pipelines.evaluate.paired import OverClusters, OverTime, Paired
from pipelines.references import Outcome

DAY = timedelta(days=1)
#: Moments that hang together though no horizon makes them. Of moments: so many that a first-order
#: autoregression of 0.9 raises at most 4 false alarms in 100 from 60 moments on, 4.3 with 50, by the
#: exact size of the test (benchmarks/gates/exact.py); of days, which are wholes, much less is assumed.
LEAST_MEMORY: dict[str, float] = {"time": 25.0, "day": 2.25}
LEAST_TIMES: dict[str, int] = {"time": 50, "day": 8}


@dataclass(frozen=True)
class Answered:
    """Outputs of one model on the holdout's rows, each of shape (n,)."""

    name: str
    answers: Answers


@dataclass(frozen=True)
class Plan:
    """What varies independently enough to compare by.

    Attributes:
        over: Moments of observation, days, or clusters of entities.
        block: Length of a cluster in time, see :class:`models.specs.Gate`.
        horizon: Of the target: gains of moments less than this apart hang together.
        seed: Of the bootstraps.
        resamples: Of the bootstraps.
    """

    over: Literal["time", "day", "entity"]
    block: timedelta | None = None
    horizon: timedelta = timedelta(0)
    seed: int = 0
    resamples: int = paired.RESAMPLES

    @property
    def every(self) -> timedelta | None:
        """Length of a moment; None: each time that rows have."""
        return DAY if self.over == "day" else None

    def memory(self, part: Observations) -> float:
        """Moments over which gains hang together, by the horizon or by experience."""
        spacing = DAY
        if self.over == "time":
            steps = np.diff(np.unique(part.time.astype("datetime64[us]")))
            spacing = timedelta(microseconds=int(np.median(steps).astype(np.int64))) if len(steps) else DAY
        return max(LEAST_MEMORY[self.over], self.horizon / spacing)


def plan_of(spec: ModelSpec, seed: int) -> Plan:
    """The plan that the spec's gate asks for, or else the one that fits its kind of task."""
    usual: dict[str, Literal["time", "day", "entity"]] = {"forecast": "time", "decision": "day"}
    over = spec.gate.compared_over or usual.get(spec.task.kind, "entity")
    return Plan(over=over, block=spec.gate.block, horizon=spec.target.horizon, seed=seed)


def compare(
    task: Task, part: Observations, ours: Answers, theirs: Answers, plan: Plan
) -> tuple[Paired, tuple[float, float]]:
    """The gain in the task's objective, and the objective of both.

    Forecasts and decisions: mean differences of row losses, moment by moment (a panel's rows of one
    moment are averaged first). The rest: a paired bootstrap of clusters.
    """
    our_losses, their_losses = task.losses(part, ours), task.losses(part, theirs)
    if plan.over == "entity" or our_losses is None or their_losses is None:
        return _over_clusters(task, part, ours, theirs, plan)
    moment = paired.moments(part, plan.every)
    gains = paired.per_moment(their_losses - our_losses, part.weight, moment)
    unit = "days" if plan.over == "day" else "moments"
    levels = (
        -float(np.average(our_losses, weights=part.weight)),
        -float(np.average(their_losses, weights=part.weight)),
    )
    return OverTime(gains, plan.memory(part), unit, plan.seed), levels


def _over_clusters(
    task: Task, part: Observations, ours: Answers, theirs: Answers, plan: Plan
) -> tuple[OverClusters, tuple[float, float]]:
    cluster = clusters_of(part, plan)
    our, their = task.statistic(part, ours), task.statistic(part, theirs)
    drawn = paired.resampled_clusters((our, their), cluster, plan.resamples, plan.seed)
    ones = np.ones(len(part))
    levels = (float(our(ones)), float(their(ones)))
    return OverClusters(levels[0] - levels[1], drawn[0] - drawn[1], int(cluster.max()) + 1), levels


def clusters_of(part: Observations, plan: Plan) -> NDArray[np.int64]:
    return paired.clusters(part, plan.block)


def units_of(part: Observations, plan: Plan) -> int:
    """Independent units of a part: moments, days or clusters."""
    if len(part) == 0:
        return 0
    index = clusters_of(part, plan) if plan.over == "entity" else paired.moments(part, plan.every)
    return int(index.max()) + 1


def baseline_check(
    task: Task, holdout: Observations, candidate: Answered, baseline: Answered, plan: Plan
) -> Check:
    gain, levels = compare(task, holdout, candidate.answers, baseline.answers, plan)
    return _gain_check(
        CheckKind.BASELINE,
        f"gain in {task.objective} over {baseline.name}",
        gain,
        levels,
        0.0,
        len(holdout),
        question=f"Is the model worth having at all? It must answer better than “{baseline.name}”, which needs no model.",
        remedy="A model that is no better than this brings nothing: look at its features and its training window",
    )


def champion_checks(
    task: Task, holdout: Observations, candidate: Answered, champion: Answered, gate: Gate, plan: Plan
) -> tuple[Check, ...]:
    """The gain over the model now serving, and its decisions beside the champion's."""
    gain, levels = compare(task, holdout, candidate.answers, champion.answers, plan)
    superior = gate.champion_rule == "superior"
    aim = (
        "It replaces what serves only if it is better beyond chance."
        if superior
        else f"It may replace what serves without being better, for a stated benefit: {gate.benefit}."
    )
    first = _gain_check(
        CheckKind.CHAMPION,
        f"gain in {task.objective} over champion {champion.name}",
        gain,
        levels,
        0.0 if superior else -gate.champion_margin,
        len(holdout),
        margin=None if superior else gate.champion_margin,
        question=f"Is the candidate {'better' if superior else 'no worse'} than what serves now, on the same rows? {aim}",
        remedy="What serves now goes on serving; that a candidate is merely as good is the usual case",
    )
    second = decision_check(task, holdout, candidate, champion, gate, plan)
    return (first,) if second is None else (first, second)


def older_check(
    task: Task,
    older: Observations,
    candidate: Answered,
    champion: Answered,
    learned: int,
    gate: Gate,
    plan: Plan,
) -> Check:
    """The champion's own holdout: what it once proved itself on must not be lost.

    Args:
        learned: Rows of it that the candidate was trained on.
    """
    gain, levels = compare(task, older, candidate.answers, champion.answers, plan)
    check = _gain_check(
        CheckKind.OLDER,
        f"gain in {task.objective} on the champion's own holdout",
        gain,
        levels,
        -gate.champion_margin,
        len(older),
        margin=gate.champion_margin,
        question="Has the candidate forgotten what the champion proved itself on? There it must not be worse by more "
        "than the margin.",
        remedy="The newest holdout alone may be a lucky stretch: train on a longer window",
    )
    seen = f"the candidate was trained on {learned} of these {len(older)} rows, so that a pass says only that nothing was lost"
    return check.model_copy(update={"detail": f"{check.detail}; {seen}" if learned else check.detail})


def decision_check(
    task: Task, part: Observations, candidate: Answered, champion: Answered, gate: Gate, plan: Plan
) -> Check | None:
    """McNemar's test at the thresholds that both serve with, by clusters (Obuchowski, 1998).

    None where the task decides nothing row by row, or one of the two does not.
    """
    ours, theirs = task.right(part, candidate.answers), task.right(part, champion.answers)
    if ours is None or theirs is None:
        return None
    known = ~(np.isnan(ours) | np.isnan(theirs))
    difference = (ours - theirs)[known]
    cluster = np.unique(clusters_of(part, plan)[known], return_inverse=True)[1]
    figure, error, count = paired.clustered_mean(difference, part.weight[known], cluster)
    low, high = student_interval(figure, error, count)
    alone, other = int(np.sum(difference > 0)), int(np.sum(difference < 0))
    margin = gate.decision_margin
    return Check(
        name=f"share of right decisions beside champion {champion.name}",
        kind=CheckKind.CHAMPION,
        outcome=by_interval(figure, (low, high), -margin),
        figure=figure,
        wanted=f"lower bound above {-margin:g}",
        n=int(np.sum(known)),
        interval=(low, high),
        bound=-margin,
        margin=margin,
        units=count,
        p_value=student_p(figure, error, count, -margin),
        method=f"McNemar's test by {count} clusters (Obuchowski, 1998), Student's t",
        question="At the thresholds that both serve with: does the candidate decide right about as often as what serves "
        "now? A better ranking is no use where the alarms got worse.",
        detail=f"the candidate alone is right in {alone} rows, the champion alone in {other}",
        remedy="Look at the alarms' recall and false-positive rate of both: the threshold is learned on the valid part",
    )


def student_interval(figure: float, error: float, count: int, level: float = 0.95) -> tuple[float, float]:
    from scipy import stats

    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * error if count > 1 else float("inf")
    return figure - reach, figure + reach


def student_p(figure: float, error: float, count: int, bound: float) -> float:
    """One-sided p-value of the hypothesis that the truth is the bound or less."""
    from scipy import stats

    if count < 2:
        return 1.0
    if error == 0:
        return 0.0 if figure > bound else 1.0
    return float(stats.t.sf((figure - bound) / error, count - 1))


def _gain_check(
    kind: CheckKind,
    name: str,
    gain: Paired,
    levels: tuple[float, float],
    bound: float,
    rows: int,
    *,
    margin: float | None = None,
    question: str,
    remedy: str,
) -> Check:
    interval = gain.interval()
    missing = bool(np.isnan(gain.figure))
    told = f"{levels[0]:.4g} beside {levels[1]:.4g}"
    if isinstance(gain, OverTime):
        low, high = gain.bootstrap_interval()
        told += f"; moving-block bootstrap (blocks of {gain.block}): {low:.4g} to {high:.4g}"
    return Check(
        name=name,
        kind=kind,
        outcome=Outcome.INSUFFICIENT if missing else by_interval(gain.figure, interval, bound),
        figure=None if missing else gain.figure,
        wanted=f"lower bound above {bound:g}",
        n=rows,
        interval=None if bool(np.isnan(interval[0])) else interval,
        bound=bound,
        margin=margin,
        units=gain.units,
        p_value=gain.p_value(bound),
        method=gain.method,
        question=question,
        detail=told,
        remedy=remedy,
    )
