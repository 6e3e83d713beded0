"""Paired comparisons of two models on the same rows, where rows are not independent of each other.

Two of them, with one face: :class:`OverTime` for losses that follow each other in time, and
:class:`OverClusters` for statistics that are no mean over rows. Decision record 0012 tells why these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.base import Array, Observations, Statistic

RESAMPLES = 1000
MOST_TERMS = 8
FEWEST_TERMS = 2

#: From the number of a resample, or a slice of numbers, to the multiplicity of each row.
Weights = Callable[[int | slice], Array]
_AT_ONCE = 200_000  # weights: what fits a processor's cache
_RESAMPLES_AT_ONCE = 250


@runtime_checkable
class ByCluster(Protocol):
    """A statistic that knows a faster way where whole clusters are drawn."""

    def by_cluster(self, cluster: NDArray[np.int64], count: int) -> Callable[[Array], Array] | None:
        """From multiplicities of clusters, shape (count, k), to k numbers; None: there is no faster way."""
        ...


class Paired(Protocol):
    """A gain of one model over another, higher is better, and how sure it is."""

    @property
    def figure(self) -> float: ...

    @property
    def units(self) -> int:
        """How many independent units it rests on."""
        ...

    @property
    def method(self) -> str: ...

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided."""
        ...

    def p_value(self, bound: float) -> float:
        """One-sided, of the hypothesis that the true gain is the bound or less."""
        ...


