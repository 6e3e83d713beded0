"""Arithmetic over windows and steps of a series: NumPy, with the same bits wherever a computation begins.

All functions take rows sorted by entity and time, and every figure of a row hangs on the values in
its window alone. Sums therefore run over each window anew, oldest value first: a carried sum would
keep the rounding of values that have left the window, and NumPy's own sum groups its terms by how
many there are beside them.

Missing values are NaN, in what is given and in what comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BLOCK = 1 << 14  # rows that are summed at a time; a few arrays of them stay in the cache
_CELLS = 1 << 20  # of a matrix of windows; bounds memory, and keeps the work in the cache


@dataclass(frozen=True)
class Rows:
    """Where rows lie: sorted by entity and time, each pair at most once.

    Attributes:
        entity: Number of the entity, shape (n,), rising.
        time: Any whole unit, shape (n,), rising within an entity.
    """

    entity: Ints
    time: Ints

    def begin(self, window: int) -> Ints:
        """First row of each row's window (time - window, time], shape (n,)."""
        edges = np.flatnonzero(np.diff(self.entity, prepend=-1, append=-1))
        first = np.empty(len(self.time), dtype=np.int64)
        for start, stop in pairwise(edges):
            time = self.time[start:stop]
            first[start:stop] = start + np.searchsorted(time, time - window, side="right")
        return first

    def before(self, steps: int) -> Ints:
        """Row of the same entity at exactly time - steps, shape (n,); -1 where there is none.

        The unit must be so wide that entities times the span of time fit into 64 bits.
        """
        if not len(self.time):
            return np.empty(0, dtype=np.int64)
        lowest = self.time.min()
        key = self.entity * (self.time.max() - lowest + steps + 1) + (self.time - lowest)
        found = np.searchsorted(key, key - steps)
        return np.where(key[found] == key - steps, found, -1)


def window_sum(values: NDArray, begin: Ints) -> NDArray:
    """Sum of each row's window, which ends with the row itself; of integers or floats without NaN.

    Args:
        values: Shape (n,).
        begin: First row of each window, shape (n,).

    Returns:
        Shape (n,), of the type of ``values``.
    """
    total = np.zeros_like(values)
    for rows, earlier, held in _oldest_first(begin):
        np.add(total[rows], values[earlier], out=total[rows], where=held)
    return total


def window_squares(weight: Ints, mean: Floats, centre: Floats, begin: Ints) -> Floats:
    """Sum of ``weight * (mean - centre) ** 2`` of each row's window around the row's own centre.

    Args:
        weight: Shape (n,).
        mean: Shape (n,), without NaN.
        centre: Per window, shape (n,).
        begin: First row of each window, shape (n,).
    """
    total = np.zeros_like(mean)
    for rows, earlier, held in _oldest_first(begin):
        apart = mean[earlier] - centre[rows]
        apart *= apart
        apart *= weight[earlier]
        np.add(total[rows], apart, out=total[rows], where=held)
    return total


def window_growth(weight: Ints, entry: NDArray, begin: Ints) -> NDArray:
    """Sum of the entries of each window without that of its first row that holds values.

    Args:
        weight: How many values a row holds, shape (n,).
        entry: Growth into each row from the one before, shape (n,).
        begin: First row of each window, shape (n,).
    """
    total, seen = np.zeros_like(entry), np.zeros(len(entry), dtype=np.bool_)
    for rows, earlier, held in _oldest_first(begin):
        filled = held & (weight[earlier] > 0)
        np.add(total[rows], entry[earlier], out=total[rows], where=filled & seen[rows])
        seen[rows] |= filled
    return total


def newest(there: Bools, begin: Ints) -> Ints:
    """Newest row of each window for which ``there`` holds, shape (n,); -1 where none does."""
    last = np.maximum.accumulate(np.where(there, np.arange(len(there)), -1))
    return np.where(last >= begin, last, -1)


def picked(values: Floats, rows: Ints) -> Floats:
    """``values`` at ``rows``; NaN at row -1."""
    return np.append(values, np.nan)[rows]


def _oldest_first(begin: Ints) -> Iterator[tuple[slice, slice, Bools]]:
    """Pairs of rows and of the rows so many before them, from the oldest in any window on to the rows themselves.

    Block by block, so that a long window of one entity costs the others nothing.

    Yields:
        The rows, the earlier rows in the same order, and for which of them the window reaches so far.
    """
    for first in range(0, len(begin), _BLOCK):
        stop = min(first + _BLOCK, len(begin))
        depth = np.arange(first, stop) - begin[first:stop]
        for back in range(int(depth.max()), -1, -1):
            start = max(first, back)
            yield slice(start, stop), slice(start - back, stop - back), depth[start - first :] >= back


