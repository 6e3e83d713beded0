"""Statistics that may be looked at at any time: as often as one likes, and stopped when one likes. Pure.

A fixed-sample test that is looked at after each row finds a difference that is not there far more
often than it says. What is here errs with probability ``alpha`` over all looks together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# ζ(1.4): the sum over all epochs of 1/k^1.4, which shares alpha among them.
_ZETA = 3.105547
_S, _ETA = 1.4, 2.0
# Bets of the mixture, as shares of the largest that cannot lose everything.
_BETS = np.array([0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8])


@dataclass(frozen=True)
class Interval:
    """A mean, and where it lies; by the confidence sequence, at all times at once.

    Attributes:
        count: Values that it is of.
    """

    mean: float
    lower: float
    upper: float
    count: int


def stitched_bound(v: NDArray[np.float64], alpha: float, c: float, v_min: float = 1.0) -> NDArray[np.float64]:
    """Boundary that a sub-gamma process of variance ``v`` crosses ever with probability ``alpha`` at most.

    The polynomial stitched boundary with η = 2, s = 1.4: Howard, Ramdas, McAuliffe and Sekhon (2021),
    "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2), eq. (10).

    Args:
        v: Intrinsic time, any shape.
        c: Scale of the process.
        v_min: Intrinsic time from which on the boundary is tight.
    """
    time = np.maximum(v, v_min)
    ell = _S * np.log(np.log(_ETA * time / v_min)) + math.log(_ZETA / (alpha * math.log(_ETA) ** _S))
    k1 = (_ETA**0.25 + _ETA**-0.25) / math.sqrt(2)
    k2 = (math.sqrt(_ETA) + 1) / 2
    return np.asarray(np.sqrt(k1**2 * time * ell + (k2 * c * ell) ** 2) + k2 * c * ell)


def mean_sequence(
    values: NDArray[np.float64], alpha: float, low: float = -1.0, high: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of an empirical-Bernstein confidence sequence, after each value.

    With probability 1 - ``alpha`` it holds at all times at once the mean of what each value was expected
    to be, given all before: no independence is asked for, nor that the expectation stays the same.
    Theorem 4 of Howard and others (2021), with the mean until then as prediction.

    Args:
        values: In the order in which they came, along the last axis, each within ``low`` and ``high``.

    Raises:
        ValueError: a value is outside, or missing.
    """
    if not np.all((values >= low) & (values <= high)):
        raise ValueError(f"values must lie in [{low:g}, {high:g}]")
    count = np.arange(1, values.shape[-1] + 1)
    mean = np.cumsum(values, axis=-1) / count
    first = np.full((*values.shape[:-1], 1), (low + high) / 2)
    predicted = np.concatenate([first, mean[..., :-1]], axis=-1)
    v = np.cumsum((values - predicted) ** 2, axis=-1)
    width = high - low
    reach = stitched_bound(v, alpha / 2, width, v_min=(width / 4) ** 2) / count
    return np.maximum(mean - reach, low), np.minimum(mean + reach, high)


def mean_interval(
    values: NDArray[np.float64], alpha: float, low: float = -1.0, high: float = 1.0
) -> Interval | None:
    """The newest interval of :func:`mean_sequence`; None without values."""
    if not len(values):
        return None
    lower, upper = mean_sequence(values, alpha, low, high)
    return Interval(float(values.mean()), float(lower[-1]), float(upper[-1]), len(values))


def difference(one: Interval, other: Interval) -> Interval:
    """Mean of ``one`` less that of ``other``: both hold with the sum of their error probabilities."""
    return Interval(
        one.mean - other.mean,
        one.lower - other.upper,
        one.upper - other.lower,
        min(one.count, other.count),
    )


def evidence_against(events: int, trials: int, tolerated: float) -> float:
    """Evidence (an e-value) that events are more frequent than tolerated, from their number until now.

    Capital of one who bets on the event each time, with a mixture of bets: while its conditional
    probability is never above ``tolerated``, the capital reaches 1/alpha ever with probability alpha
    at most (Ville's inequality). Waudby-Smith and Ramdas (2024), "Estimating means of bounded
    random variables by betting", Journal of the Royal Statistical Society B 86(1).

    Args:
        tolerated: In (0, 1).
    """
    if not 0 < tolerated < 1:
        raise ValueError(f"tolerated is {tolerated!r}, a share between 0 and 1 is wanted")
    logs = events * np.log1p(_BETS * (1 - tolerated) / tolerated) + (trials - events) * np.log1p(-_BETS)
    most = float(logs.max())
    if most > 600:
        return math.inf
    return float(math.exp(most) * np.exp(logs - most).mean())


def cautious_share(events: int, trials: int) -> float:
    """A share that the true one is hardly above, for few trials as for many: its upper end by Agresti and Coull
    (1998), about 97.5 %; near 1 where nothing was seen."""
    z2 = 1.96**2
    total = trials + z2
    share = (events + z2 / 2) / total
    return min(share + 1.96 * math.sqrt(share * (1 - share) / total), 1.0)
