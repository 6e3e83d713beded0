"""Whether a champion is still as good as it was: a window's quality beside its own holdout's, with the noise of both. Pure.

A floor says when a model is of no use any more; a model far above its floor can lose much before it is
reached. Here a metric *falls* where it lies further below that of the champion's holdout than chance
explains: by three standard deviations of the difference, each side's from resampled entities (Field and
Welsh, 2007), since rows of one entity hang together. It is an alarm, and asks for no training by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.base import Answers, Observations, Task
from models.specs import Bound
from pipelines.evaluate.paired import cluster_weights

RESAMPLES = 200
#: Standard deviations. A normal figure strays as far downwards in 1 of 740 checks.
REACH = 3.0


@dataclass(frozen=True)
class Stray:
    """A figure, and its standard deviation over resampled entities."""

    value: float
    error: float


def strays(
    task: Task, part: Observations, answers: Answers, metrics: Mapping[str, Bound], seed: int
) -> dict[str, Stray]:
    """Those of the metrics that can be resampled, of labelled rows; none with fewer than two entities."""
    _, cluster = np.unique(part.entity.astype(str), return_inverse=True)
    if not len(cluster) or cluster.max() == 0:
        return {}
    weights, varied = cluster_weights(cluster, RESAMPLES, seed), task.figures(part, answers)
    values = task.metrics(part, answers)
    found = {}
    for name in metrics:
        if name not in varied or not np.isfinite(values.get(name, float("nan"))):
            continue
        drawn = np.array([varied[name](weights(number)) for number in range(RESAMPLES)])
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn) > RESAMPLES / 2:
            found[name] = Stray(values[name], float(np.std(drawn, ddof=1)))
    return found


def fallen(
    usual: Mapping[str, Stray], now: Mapping[str, Stray], bounds: Mapping[str, Bound]
) -> tuple[str, ...]:
    """Metrics that are worse than on the champion's holdout by more than noise, with both figures."""
    found = []
    for name, bound in bounds.items():
        if name not in usual or name not in now:
            continue
        before, after = usual[name], now[name]
        loss = before.value - after.value if bound.minimum is not None else after.value - before.value
        noise = float(np.hypot(before.error, after.error))
        if noise > 0 and loss > REACH * noise:
            found.append(
                f"{name} {after.value:.3g} ± {after.error:.2g}, on its holdout {before.value:.3g} ± {before.error:.2g}"
            )
    return tuple(found)