@dataclass(frozen=True)
class Distribution:
    """Figures of the values of each window, arrays of shape (n,)."""

    minimum: Floats
    maximum: Floats
    percentiles: dict[int, Floats]
    skewness: Floats
    kurtosis: Floats
    spike: Ints  # position among the values; -1: none


def distribution(
    values: Floats, start: Ints, stop: Ints, percents: tuple[int, ...], spike_deviations: float
) -> Distribution:
    """The distribution of ``values[start:stop]`` for each pair of borders.

    Percentiles are interpolated linearly between the sorted values (Hyndman and Fan 1996, type 7).
    Skewness and excess kurtosis are the population's, of third and fourth central moment. A spike
    is a value more than ``spike_deviations`` sample standard deviations above the mean.

    Args:
        values: In order of time, without NaN, shape (m,).
        start: Shape (n,).
        stop: Shape (n,).
    """
    rows = len(start)
    out = Distribution(
        minimum=np.full(rows, np.nan),
        maximum=np.full(rows, np.nan),
        percentiles={percent: np.full(rows, np.nan) for percent in percents},
        skewness=np.full(rows, np.nan),
        kurtosis=np.full(rows, np.nan),
        spike=np.full(rows, -1, dtype=np.int64),
    )
    for part, width in _parts(stop - start):
        _distribution_of(values, start[part], (stop - start)[part], width, part, out, spike_deviations)
    return out


def _distribution_of(
    values: Floats, start: Ints, count: Ints, width: int, part: Ints, out: Distribution, deviations: float
) -> None:
    position = np.arange(width)
    inside = position < count[:, None]
    raw = np.where(inside, values[np.minimum(start[:, None] + position, len(values) - 1)], np.nan)
    ordered = np.sort(raw, axis=1)  # NaN goes last
    lowest, highest = ordered[:, 0], ordered[np.arange(len(part)), count - 1]
    out.minimum[part], out.maximum[part] = lowest, highest
    for percent, figure in out.percentiles.items():
        figure[part] = _percentile(ordered, count, percent / 100)
    # Shape does not depend on place and scale, and near values keep their digits this way.
    spread = highest - lowest
    varied = spread > 0
    scaled = np.where(inside, (ordered - lowest[:, None]) / np.where(varied, spread, 1.0)[:, None], 0.0)
    columns = np.ascontiguousarray(scaled.T)
    mean = _column_sum(columns) / count
    apart = np.where(inside.T, columns - mean, 0.0)
    second = _column_sum(apart * apart)
    third = _column_sum(apart * apart * apart) / count
    fourth = _column_sum((apart * apart) * (apart * apart)) / count
    variance = np.where(varied, second / count, np.nan)
    out.skewness[part] = third / (variance * np.sqrt(variance))
    out.kurtosis[part] = fourth / (variance * variance) - 3.0
    deviation = np.sqrt(second / np.maximum(count - 1, 1))
    limit = lowest + spread * (mean + deviations * deviation)
    above = raw > limit[:, None]
    last = width - 1 - np.argmax(above[:, ::-1], axis=1)
    out.spike[part] = np.where(above.any(axis=1), start + last, -1)


def _percentile(ordered: Floats, count: Ints, share: float) -> Floats:
    place = share * (count - 1)
    below = np.floor(place).astype(np.int64)
    rows = np.arange(len(count))
    low, high = ordered[rows, below], ordered[rows, np.minimum(below + 1, count - 1)]
    figure: Floats = np.minimum(low + (high - low) * (place - below), high)
    return figure


def _column_sum(columns: Floats) -> Floats:
    """Sum over the first axis, row after row."""
    total = np.zeros(columns.shape[1])
    for row in columns:
        total += row
    return total


