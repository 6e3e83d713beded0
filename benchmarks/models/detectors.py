"""What a detector's answers come to on a labelled server, and the baselines beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.servers import Server
from models.anomaly.learning import alarm_level
from models.metrics import RankedLabels
from models.tasks.detection import event_numbers, event_recall

Array = NDArray[np.float64]

SEED = 7
#: The newest share of a training part, which sets the alarm levels.
VALID_SHARE = 0.4
SMOOTHED = 5
PCA_SHARES = (0.9, 0.95)
README_QUANTILE = 0.995


@dataclass(frozen=True)
class Judged:
    """Figures of one server, without point adjustment."""

    average_precision: float
    recall: float
    event_recall: float
    false_positive_rate: float
    recall_at_budget: float
    event_recall_at_budget: float


def judged(label: NDArray[np.int8], score: Array, alarm: NDArray[np.bool_], budget: float) -> Judged:
    """Figures of one server's test part.

    Recall at the budget is of the threshold at which the budget's share of this very part's normal
    rows would be alarms: what the ranking can do, apart from where the threshold was put.
    """
    ranked, weight = RankedLabels(label, score), np.ones(len(label))
    threshold, recall, _, _ = ranked.operating_point(weight, budget)
    events = event_numbers(np.full(len(label), ""), np.arange(len(label)), label)
    return Judged(
        average_precision=ranked.average_precision(weight),
        recall=float(alarm[label == 1].mean()),
        event_recall=event_recall(events, alarm),
        false_positive_rate=float(alarm[label == 0].mean()),
        recall_at_budget=recall,
        event_recall_at_budget=event_recall(events, score >= threshold),
    )


def pca_scores(learned: Array, asked: Sequence[Array]) -> list[list[Array]]:
    """Reconstruction errors, averaged over the last samples, by variant: shares of variance, scaled or not."""
    from sklearn.decomposition import PCA

    spread = learned.std(axis=0)
    result = []
    for scale in (np.ones_like(spread), np.where(spread > 1e-6, spread, 1.0)):
        for share in PCA_SHARES:
            model = PCA(share, random_state=SEED).fit(learned / scale)
            result.append([_smoothed(_error(model, values / scale)) for values in asked])
    return result


def forest_average_precision(server: Server) -> float:
    """Of an isolation forest of 100 trees, as the READMEs have it."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=100, random_state=SEED).fit(server.train_values)
    score = -model.score_samples(server.test_values)
    return RankedLabels(server.label, score).average_precision(np.ones(len(score)))


@dataclass(frozen=True)
class Scored:
    """A baseline's scores of one server's test part, shape (n,), and its two thresholds."""

    label: NDArray[np.int8]
    score: Array
    published: float
    later: float

    def judged(self, threshold: float, budget: float) -> Judged:
        return judged(self.label, self.score, self.score > threshold, budget)


@dataclass(frozen=True)
class Baseline:
    """The variant with the best mean average precision, by server.

    Attributes:
        published: With the threshold of the READMEs.
        later: With the threshold learned as ours, by rows after those that a second fit saw.
        level: As ``later``, all thresholds times one factor: false positives are as many as ours.
    """

    published: tuple[Judged, ...]
    later: tuple[Judged, ...]
    level: tuple[Judged, ...]


def baseline_of(
    scores: Callable[[Array, Sequence[Array]], list[list[Array]]],
    everyone: Sequence[Server],
    budget: float,
    rate: float,
) -> Baseline:
    variants: list[list[Scored]] = []
    for server in everyone:
        values = server.train_values
        cut = int(len(values) * (1 - VALID_SHARE))
        whole = scores(values, [values, server.test_values])
        early = scores(values[:cut], [values[cut:]])
        variants.append(
            [
                Scored(
                    server.label,
                    of_test,
                    float(np.quantile(of_train, README_QUANTILE)),
                    alarm_level(of_valid, budget),
                )
                for (of_train, of_test), (of_valid,) in zip(whole, early, strict=True)
            ]
        )
    published = [
        tuple(each.judged(each.published, budget) for each in variant)
        for variant in zip(*variants, strict=True)
    ]
    best = int(np.argmax([mean_of([each.average_precision for each in figures]) for figures in published]))
    chosen = [variant[best] for variant in variants]
    factor = factor_of(chosen, rate)
    return Baseline(
        published[best],
        tuple(each.judged(each.later, budget) for each in chosen),
        tuple(each.judged(each.later * factor, budget) for each in chosen),
    )


def factor_of(chosen: Sequence[Scored], rate: float) -> float:
    """What the learned thresholds are multiplied by for a mean false-positive rate of ``rate``, or just below."""
    low, high = 1e-3, 1e6
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        found = mean_of(
            [float((each.score[each.label == 0] > each.later * middle).mean()) for each in chosen]
        )
        low, high = (middle, high) if found > rate else (low, middle)
    return high


def _error(model: object, values: Array) -> Array:
    rebuilt = model.inverse_transform(model.transform(values))  # type: ignore[attr-defined]
    return np.asarray(((values - rebuilt) ** 2).sum(axis=1))


def _smoothed(values: Array) -> Array:
    """Mean of the last samples up to each one."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - SMOOTHED, 0)
    return (total[end] - total[begin]) / (end - begin)


def mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values))
