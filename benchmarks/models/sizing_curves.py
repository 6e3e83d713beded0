"""Sizing policies over all of their settings: price against short weeks, ours beside rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.table import Row
from models.base import Answers, Array, Observations
from models.rightsizing.task import HEADROOM, SizingTask
from pipelines.evaluate.steps import cluster_weights, clusters, paired_gain

SEED = 7
HEADROOMS = np.array(
    [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0]
)
#: Times the list's cost of a short week.
SHORT_COSTS = np.geomspace(0.02, 50.0, 40)
BOUNDS = np.array([0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7])
EQUAL_SHORT = 0.05


@dataclass(frozen=True)
class Tested:
    """Rows of all folds with their answers, and the risks of all sizes."""

    rows: Observations
    answers: Answers
    risk: Array
    seconds: float


@dataclass(frozen=True)
class Curve:
    """A policy over its settings, cluster for cluster: sums of prices and of short weeks.

    Attributes:
        price: Shape (settings, clusters).
        short: Shape (settings, clusters).
    """

    price: Array
    short: Array
    count: Array

    def means(self, drawn: Array) -> tuple[Array, Array]:
        """Price and share of short weeks by setting, with clusters drawn so many times."""
        rows = float(np.sum(drawn * self.count))
        return self.price @ drawn / rows, self.short @ drawn / rows


def against_best_rule(tested: Tested, task: SizingTask, common: dict[str, Any]) -> Row:
    """Regret beside that of the rule and headroom which did best on these very rows."""
    rows = tested.rows
    reached = {
        f"{name}, {headroom:g}": task.named(chosen)
        for name, settings in _rules(rows, task).items()
        for headroom, chosen in zip(HEADROOMS, settings, strict=True)
    }
    means = {name: float(np.mean(task.regret(rows, answers))) for name, answers in reached.items()}
    best = min(means, key=lambda name: means[name])
    weights = cluster_weights(clusters(rows, None), 1000, SEED)
    gain, low, high = paired_gain(
        task.statistic(rows, tested.answers), task.statistic(rows, reached[best]), weights, len(rows)
    )
    return Row(
        **common,
        metric="regret, USD per VM and week, beside the best rule of its kind",
        baseline=means[best],
        ours=float(np.mean(task.regret(rows, tested.answers))),
        note=f"{best}: chosen in hindsight of {len(means)}. Less by {gain:.2f} (95 %: {low:.2f} to {high:.2f})",
    )


def on_curves(tested: Tested, task: SizingTask, common: dict[str, Any]) -> list[Row]:
    """Short weeks at the rule's price, and prices at equal shares of short weeks, with intervals."""
    curves = curves_of(tested, task)
    weighed, rule = curves["ours, price against risk"], curves["p95 times headroom"]
    place = int(np.flatnonzero(HEADROOMS == HEADROOM)[0])

    def figures(drawn: Array) -> Array:
        ours, bounded, theirs, peaks = (curve.means(drawn) for curve in curves.values())
        price, short = theirs[0][place], theirs[1][place]
        return np.array(
            [
                short,
                _at(ours, price=price),
                _at(bounded, price=price),
                _at(theirs, short=EQUAL_SHORT),
                _at(ours, short=EQUAL_SHORT),
                _at(peaks, short=EQUAL_SHORT),
            ]
        )

    count = rule.count.size
    point = figures(np.ones(count))
    random = np.random.default_rng(SEED)
    drawn = [figures(random.multinomial(count, np.full(count, 1 / count)).astype(float)) for _ in range(1000)]
    ratios = np.array([[each[1] / each[0], each[4] / each[3], each[4] / each[5]] for each in drawn])
    (a_low, a_high), (b_low, b_high), (c_low, c_high) = np.quantile(ratios, [0.025, 0.975], axis=0).T
    assert weighed.count.size == count
    return [
        Row(
            **common,
            metric="share of short weeks at the rule's price",
            baseline=float(point[0]),
            ours=float(point[1]),
            target="below the rule, with its interval",
            reached=bool(a_high < 1),
            note=f"ratio 95 %: {a_low:.2f} to {a_high:.2f}; with one bound on the risk for all machines {point[2]:.3f}",
        ),
        Row(
            **common,
            metric=f"price at {EQUAL_SHORT:.0%} short weeks, USD per VM and week",
            baseline=float(point[3]),
            ours=float(point[4]),
            target="below the rule, with its interval",
            reached=bool(b_high < 1),
            note=f"rule: p95 with the headroom that it takes; ratio 95 %: {b_low:.2f} to {b_high:.2f}. The week's "
            f"maximum with the headroom that it takes: {point[5]:.2f}, ratio to it 95 %: {c_low:.2f} to {c_high:.2f}",
        ),
    ]


def curves_of(tested: Tested, task: SizingTask) -> dict[str, Curve]:
    """Ours over what a short week costs, ours over one bound for all, and rules over their headroom."""
    rows, prices = tested.rows, task.prices
    weighed = [
        prices.model_copy(
            update={
                "usd_per_short_week": times * prices.usd_per_short_week,
                "prices_per_short_week": times * prices.prices_per_short_week,
            }
        )
        .expected_cost(tested.risk)
        .argmin(axis=1)
        .astype(np.intp)
        for times in SHORT_COSTS
    ]
    bounded = [(tested.risk <= bound).argmax(axis=1).astype(np.intp) for bound in BOUNDS]
    curves = {
        "ours, price against risk": weighed,
        "ours, one bound for all": bounded,
        **_rules(rows, task),
    }
    return {name: _curve(settings, rows, task) for name, settings in curves.items()}


def _rules(rows: Observations, task: SizingTask) -> dict[str, list[NDArray[np.intp]]]:
    """Choices of the rules by what they start from, one for each headroom."""
    found = task.resources(rows)
    present = [resource.capacity.of_rows(rows.columns) for resource in found]
    used = {
        "p95 times headroom": [resource.usual.of_rows(rows.columns) for resource in found],
        "maximum times headroom": [resource.peak.of_rows(rows.columns) for resource in found],
    }
    return {
        name: [task.rule(figures, present, float(headroom)) for headroom in HEADROOMS]
        for name, figures in used.items()
    }


def _curve(settings: list[NDArray[np.intp]], rows: Observations, task: SizingTask) -> Curve:
    cores, gib = task.demands(rows)
    cluster = clusters(rows, None)
    price = np.stack([task.prices.usd_per_week[chosen] for chosen in settings])
    short = np.stack([task.prices.short(chosen, cores, gib) for chosen in settings]).astype(np.float64)
    summed = [np.stack([np.bincount(cluster, values) for values in figures]) for figures in (price, short)]
    return Curve(summed[0], summed[1], np.bincount(cluster).astype(np.float64))


def _at(curve: tuple[Array, Array], price: float | None = None, short: float | None = None) -> float:
    """The share of short weeks at a price, or the price at a share; linear between settings."""
    prices, shares = curve
    if price is not None:
        order = np.argsort(prices)
        return float(np.interp(price, prices[order], shares[order]))
    order = np.argsort(shares)
    return float(np.interp(short or 0.0, shares[order], prices[order]))