def _parts(counts: Ints) -> Iterator[tuple[Ints, int]]:
    """Numbers of the rows with a count above zero, in groups of similar count, and the group's greatest count."""
    order = np.argsort(counts, kind="stable")
    order = order[np.searchsorted(counts[order], 1) :]
    while len(order):
        width = int(counts[order[-1]])
        part, order = order[-max(1, _CELLS // width) :], order[: -max(1, _CELLS // width)]
        yield part, width


@dataclass(frozen=True)
class Samples:
    """Means of a value per step of time, where there are any; sorted by entity and step."""

    rows: Rows
    mean: Floats


def samples(entity: Ints, step: Ints, values: Floats) -> Samples:
    """Means of the values of each entity and step.

    Args:
        entity: Shape (m,), rising.
        step: Shape (m,), rising within an entity.
        values: Without NaN, shape (m,).
    """
    if not len(values):
        return Samples(Rows(entity, step), values)
    first = np.flatnonzero((np.diff(entity, prepend=-1) != 0) | (np.diff(step, prepend=step[0] - 1) != 0))
    count = np.diff(first, append=len(values))
    return Samples(Rows(entity[first], step[first]), np.add.reduceat(values, first) / count)


@dataclass(frozen=True)
class Periodicity:
    """Figures of each row's window as an evenly spaced series, arrays of shape (n,)."""

    period: Floats  # in steps
    entropy: Floats
    autocorrelation: dict[int, Floats]


def periodicity(
    of: Samples, at: Rows, width: int, lags: tuple[int, ...], max_missing_share: float
) -> Periodicity:
    """Period, spectral entropy and autocorrelation of the ``width`` samples up to each row.

    Missing samples take the mean of the others; with more than ``max_missing_share`` of them
    missing, or with all equal, the figures are NaN.

    The power at frequency j (1 to width // 2 turns in the window) is the squared size of the
    discrete Fourier transform of the series less its mean (the periodogram, Schuster 1898). The
    period is ``width / j`` of the greatest power, of equal ones the longest. The entropy is that of
    the powers as shares of their sum, over the logarithm of their number (Inouye et al. 1991). The
    autocorrelation at lag k is sum (x[t] x[t + k]) over sum (x[t] x[t]), x less its mean (Box and
    Jenkins 1970).

    Args:
        at: Rows with the entities of the samples, and the number of the last sample as time.
    """
    rows = len(at.time)
    out = Periodicity(
        period=np.full(rows, np.nan),
        entropy=np.full(rows, np.nan),
        autocorrelation={lag: np.full(rows, np.nan) for lag in lags},
    )
    first, last = _borders(of.rows, at, width)
    enough = np.flatnonzero(last - first >= max((1 - max_missing_share) * width, 2))
    per_part = max(1, _CELLS // width)
    for begin in range(0, len(enough), per_part):
        part = enough[begin : begin + per_part]
        _periodicity_of(_matrix(of, at, first[part], last[part], part, width), part, out)
    return out


def _borders(of: Rows, at: Rows, width: int) -> tuple[Ints, Ints]:
    """Positions among the samples that bound the window of each row."""
    if not len(of.time):
        nothing = np.zeros(len(at.time), dtype=np.int64)
        return nothing, nothing
    lowest = min(of.time.min(), at.time.min())
    span = max(of.time.max(), at.time.max()) - lowest + width + 1
    known, asked = (rows.entity * span + (rows.time - lowest) for rows in (of, at))
    return np.searchsorted(known, asked - width, side="right"), np.searchsorted(known, asked, side="right")


def _matrix(of: Samples, at: Rows, first: Ints, last: Ints, part: Ints, width: int) -> Floats:
    """The samples of each window, shape (width, rows), oldest first; NaN where missing."""
    matrix = np.full((width, len(part)), np.nan)
    count = last - first
    column = np.repeat(np.arange(len(part)), count)
    sample = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    matrix[width - 1 - (at.time[part][column] - of.rows.time[sample]), column] = of.mean[sample]
    return matrix


def _periodicity_of(matrix: Floats, part: Ints, out: Periodicity) -> None:
    width = len(matrix)
    there = ~np.isnan(matrix)
    lowest, highest = np.nanmin(matrix, axis=0), np.nanmax(matrix, axis=0)
    varied = highest > lowest
    scaled = np.where(there, (matrix - lowest) / np.where(varied, highest - lowest, 1.0), 0.0)
    mean = _column_sum(scaled) / there.sum(axis=0)
    centred = np.where(there, scaled - mean, 0.0)  # what is missing lies on the mean
    energy = np.where(varied, _column_sum(centred * centred), np.nan)
    for lag, figure in out.autocorrelation.items():
        figure[part] = _column_sum(centred[lag:] * centred[: width - lag]) / energy
    transform = np.fft.rfft(np.ascontiguousarray(centred.T), axis=1)[:, 1:]
    power = np.ascontiguousarray((transform.real**2 + transform.imag**2).T)
    out.period[part] = np.where(varied, width / (1 + np.argmax(power, axis=0)), np.nan)
    share = power / np.where(varied, _column_sum(power), 1.0)
    terms = share * np.log(np.where(share > 0, share, 1.0))
    entropy = -_column_sum(terms) / np.log(len(power))
    out.entropy[part] = np.where(varied, np.clip(entropy, 0.0, 1.0), np.nan)
