"""The gate: evidence on a holdout that neither training nor tuning has seen, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Task
from models.specs import Bound, Gate
from pipelines.evaluate.checks import Check, CheckKind, Verdict
from pipelines.references import Outcome

RESAMPLES = 1000


@dataclass(frozen=True)
class Answered:
    """Outputs of one model on the holdout's rows, each of shape (n,)."""

    name: str
    answers: Answers


def evaluate(
    task: Task,
    holdout: Observations,
    candidate: Answered,
    baselines: tuple[Answered, ...],
    champion: Answered | None,
    gate: Gate,
    seed: int,
) -> Verdict:
    """Judge a candidate.

    Args:
        task: How answers are judged.
        holdout: Rows after all that training and tuning saw.
        baselines: Naive answers on the same rows; the candidate must beat each.
        champion: The version now serving, on the same rows; None only where none serves.
        gate: What is wanted.
        seed: Of the bootstrap.
    """
    cluster = clusters(holdout, gate.block)
    enough = _evidence(task, holdout, cluster, gate)
    if any(check.outcome is not Outcome.PASS for check in enough):
        return Verdict(checks=enough)
    found = task.metrics(holdout, candidate.answers)
    checks = [*enough, *(_bound(name, found, bound, holdout) for name, bound in gate.bounds.items())]
    weights = cluster_weights(cluster, RESAMPLES, seed)
    ours = task.statistic(holdout, candidate.answers)
    for baseline in baselines:
        gain = paired_gain(ours, task.statistic(holdout, baseline.answers), weights, len(holdout))
        checks.append(
            _check(CheckKind.BASELINE, f"gain in {task.objective} over {baseline.name}", gain, 0.0, holdout)
        )
    if champion is not None:
        gain = paired_gain(ours, task.statistic(holdout, champion.answers), weights, len(holdout))
        name = f"gain in {task.objective} over champion {champion.name}"
        checks.append(_check(CheckKind.CHAMPION, name, gain, -gate.champion_margin, holdout))
    return Verdict(checks=tuple(checks))


def clusters(part: Observations, block: timedelta | None) -> NDArray[np.int64]:
    """Number of the cluster that each row belongs to, shape (n,): its entity, or that within a block of time.

    Rows of one machine are not independent of each other, nor are rows close in time.
    """
    names = part.entity.astype(str)
    if block is not None:
        since = part.time.astype("datetime64[us]").astype(np.int64) // (block // timedelta(microseconds=1))
        names = np.char.add(np.char.add(names, "@"), since.astype(str))
    index: NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return index


def cluster_weights(cluster: NDArray[np.int64], resamples: int, seed: int) -> Callable[[int], Array]:
    """Weights of bootstrap resamples of whole clusters (Field and Welsh, 2007).

    Returns:
        A function from the number of the resample, ``0 <= number < resamples``, to the
        multiplicity of each row, shape (n,).
    """
    count = int(cluster.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return lambda number: drawn[number][cluster].astype(np.float64)


def paired_gain(
    ours: Callable[[Array], float],
    theirs: Callable[[Array], float],
    weights: Callable[[int], Array],
    rows: int,
) -> tuple[float, float, float]:
    """Difference of a statistic on the same rows, with a 95 % percentile interval.

    Resamples in which the statistic is not defined are left out.
    """
    gains = np.array(
        [ours(weight) - theirs(weight) for weight in (weights(number) for number in range(RESAMPLES))]
    )
    low, high = np.nanquantile(gains, [0.025, 0.975])
    ones = np.ones(rows)
    return ours(ones) - theirs(ones), float(low), float(high)


def _evidence(task: Task, holdout: Observations, cluster: NDArray[np.int64], gate: Gate) -> tuple[Check, ...]:
    counted = [
        ("rows in the holdout", len(holdout), gate.min_rows),
        ("independent clusters in the holdout", len(np.unique(cluster)), gate.min_clusters),
    ]
    positives = task.positives(holdout)
    if positives is not None:
        counted.append(("positives in the holdout", positives, gate.min_positives))
    return tuple(
        Check(
            name=name,
            kind=CheckKind.EVIDENCE,
            outcome=Outcome.PASS if found >= wanted else Outcome.INSUFFICIENT,
            figure=found,
            wanted=f"at least {wanted}",
            n=len(holdout),
        )
        for name, found, wanted in counted
    )


def _bound(name: str, found: dict[str, float], bound: Bound, holdout: Observations) -> Check:
    # NaN compares false both ways: no figure is never a pass. A metric that the task does not have
    # here (no labels came) is a figure that is missing.
    figure = found.get(name, float("nan"))
    if bound.minimum is not None:
        passed, wanted = figure >= bound.minimum, f"at least {bound.minimum:g}"
    else:
        passed, wanted = figure <= float(bound.maximum or 0.0), f"at most {bound.maximum:g}"
    missing = bool(np.isnan(figure))
    return Check(
        name=name.replace("_", " "),
        kind=CheckKind.THRESHOLD,
        outcome=Outcome.PASS if passed else Outcome.INSUFFICIENT if missing else Outcome.FAIL,
        figure=None if missing else figure,
        wanted=wanted,
        n=len(holdout),
    )


def _check(
    kind: CheckKind, name: str, gain: tuple[float, float, float], above: float, holdout: Observations
) -> Check:
    figure, low, high = gain
    return Check(
        name=name,
        kind=kind,
        outcome=Outcome.PASS if low > above else Outcome.FAIL,
        figure=figure,
        wanted=f"lower bound above {above:g}",
        n=len(holdout),
        interval=(low, high),
    )
