"""Is there enough evidence, and do the metrics reach what the spec demands of them?"""

from __future__ import annotations

import math

import numpy as np

from models.base import Array, Observations, Task
from models.specs import Bound, Gate
from pipelines.evaluate import paired
from pipelines.evaluate.checks import Check, CheckKind
from pipelines.evaluate.comparison import LEAST_TIMES, Answered, Plan, clusters_of, units_of
from pipelines.evaluate.paired import OverClusters, Weights
from pipelines.references import Outcome

RESAMPLES = 300

_QUESTIONS = {
    CheckKind.THRESHOLD: "Is the model good enough to be used at all, whatever it is compared with?",
    CheckKind.CALIBRATION: "When it says 20 %, does it happen in 20 of 100 cases? Callers reckon with the probability.",
    CheckKind.COVERAGE: "Do its intervals hold as many truths as they promise?",
}


def evidence_checks(task: Task, holdout: Observations, gate: Gate, plan: Plan) -> tuple[Check, ...]:
    """Counts of rows, of independent units, and of positives where there are such."""
    clusters = len(np.unique(clusters_of(holdout, plan))) if len(holdout) else 0
    counted = [
        ("rows in the holdout", len(holdout), gate.min_rows),
        ("independent clusters in the holdout", clusters, gate.min_clusters),
    ]
    if plan.over != "entity":
        name = "days in the holdout" if plan.over == "day" else "moments in the holdout"
        counted.append((name, units_of(holdout, plan), gate.min_times or LEAST_TIMES[plan.over]))
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
            bound=wanted,
            question="Is there enough to judge by? With less, luck decides.",
            remedy="Use a longer window, or wait until more has happened",
        )
        for name, found, wanted in counted
    )


def bound_checks(
    task: Task, holdout: Observations, candidate: Answered, gate: Gate, plan: Plan
) -> tuple[Check, ...]:
    """Each bounded metric, with an interval where it can be resampled."""
    found = task.metrics(holdout, candidate.answers)
    varied = task.figures(holdout, candidate.answers)
    weights, units = resampling(holdout, plan)
    checks = []
    for name, bound in gate.bounds.items():
        figure = found.get(name, float("nan"))
        spread = None
        if name in varied and not math.isnan(figure):
            drawn = np.array([varied[name](weights(number)) for number in range(RESAMPLES)])
            interval = OverClusters(figure, drawn, units).interval()
            spread = None if math.isnan(interval[0]) else interval
        checks.append(_bound_check(name, figure, spread, bound, len(holdout), units))
    return tuple(checks)


def resampling(part: Observations, plan: Plan) -> tuple[Weights, int]:
    """Row weights of resampled clusters, or of blocks of moments; and the number of units drawn."""
    if plan.over == "entity":
        cluster = clusters_of(part, plan)
        return paired.cluster_weights(cluster, RESAMPLES, plan.seed), int(cluster.max()) + 1
    moment = paired.moments(part, plan.every)
    count = int(moment.max()) + 1
    horizon = plan.memory(part) if plan.over == "time" else 1.0
    block = int(np.clip(np.ceil(max(horizon, count ** (1 / 3))), 1, max(count // 4, 1)))
    drawn = paired.block_weights(count, block, RESAMPLES, plan.seed)

    def weights(number: int | slice) -> Array:
        multiplicity: Array = drawn[:, number][moment]
        return multiplicity

    return weights, max(count // block, 2)


def kind_of(metric: str) -> CheckKind:
    """Calibration and coverage by their names, as tasks name them; the rest are thresholds."""
    if "calibration" in metric:
        return CheckKind.CALIBRATION
    return CheckKind.COVERAGE if "coverage" in metric else CheckKind.THRESHOLD


def _bound_check(
    name: str, figure: float, interval: tuple[float, float] | None, bound: Bound, rows: int, units: int
) -> Check:
    # NaN compares false both ways: no figure is never a pass. A metric that the task does not have
    # here (no labels came) is a figure that is missing.
    missing = math.isnan(figure)
    least = bound.minimum is not None
    line = float(bound.minimum if bound.minimum is not None else bound.maximum or 0.0)
    passed = figure >= line if least else figure <= line
    within = interval is not None and (interval[0] >= line if least else interval[1] <= line)
    if passed:
        outcome = Outcome.PASS if within or not bound.confident else Outcome.INSUFFICIENT
    else:
        outcome = Outcome.INSUFFICIENT if missing else Outcome.FAIL
    kind = kind_of(name)
    wanted = f"{'at least' if least else 'at most'} {line:g}"
    return Check(
        name=name.replace("_", " "),
        kind=kind,
        outcome=outcome,
        figure=None if missing else figure,
        wanted=f"{wanted} (the whole interval)" if bound.confident else wanted,
        n=rows,
        interval=interval,
        bound=line,
        better="higher" if least else "lower",
        units=units if interval else None,
        method="bootstrap of clusters or blocks of time" if interval else "",
        question=_QUESTIONS[kind],
        detail="the task has no such figure here: were there labels?" if missing else "",
    )
