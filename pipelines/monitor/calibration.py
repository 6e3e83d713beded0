"""How far the mean of a series over a window strays when nothing has changed, learned from its own history.

Telemetry has rhythms and memory, so the rows of a window are not independent of each other and the
usual tests find "drift" in most windows where there is none. Here a window is compared with the same
hours of the week, and its deviation with those that windows of the same length have had:

1. The *profile*, the mean of the history by hour of the week, is taken away.
2. The variance of a window's mean is the spectral density of what remains, averaged over the
   frequencies that a window of this length lets through (Priestley, 1981, section 6.2). It is what
   all overlapping historical windows of the length say together, and has about 1.5 degrees of freedom
   per window; the harmonics of the rhythm are left out, because the profile took them.
3. Few windows leave few degrees of freedom. Features of one model resemble each other in how much
   slower they wander than their fast part says, and lend each other degrees of freedom as far as they
   do (moderated variances: Smyth, 2004). Columns that move together say the same thing several times:
   they lend no more than their effective number has to give.
4. The p-value is Student's, and never smaller than what counting says: where k of m historical windows
   of the same length and phase strayed as far, it is at least (1 + k) / (1 + m). With k = 0 counting
   could say 1 / (1 + m) only, 0.14 for six weeks, so there the tail of Student's t decides.

Series are columns throughout: arrays of shape (bins, series).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from models.base import Array

#: Degrees of freedom that other series may lend to one, at most.
MOST_LENT = 40.0
#: Most values that the cosine transform holds at once.
_AT_ONCE = 4096


@dataclass(frozen=True)
class History:
    """Series of the time in which a model learned, in bins of equal length without gaps between them.

    Args:
        values: Shape (n, k), NaN: nothing was seen in the bin. The first bin has phase 0.
        period: Bins after which the rhythm repeats: a week's where there are three weeks, else a day's.
    """

    values: Array
    period: int

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        return np.isfinite(self.values)

    @cached_property
    def profile(self) -> Array:
        """Mean by phase, shape (period, k); where a phase was never seen, the mean of all."""
        padded = _padded(self.values, self.period)
        seen = np.isfinite(padded)
        count = seen.sum(axis=0)
        overall = np.nansum(self.values, axis=0) / np.maximum(self.seen.sum(axis=0), 1)
        mean: Array = np.where(seen, padded, 0.0).sum(axis=0) / np.maximum(count, 1)
        return np.where(count > 0, mean, overall)

    @cached_property
    def residual(self) -> Array:
        """What the profile leaves; 0 where nothing was seen."""
        repeats = -(-len(self.values) // self.period)
        expected = np.tile(self.profile, (repeats, 1))[: len(self.values)]
        return np.where(self.seen, self.values - expected, 0.0)

    @cached_property
    def cycles(self) -> float:
        """How often the rhythm was seen; at least a little more than once, or nothing could be said of a profile."""
        return max(len(self.values) / self.period, 1.5)

    @cached_property
    def waves(self) -> Array:
        """Cosine transforms of the residual, shape (n, k); row j has frequency j / (2 n) per bin."""
        from scipy.fft import dct

        found = np.empty_like(self.residual)
        share = np.sqrt(np.maximum(self.seen.mean(axis=0), 1e-9))
        for start in range(0, found.shape[1], _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found[:, part] = dct(self.residual[:, part], type=2, axis=0, norm="ortho") / share[part]
        return found

    @cached_property
    def spectrum(self) -> Array:
        """Squares of :attr:`waves`."""
        squares: Array = self.waves**2
        return squares


@dataclass(frozen=True)
class Spread:
    """Variances of the mean over a window of one length, by series.

    Attributes:
        alone: Shape (k,): of a window's mean by itself.
        variance: Of the deviation of a new window's mean from the profile, which is itself an estimate.
        within: The same of a historical window, whose profile it had a part in.
        freedom: Degrees of freedom, shape (k,).
    """

    alone: Array
    variance: Array
    within: Array
    freedom: Array


def spread(
    history: History, length: int, lend: bool = True, groups: NDArray[np.int64] | None = None
) -> Spread:
    """Learn how far means over ``length`` bins stray.

    Args:
        length: Of the window, in bins.
        lend: Whether series lend each other degrees of freedom.
        groups: Shape (k,): series lend within their group alone; None: all are one.
    """
    bins = len(history.values)
    order = np.arange(1, bins)
    weight = np.sinc(order * length / (2 * bins)) ** 2  # what a running mean lets through
    # The profile took the rhythm's harmonics; of a sine among them the nearest cosines hold four fifths.
    every = 2 * bins / history.period
    harmonic = np.abs(order - every * np.round(order / every)) <= 1
    harmonic &= order > every / 2
    weight = np.where(harmonic, 0.0, weight)
    # Beyond the main lobe little comes through, and its many small weights would claim freedom.
    weight[order > 2 * bins / length] = 0.0
    density = weight @ history.spectrum[1:] / weight.sum()
    freedom = float(weight.sum() ** 2 / np.sum(weight**2))
    wide = order <= max(8, 2 * bins / min(length, max(history.period // 7, 2)))
    fast = np.mean(history.spectrum[1:][wide & ~harmonic], axis=0)
    posterior, total = density, np.full(density.shape, freedom)
    if lend:
        posterior, total = _moderated_by_group(
            density, fast, freedom, history.waves[1:][wide & ~harmonic], groups
        )
    return Spread(
        alone=posterior / length,
        variance=posterior / length * (1 + 1 / history.cycles),
        within=posterior / length * (1 - 1 / history.cycles),
        freedom=total,
    )


@dataclass(frozen=True)
class Means:
    """Means over windows, beside those of the same hours of the week in the history.

    Attributes:
        gap: Mean of the window less what was expected; NaN where nothing was seen. Shape (k,), or (m, k) of m windows.
        expected: Mean of the profile over the same bins, of the same shape.
    """

    gap: Array
    expected: Array


def mean_of(history: History, window: Array, phase: int) -> Means:
    """Of a new window of shape (length, k), whose first bin has that phase."""
    expected = history.profile[(phase + np.arange(len(window))) % history.period]
    seen = np.isfinite(window)
    count = seen.sum(axis=0)

    def mean(values: Array) -> Array:
        total = np.where(seen, values, 0.0).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    return Means(mean(np.where(seen, window, 0.0) - expected), mean(expected))


def earlier(history: History, length: int, phase: int) -> Means:
    """Of the m historical windows of the same length and phase, shapes (m, k)."""
    first = phase % min(length, history.period)
    starts = np.arange(first, len(history.residual) - length + 1, length)
    windows = [mean_of(history, history.values[at : at + length], int(at)) for at in starts]
    if not windows:
        empty = np.empty((0, history.values.shape[1]))
        return Means(empty, empty)
    return Means(np.array([each.gap for each in windows]), np.array([each.expected for each in windows]))


def p_values(statistic: Array, freedom: Array, historical: Array, sides: int = 2) -> Array:
    """Student's, and at least what counting the historical windows says.

    Args:
        statistic: Shape (k,), studentised; NaN: not known, and so is its p-value.
        historical: Studentised, shape (m, k).
        sides: 1: only upwards counts.
    """
    reach = np.abs(statistic) if sides == 2 else statistic
    past = np.abs(historical) if sides == 2 else historical
    tail = sides * stats.t.sf(reach, freedom)
    as_far = np.sum(past >= reach, axis=0)
    counted = np.where(as_far > 0, (1 + as_far) / (1 + np.sum(np.isfinite(past), axis=0)), 0.0)
    return np.where(np.isfinite(statistic), np.clip(np.maximum(tail, counted), 0.0, 1.0), np.nan)


def weighted_discoveries(p: Array, weight: Array, rate: float) -> tuple[NDArray[np.bool_], Array]:
    """Which hypotheses are refused, by Benjamini and Hochberg with weights (Genovese, Roeder, Wasserman, 2006).

    Args:
        p: Shape (k,); NaN: not asked.
        weight: Shape (k,), not negative; scaled here so that those asked have mean 1.
        rate: Expected share of false ones among those refused. Where nothing has changed at all, it is
            the probability that any is refused.

    Returns:
        Refused or not, and adjusted p-values; both of shape (k,).
    """
    asked = np.isfinite(p)
    adjusted = np.full(len(p), np.nan)
    if not asked.any():
        return np.zeros(len(p), dtype=bool), adjusted
    share = np.where(asked, weight, 0.0)
    share = share / share[asked].mean() if share[asked].sum() > 0 else asked.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        weighed = np.where(share > 0, p / share, np.inf)[asked]
    order = np.argsort(weighed, kind="stable")
    count = len(weighed)
    stepped = np.minimum.accumulate((weighed[order] * count / np.arange(1, count + 1))[::-1])[::-1]
    back = np.empty(count)
    back[order] = np.minimum(stepped, 1.0)
    adjusted[asked] = back
    return asked & (np.nan_to_num(adjusted, nan=1.0) <= rate), adjusted


def _padded(values: Array, period: int) -> Array:
    """Shape (cycles, period, k), NaN at the end."""
    missing = -len(values) % period
    filled = np.concatenate([values, np.full((missing, values.shape[1]), np.nan)]) if missing else values
    return filled.reshape(-1, period, values.shape[1])


def _moderated_by_group(
    slow: Array, fast: Array, freedom: float, waves: Array, groups: NDArray[np.int64] | None
) -> tuple[Array, Array]:
    if groups is None:
        return _moderated(slow, fast, freedom, waves)
    variance, total = slow.copy(), np.full(slow.shape, freedom)
    for group in np.unique(groups):
        mine = groups == group
        variance[mine], total[mine] = _moderated(slow[mine], fast[mine], freedom, waves[:, mine])
    return variance, total


def resemblance(waves: Array) -> float:
    """Mean squared correlation of different series, from 0 (each goes its own way) to 1 (all are one).

    Args:
        waves: Cosine transforms, shape (m, k), m of them independent; what chance alone makes of m is taken away.
    """
    count, series = waves.shape
    norm = np.sqrt(np.sum(waves**2, axis=0))
    unit = waves[:, norm > 0] / norm[norm > 0]
    series = unit.shape[1]
    if series < 2 or count < 3:
        return 0.0
    correlation = unit.T @ unit
    mean = (np.sum(correlation**2) - series) / (series * (series - 1))
    return float(np.clip((mean - 1 / count) / (1 - 1 / count), 0.0, 1.0))


def _moderated(slow: Array, fast: Array, freedom: float, waves: Array) -> tuple[Array, Array]:
    """Variances drawn towards what other series say, and their degrees of freedom (Smyth, 2004, section 6).

    A series' own estimate is its slow variance; the prior is the common ratio of slow to fast, times
    its fast variance. How much the prior is worth comes from how little the ratios vary. Where series
    resemble each other, their estimates err together: they vary less about each other than about the
    truth, and k of them are worth k / (1 + (k - 1) r²), Kish's effective number, which for correlations
    is the participation ratio of their matrix' eigenvalues (estimates of a variance correlate by the square
    of what they are of).
    """
    usable = (slow > 0) & (fast > 0)
    if usable.sum() < 4:
        return slow, np.full(slow.shape, freedom)
    ratio = np.log(slow[usable] / fast[usable])
    centred = ratio - special.digamma(freedom / 2) + np.log(freedom / 2)
    alike = resemblance(waves[:, usable])
    effective = usable.sum() / (1 + (usable.sum() - 1) * alike)
    excess = float(np.var(centred, ddof=1) - (1 - alike) * special.polygamma(1, freedom / 2))
    # The level of the ratios is itself an estimate, of no more than so many series.
    most = min(MOST_LENT, freedom * (effective - 1))
    if most < 1:
        return slow, np.full(slow.shape, freedom)
    lent = most if excess <= 0 else min(2 * _inverse_trigamma(excess), most)
    level = float(np.exp(np.mean(centred) + special.digamma(lent / 2) - np.log(lent / 2)))
    variance, total = slow.copy(), np.full(slow.shape, freedom)
    variance[usable] = (lent * level * fast[usable] + freedom * slow[usable]) / (lent + freedom)
    total[usable] = freedom + lent
    return variance, total


def _inverse_trigamma(value: float) -> float:
    """Newton's iteration of Smyth (2004), appendix."""
    if value > 1e7:
        return float(1 / np.sqrt(value))
    if value < 1e-6:
        return 1 / value
    at = 0.5 + 1 / value
    for _ in range(50):
        slope = special.polygamma(1, at)
        change = slope * (1 - slope / value) / special.polygamma(2, at)
        at += change
        if -change / at < 1e-8:
            break
    return float(at)
