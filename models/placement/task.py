"""How placement is judged: by how well lifetimes are told, and by what a replay of the choices costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Statistic
from models.manifest import InputField
from models.placement.lifetimes import Lifetimes
from models.placement.replay import (
    BestFit,
    ByLifetime,
    Outcome,
    Policy,
    RandomHost,
    Requests,
    replay,
    violations,
)
from models.placement.scenario import cluster_for, with_constraints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIFETIME, LOWER, UPPER = "lifetime_hours", "lifetime_lower_hours", "lifetime_upper_hours"
SHARES = (0.1, 0.5, 0.9)
KNOTS = np.array(
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 36.0, 48.0, 96.0, 192.0]
)
# A common host of two sockets; five quarters of the largest machine's size where that is more.
HOST_CORES, HOST_MEMORY_GIB = 40.0, 256.0
UTILISATION = 0.7
WARM_UP = 0.2  # share of the span in which machines come, but nothing is counted
_MINUTES = 3 / 60  # of an hour; below it lifetimes count as alike


@dataclass(frozen=True)
class PlacementTask:
    """Judges the lifetimes of rows, and replays the stream that the rows are on a drawn cluster."""

    cores: str
    memory_gib: str
    seed: int = 7

    @property
    def objective(self) -> str:
        return "negative log2 error of lifetimes"

    @property
    def answer(self) -> str:
        return LIFETIME

    def statistic(self, part: Observations, answers: Answers) -> Statistic:
        """Minus the mean absolute log2 ratio of told and true lifetime: 1 is a factor of two.

        Of a machine that still ran when the watch ended, only a told lifetime below the watched one is wrong.
        """
        error = part.weight * log2_error(part, answers[LIFETIME])
        return lambda weight: -(error @ weight) / (part.weight @ weight)

    def losses(self, part: Observations, answers: Answers) -> Array:
        return log2_error(part, answers[LIFETIME])

    def right(self, part: Observations, answers: Answers) -> None:
        return None  # a placement is right or wrong only beside the others of its time

    def figures(self, part: Observations, answers: Answers) -> dict[str, Callable[[Array], float]]:
        """Error and coverage of lifetimes; a replay takes too long to be varied."""
        error = log2_error(part, answers[LIFETIME])
        figures: dict[str, Callable[[Array], float]] = {
            "log2_error": lambda weight: float(np.average(error, weights=part.weight * weight))
        }
        if LOWER in answers:
            hours, seen = part.targets["hours"], part.targets["observed"] > 0
            within = ((hours >= answers[LOWER]) & (hours <= answers[UPPER]))[seen]
            figures["coverage"] = lambda weight: float(
                np.average(within, weights=(part.weight * weight)[seen])
            )
        return figures

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """Error and coverage of lifetimes; hosts, stranded capacity and violations of a replay.

        ``host_hours_to_best_fit`` and ``stranded_to_best_fit`` are ours over best fit without
        predictions, ``…_to_random`` over a random allowed host. ``violations`` counts placements
        that an audit of the log finds to break a constraint.
        """
        error = log2_error(part, answers[LIFETIME])
        figures = {"log2_error": float(np.average(error, weights=part.weight))}
        if LOWER in answers:
            hours, seen = part.targets["hours"], part.targets["observed"] > 0
            early, late = hours < answers[LOWER], hours > answers[UPPER]
            # Whoever still runs within the interval may yet leave it: only those with an end count.
            figures["coverage"] = float(np.average(~(early | late)[seen], weights=part.weight[seen]))
            figures |= self._replayed(part, answers)
        return figures

    def _replayed(self, part: Observations, answers: Answers) -> dict[str, float]:
        requests, lifetimes = self.stream(part, answers)
        first, last = float(requests.created[0]), float(requests.created[-1])
        start = first + WARM_UP * (last - first)
        host = [
            max(size, 1.25 * float(np.max(amount)))
            for size, amount in ((HOST_CORES, requests.cores), (HOST_MEMORY_GIB, requests.memory_gib))
        ]
        cluster = cluster_for(requests, start, last, host[0], host[1], UTILISATION, self.seed)

        def run(policy: Policy) -> Outcome:
            return replay(requests, cluster, policy, start, last)

        ours, fit, random = run(ByLifetime(lifetimes)), run(BestFit()), run(RandomHost(self.seed))
        return {
            "placed": float(ours.placed),
            "refused": float(ours.refused),
            "violations": float(sum(violations(requests, cluster, ours.host, start).values())),
            "host_hours": ours.host_hours,
            "host_hours_to_best_fit": ours.host_hours / fit.host_hours,
            "host_hours_to_random": ours.host_hours / random.host_hours,
            "stranded_to_best_fit": ours.stranded_core_hours / max(fit.stranded_core_hours, 1e-9),
            "stranded_to_random": ours.stranded_core_hours / max(random.stranded_core_hours, 1e-9),
        }

    def stream(self, part: Observations, answers: Answers) -> tuple[Requests, Lifetimes]:
        """The rows as requests in order of time, with what the answers say of their lifetimes.

        A machine that still ran when the watch ended runs on. Machines of one moment and size are
        one batch. A row without a size asks for one core and 1 GiB.
        """
        order = np.lexsort((part.entity.astype(str), part.time))
        created = (part.time[order] - part.time.min()) / np.timedelta64(3600, "s")
        hours = np.where(part.targets["observed"] > 0, part.targets["hours"], np.inf)[order]
        cores = np.nan_to_num(part.columns[self.cores][order], nan=1.0)
        memory = np.nan_to_num(part.columns[self.memory_gib][order], nan=1.0)
        plain = Requests.unconstrained(created, hours, cores, memory)
        batch = np.unique(np.stack([created, cores, memory], axis=1), axis=0, return_inverse=True)[1]
        told = np.stack([answers[name] for name in (LOWER, LIFETIME, UPPER)], axis=1)[order]
        requests = with_constraints(plain, batch.reshape(-1).astype(np.int64), self.seed)
        return requests, Lifetimes.of_quantiles(told, SHARES, KNOTS)

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        """The median lifetime of the training part, and that of machines of the same size."""
        hours, observed = train.targets["hours"], train.targets["observed"] > 0
        overall = median_lifetime(hours, observed)
        sizes = np.stack([part.columns[self.cores], part.columns[self.memory_gib]], axis=1)
        known = np.stack([train.columns[self.cores], train.columns[self.memory_gib]], axis=1)
        by_size = np.full(len(part), overall)
        for size in np.unique(sizes[~np.isnan(sizes).any(axis=1)], axis=0):
            alike = (known == size).all(axis=1)
            if alike.sum() >= 20:
                by_size[(sizes == size).all(axis=1)] = median_lifetime(hours[alike], observed[alike])
        return {
            "median of the training part": {LIFETIME: np.full(len(part), overall)},
            "median of the same size": {LIFETIME: by_size},
        }

    def positives(self, part: Observations) -> None:
        return None

    def plots(self, part: Observations, answers: Answers) -> dict[str, Figure]:
        from models.plots import errors

        seen = part.targets["observed"] > 0
        return {
            "log2_lifetime_errors": errors(
                np.log2(part.targets["hours"][seen] + _MINUTES), np.log2(answers[LIFETIME][seen] + _MINUTES)
            )
        }


def log2_error(part: Observations, told: Array) -> Array:
    """Absolute log2 ratio of told and true lifetime, shape (n,); 0 where the watch ended too early to tell."""
    hours = part.targets["hours"]
    ratio = np.log2((told + _MINUTES) / (hours + _MINUTES))
    return np.asarray(np.where(part.targets["observed"] > 0, np.abs(ratio), np.maximum(-ratio, 0.0)))


def median_lifetime(hours: Array, observed: NDArray[np.bool_]) -> float:
    """Median by the estimator of Kaplan and Meier (1958); the longest watch where half never went."""
    order = np.argsort(hours, kind="stable")
    at_risk = len(hours) - np.arange(len(hours))
    survival = np.cumprod(1.0 - observed[order] / at_risk)
    below = np.flatnonzero(survival <= 0.5)
    return float(hours[order][below[0]] if len(below) else hours.max())