@dataclass(frozen=True)
class OverTime:
    """The mean of a series of gains: Diebold and Mariano (1995) with a long-run variance that keeps its size.

    The long-run variance is the equal-weighted cosine estimate of Lazarus, Lewis, Stock and Watson
    (2018): the mean square of the series' first few cosine transforms, with critical values of
    Student's t with as many degrees of freedom. Few terms cost some power, and hold the rate of
    false alarms where gains follow each other closely.

    Args:
        gains: One per moment, in order of time, shape (n,).
        memory: Moments over which gains hang together by construction: overlapping horizons.
        unit: What a moment is, for people.
        seed: Of the bootstrap that stands beside.
    """

    gains: Array
    memory: float
    unit: str = "moments"
    seed: int = 0

    @property
    def figure(self) -> float:
        return float(np.mean(self.gains))

    @property
    def units(self) -> int:
        return len(self.gains)

    @property
    def terms(self) -> int:
        """Cosines that are slow beside the memory: their periods are long, so each sees one long-run variance."""
        return int(np.clip(0.75 * len(self.gains) / self.memory, FEWEST_TERMS, MOST_TERMS))

    @property
    def method(self) -> str:
        return (
            f"Diebold-Mariano over {self.units} {self.unit}, long-run variance of {self.terms} cosines "
            f"(Lazarus et al., 2018)"
        )

    @cached_property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(cosine_errors(self.gains[None, :], self.terms)[0])

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        reach = float(stats.t.ppf((1 + level) / 2, self.terms)) * self.error
        return self.figure - reach, self.figure + reach

    def p_value(self, bound: float) -> float:
        above = self.figure - bound
        if self.error == 0:
            return 0.0 if above > 0 else 1.0
        return float(stats.t.sf(above / self.error, self.terms))

    def bootstrap_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval of a circular moving-block bootstrap (Künsch, 1989; Politis and Romano, 1992)."""
        count, block = len(self.gains), self.block
        sums = np.concatenate([[0.0], np.cumsum(np.tile(self.gains, 2))])
        starts = np.random.default_rng(self.seed).integers(0, count, (RESAMPLES, int(np.ceil(count / block))))
        means = np.mean(sums[starts + block] - sums[starts], axis=1) / block
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    @property
    def block(self) -> int:
        """Length of a block, by the rule for a first-order autoregression (Carlstein, 1986)."""
        deviation = self.gains - self.figure
        power = float(np.sum(deviation**2))
        if power == 0:
            return 1
        likeness = float(np.clip(np.sum(deviation[1:] * deviation[:-1]) / power, 0.0, 0.97))
        length = (np.sqrt(6) * likeness / (1 - likeness**2)) ** (2 / 3) * len(self.gains) ** (1 / 3)
        shortest = max(1.0, self.memory if self.unit != "days" else 1.0)
        return int(np.clip(np.ceil(length), min(shortest, len(self.gains) // 2), len(self.gains) // 2))


@dataclass(frozen=True)
class OverClusters:
    """The difference of a statistic, by a paired bootstrap of whole clusters (Field and Welsh, 2007).

    Percentiles are expanded by the factor that makes the interval of a mean Student's (Hesterberg,
    2015): plain ones are too narrow where clusters are few.

    Args:
        figure: The difference on the rows as they are.
        gains: Differences under resampling, shape (resamples,); NaN where one is not defined.
        units: Number of clusters.
    """

    figure: float
    gains: Array
    units: int
    unit: str = "clusters"
    defined: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "defined", self.gains[np.isfinite(self.gains)])

    @property
    def method(self) -> str:
        return (
            f"paired bootstrap of {self.units} {self.unit}, {len(self.gains)} resamples, expanded percentiles"
        )

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        if len(self.defined) < 0.9 * len(self.gains) or np.isnan(self.figure):
            return float("nan"), float("nan")
        share = self._expanded((1 - level) / 2)
        low, high = np.quantile(self.defined, [share, 1 - share])
        return float(low), float(high)

    def p_value(self, bound: float) -> float:
        if len(self.defined) < 0.9 * len(self.gains) or np.isnan(self.figure):
            return 1.0
        share = (1 + float(np.sum(self.defined <= bound))) / (1 + len(self.defined))
        normal = float(stats.norm.isf(min(share, 1.0)))
        return float(stats.t.sf(normal / self._factor, self.units - 1))

    @property
    def _factor(self) -> float:
        return float(np.sqrt(self.units / (self.units - 1)))

    def _expanded(self, tail: float) -> float:
        return float(stats.norm.cdf(-self._factor * stats.t.isf(tail, self.units - 1)))


def cosine_errors(series: Array, terms: int) -> Array:
    """Standard errors of means of series by the equal-weighted cosine estimate.

    Args:
        series: Shape (k, n): k series of n moments each.
        terms: Number of cosines, below n.

    Returns:
        Shape (k,).
    """
    moments = series.shape[1]
    order = np.arange(1, terms + 1)[:, None]
    cosines = np.sqrt(2 / moments) * np.cos(np.pi * order * (np.arange(moments) + 0.5) / moments)
    transforms = series @ cosines.T
    errors: Array = np.sqrt(np.mean(transforms**2, axis=1) / moments)
    return errors


def clusters(part: Observations, block: timedelta | None) -> NDArray[np.int64]:
    """Number of the cluster that each row belongs to, shape (n,): its entity, or that within a block of time.

    Rows of one machine are not independent of each other, nor are rows close in time.
    """
    names = part.entity.astype(str)
    if block is not None:
        names = np.char.add(np.char.add(names, "@"), _since(part.time, block).astype(str))
    index: NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return index


def moments(part: Observations, every: timedelta | None) -> NDArray[np.int64]:
    """Number of the moment that each row belongs to, in order of time, shape (n,).

    Args:
        every: Length of a moment, such as a day; None: each time that a row has is one.
    """
    times = part.time.astype("datetime64[us]").astype(np.int64) if every is None else _since(part.time, every)
    index: NDArray[np.int64] = np.unique(times, return_inverse=True)[1]
    return index


def per_moment(gain: Array, weight: Array, moment: NDArray[np.int64]) -> Array:
    """Gains of moments, whose plain mean is the weighted mean over the rows; shape (number of moments,)."""
    count = int(moment.max()) + 1
    summed = np.bincount(moment, weights=gain * weight, minlength=count)
    scaled: Array = summed * count / np.sum(weight)
    return scaled


def cluster_weights(cluster: NDArray[np.int64], resamples: int, seed: int) -> Weights:
    """Weights of bootstrap resamples of whole clusters (Field and Welsh, 2007).

    Returns:
        A function from the number of the resample, ``0 <= number < resamples``, to the
        multiplicity of each row, shape (n,); from a slice of k numbers to shape (n, k).
    """
    drawn = drawn_clusters(int(cluster.max()) + 1, resamples, seed)
    return lambda number: drawn[:, number][cluster]


def drawn_clusters(count: int, resamples: int, seed: int) -> Array:
    """How often each cluster is drawn, shape (count, resamples)."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.ascontiguousarray(drawn.T, dtype=np.float64)


