"""What is usual of a machine, learned from rows that nobody labelled.

A share of the rows may be abnormal, so centres are medians, the covariance is of clipped z-scores, and
units are quantiles of what is left: whatever a disturbance adds to a scale, its unit takes away again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.anomaly.signals import Array, Measured, Side, Usual, signals
from models.heads.severity import Profile, SideProfile

#: A normal row gets as far in one of a hundred cases.
UNIT_QUANTILE = 0.99
#: Share of the fleet's range of a metric that is too small to matter.
_RESOLUTION = 0.02
_LEAST_ACTIVITY_SCALE = 0.1
_LARGEST_LEARNED_Z = 5.0
_BLOCKS = 4


def resolution_of(level: Array) -> Array:
    """What is too small to matter, by metric: a fiftieth of the range that the fleet takes; shape (k,), positive."""
    result = np.empty(level.shape[1])
    for number, values in enumerate(level.T):
        known = values[np.isfinite(values)]
        low, middle, high = np.quantile(known, [0.001, 0.5, 0.999]) if len(known) else (0.0, 0.0, 0.0)
        # A metric that never moved: a share of what it always was.
        result[number] = _RESOLUTION * ((high - low) or abs(middle) or 1.0)
    return result


def learn(measured: Measured, resolution: Array, shrinkage: float) -> Usual:
    """What is usual of the machine whose rows these are."""
    return Usual(
        static=_side(measured.level, resolution, shrinkage),
        trailing=_side(measured.departure, resolution, shrinkage),
        spread=_activity(measured.spread),
        movement=_activity(measured.movement),
    )


def units_of(told: Mapping[str, Array]) -> dict[str, Array]:
    """How far a normal row hardly ever gets, by signal; shape (k,), at least 1 (a standard deviation)."""
    return {
        name: np.maximum(np.quantile(values, UNIT_QUANTILE, axis=0), 1.0) for name, values in told.items()
    }


def profile_of(
    usual: Usual, units: Mapping[str, Array], forest: Array | None = None, alarm_level: float = 1.0
) -> Profile:
    """The profile as data.

    Args:
        forest: Answers of the isolation forest to the machine's rows, shape (n,).
    """
    centre, unit = 0.0, 1.0
    if forest is not None:
        centre, tail = np.quantile(forest, [0.5, 1 - UNIT_QUANTILE])
        unit = max(float(centre - tail), 1e-3)
    return Profile(
        static=_plain_side(usual.static),
        trailing=_plain_side(usual.trailing),
        spread_centre=_plain(usual.spread[0]),
        spread_scale=_plain(usual.spread[1]),
        movement_centre=_plain(usual.movement[0]),
        movement_scale=_plain(usual.movement[1]),
        units={name: _plain(values) for name, values in units.items()},
        forest_centre=float(centre),
        forest_unit=unit,
        alarm_level=alarm_level,
    )


def machine_units(measured: Measured, usual: Usual, extra: Mapping[str, Array]) -> dict[str, Array]:
    """Units of all signals of a machine's rows, and of further ones."""
    return units_of({**signals(measured, usual), **extra})


def alarm_level(strength: Array, budget: float) -> float:
    """Strength that at most the budget's share of rows exceeds, in time to come as well.

    What is usual drifts, so two thirds of the budget are kept for it; and no quarter of the time
    may exceed the budget by itself.

    Args:
        strength: Shape (n,), in the order of time, of rows that the profile was not learned of.
    """
    quarters = [part for part in np.array_split(strength, _BLOCKS) if len(part)]
    worst = max(float(np.quantile(part, 1 - budget)) for part in quarters)
    return max(worst, float(np.quantile(strength, 1 - budget / 3)))


def blended(own: float, rows: int, fleet: float, budget: float) -> float:
    """A machine's alarm level, drawn towards the fleet's the fewer rows it was learned of."""
    # Of 5 / budget rows five exceed the level: from about there on a machine speaks for itself.
    trust = rows / (rows + 5 / budget)
    return float(np.exp(trust * np.log(max(own, 1e-9)) + (1 - trust) * np.log(max(fleet, 1e-9))))


def severity_levels(level: Array, budget: float) -> tuple[float, float, float, float]:
    """Where low, medium, high and critical begin, in alarm levels.

    Low: five times as often as the alarm. High and critical: ten and a hundred times as rare, by
    an exponential tail, for which there are seldom rows enough to count.
    """
    common, alarm, rare = np.quantile(level, [1 - min(5 * budget, 0.5), 1 - budget, 1 - budget / 10])
    decade = max(float(rare - alarm), 0.25)
    return min(max(float(common), 0.1), 0.9), 1.0, 1 + decade, 1 + 2 * decade


def _side(values: Array, resolution: Array, shrinkage: float) -> Side:
    """Robust z-scores, and the weights that turn them into residuals.

    A residual is what is left of a metric when the others are known: with the precision matrix P
    of the z-scores, ``(P z)_i / sqrt(P_ii)``. The matrix is that of a probabilistic principal
    component analysis with all components (Tipping and Bishop, 1999); the noise that is added to
    the variances keeps metrics that copy each other from cancelling to nothing.
    """
    centre = _median(values)
    scale = np.maximum(_deviation(values), resolution)
    z = np.clip(np.nan_to_num((values - centre) / scale), -_LARGEST_LEARNED_Z, _LARGEST_LEARNED_Z)
    covariance = np.atleast_2d(np.cov(z.T)) if len(z) > 1 else np.eye(z.shape[1])
    noise = max(float(np.trace(covariance)) / len(covariance), 0.1)
    precision = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * noise * np.eye(len(covariance)))
    return Side(centre, scale, z.mean(axis=0), precision / np.sqrt(np.diag(precision)))


def _activity(values: Array) -> tuple[Array, Array]:
    return _median(values), np.maximum(_deviation(values), _LEAST_ACTIVITY_SCALE)


def _median(values: Array) -> Array:
    """Shape (k,); 0 for a metric without values."""
    known = [column[np.isfinite(column)] for column in values.T]
    return np.array([np.median(column) if len(column) else 0.0 for column in known])


def _deviation(values: Array) -> Array:
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    return np.asarray(np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count))


def _plain(values: Array) -> tuple[float, ...]:
    # Seven digits are more than the data tell, and half of the file.
    return tuple(float(f"{value:.7g}") for value in values)


def _plain_side(side: Side) -> SideProfile:
    return SideProfile(
        centre=_plain(side.centre),
        scale=_plain(side.scale),
        mean=_plain(side.mean),
        weights=tuple(_plain(row) for row in side.weights),
    )