def block_weights(count: int, block: int, resamples: int, seed: int) -> Array:
    """Multiplicities of moments under a circular moving-block bootstrap, shape (count, resamples).

    Each column adds up to ``count`` but for rounding: blocks are drawn whole, and scaled.
    """
    blocks = int(np.ceil(count / block))
    starts = np.random.default_rng(seed).integers(0, count, size=(resamples, blocks))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1) % count
    rows = np.repeat(np.arange(resamples), blocks * block)
    flat = np.bincount(rows * count + drawn.ravel(), minlength=resamples * count)
    counted = np.ascontiguousarray(flat.reshape(resamples, count).T, dtype=np.float64)
    counted *= count / (blocks * block)
    return counted


def paired_gain(
    ours: Statistic, theirs: Statistic, weights: Weights, rows: int
) -> tuple[float, float, float]:
    """Difference of a statistic on the same rows, with a 95 % percentile interval.

    Resamples in which the statistic is not defined are left out.
    """
    our, their = resampled((ours, theirs), weights, rows)
    low, high = np.nanquantile(our - their, [0.025, 0.975])
    ones = np.ones(rows)
    return float(ours(ones) - theirs(ones)), float(low), float(high)


def resampled(
    statistics: Sequence[Statistic], weights: Weights, rows: int, resamples: int = RESAMPLES
) -> Array:
    """Several statistics under the same resamples, shape (number of statistics, resamples)."""
    at_once = max(1, _AT_ONCE // max(rows, 1))
    values: Array = np.empty((len(statistics), resamples))
    for start in range(0, resamples, at_once):
        chunk = slice(start, min(start + at_once, resamples))
        drawn = weights(chunk)
        for place, statistic in enumerate(statistics):
            values[place, chunk] = statistic(drawn)
    return values


def resampled_clusters(
    statistics: Sequence[Statistic], cluster: NDArray[np.int64], resamples: int, seed: int
) -> Array:
    """Several statistics under the same resamples of clusters, shape (number of statistics, resamples).

    A statistic that offers ``by_cluster`` is taken by what clusters add to it.
    """
    count = int(cluster.max()) + 1
    drawn = drawn_clusters(count, resamples, seed)
    values: Array = np.empty((len(statistics), resamples))
    for place, statistic in enumerate(statistics):
        by_cluster = _by_cluster(statistic, cluster, count)
        if by_cluster is None:
            weights = cluster_weights(cluster, resamples, seed)
            values[place] = resampled((statistic,), weights, len(cluster), resamples)[0]
            continue
        for start in range(0, resamples, _RESAMPLES_AT_ONCE):
            chunk = slice(start, start + _RESAMPLES_AT_ONCE)
            values[place, chunk] = by_cluster(drawn[:, chunk])
    return values


def _by_cluster(statistic: object, cluster: NDArray[np.int64], count: int) -> Callable[[Array], Array] | None:
    return statistic.by_cluster(cluster, count) if isinstance(statistic, ByCluster) else None


def clustered_mean(values: Array, weight: Array, cluster: NDArray[np.int64]) -> tuple[float, float, int]:
    """Weighted mean, its cluster-robust standard error, and the number of clusters.

    Of paired decisions it is the clustered McNemar test (Obuchowski, 1998) with its interval.
    """
    total = float(np.sum(weight))
    mean = float(np.sum(weight * values) / total)
    scores = np.bincount(cluster, weights=weight * (values - mean)) / total
    count = len(scores)
    return mean, float(np.sqrt(count / (count - 1) * np.sum(scores**2))), count


def holm(p_values: Array) -> Array:
    """p-values adjusted for asking several at once (Holm, 1979), in the order given."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped: Array = np.maximum.accumulate(p_values[order] * (count - np.arange(count)))
    adjusted: Array = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _since(time: NDArray[np.datetime64], span: timedelta) -> NDArray[np.int64]:
    since: NDArray[np.int64] = time.astype("datetime64[us]").astype(np.int64) // (
        span // timedelta(microseconds=1)
    )
    return since
