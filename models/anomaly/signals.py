"""From what a machine's metrics did of late to signs of abnormal behaviour, metric by metric.

A row holds, per metric, its last values (lags, the newest first) and the mean of its last hours
(reference). Three things are read off them: the *level*, how far it has come from the reference,
and the *activity*, as the spread of the last values and as the movement from one to the next. A
profile says what is usual of a machine; a signal says how far a row is from it, so that 1 is about
as far as one normal row in a hundred gets.

Level signals look from two sides: from the usual level of the machine, and from its own last
hours. Only what is strange from both sides counts: a machine that has moved to a new level for good
is normal again after a while, and one that returns from a long disturbance is normal at once.

Shapes: n rows, k metrics, s lags. Missing values count as usual. NumPy only: the server imports this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Two sides of one sign, of which the smaller counts.
DISTANCE = ("static_distance", "trailing_distance")
STRUCTURE = ("static_structure", "trailing_structure")
ACTIVITY = ("spread", "movement")
SIGNALS = (*DISTANCE, *STRUCTURE, *ACTIVITY)
#: What the linear residuals see of a z-score: one wild metric must not drown the others.
_LARGEST_Z = 20.0
#: Signals beyond this many units count by their logarithm.
_LINEAR_UNTIL = 10.0
_FEWEST_VALUES = 3


@dataclass(frozen=True)
class Measured:
    """What rows say of each metric, in its own unit; shape (n, k) each, NaN where nothing is known.

    Attributes:
        level: Mean of the newest lags.
        departure: Level minus reference.
        spread: Log of the standard deviation of the lags.
        movement: Log of the mean step from one lag to the next.
    """

    level: Array
    departure: Array
    spread: Array
    movement: Array

    def rows(self, chosen: NDArray) -> Measured:
        """The chosen rows, by index or by mask."""
        return Measured(
            self.level[chosen], self.departure[chosen], self.spread[chosen], self.movement[chosen]
        )


@dataclass(frozen=True)
class Side:
    """How level looks from one side: z-scores, and their linear residuals.

    Attributes:
        centre: Shape (k,), what is usual.
        scale: Shape (k,), positive.
        mean: Shape (k,), usual z-scores.
        weights: Shape (k, k); z-scores less their mean, times this, are residuals of unit variance.
    """

    centre: Array
    scale: Array
    mean: Array
    weights: Array

    def z(self, values: Array) -> Array:
        """Shape (n, k); 0 where the value is missing."""
        return np.nan_to_num((values - self.centre) / self.scale, nan=0.0)

    def structure(self, z: Array) -> Array:
        """How far each metric is from what the others let expect, shape (n, k)."""
        return np.asarray((np.clip(z, -_LARGEST_Z, _LARGEST_Z) - self.mean) @ self.weights)


@dataclass(frozen=True)
class Usual:
    """What is usual of a machine.

    Attributes:
        static: Level against the machine's usual level.
        trailing: Departure of the level from the last hours.
        spread: Centre and scale of the spread, shape (k,) each.
        movement: The same of the movement.
    """

    static: Side
    trailing: Side
    spread: tuple[Array, Array]
    movement: tuple[Array, Array]


def measure(lags: Array, reference: Array, level_steps: int, resolution: Array) -> Measured:
    """What rows say of each metric.

    Args:
        lags: Shape (n, k, s), the newest first.
        reference: Shape (n, k), the mean of the last hours.
        level_steps: How many of the lags the level is the mean of.
        resolution: Shape (k,), positive; what is too small to matter of each metric.
    """
    level = _mean(lags[:, :, :level_steps])
    known = np.isfinite(lags).sum(axis=2)
    middle = _mean(lags)[:, :, None]
    spread = np.sqrt(np.maximum(_mean((lags - middle) ** 2), 0.0))
    movement = _mean(np.abs(np.diff(lags, axis=2))) if lags.shape[2] > 1 else spread
    enough = known >= _FEWEST_VALUES
    return Measured(
        level=level,
        departure=level - reference,
        spread=np.where(enough, np.log(spread + resolution), np.nan),
        movement=np.where(enough, np.log(movement + resolution), np.nan),
    )


def signals(measured: Measured, usual: Usual) -> dict[str, Array]:
    """How far each metric is from usual, by signal; shape (n, k) each, not negative."""
    static, trailing = usual.static.z(measured.level), usual.trailing.z(measured.departure)
    told = {
        "static_distance": static,
        "trailing_distance": trailing,
        "static_structure": usual.static.structure(static),
        "trailing_structure": usual.trailing.structure(trailing),
        "spread": _standard(measured.spread, usual.spread),
        "movement": _standard(measured.movement, usual.movement),
    }
    # Where the last hours are not known, the machine's usual level decides alone.
    alone = np.isnan(measured.departure)
    for one, other in (DISTANCE, STRUCTURE):
        told[other] = np.where(alone, told[one], told[other])
    return {name: np.abs(values) for name, values in told.items()}


def state(measured: Measured, usual: Usual, largest: float) -> Array:
    """Signed z-scores of both sides and of both activities, clipped; shape (n, 4 k)."""
    told = (
        usual.static.z(measured.level),
        usual.trailing.z(measured.departure),
        _standard(measured.spread, usual.spread),
        _standard(measured.movement, usual.movement),
    )
    return np.clip(np.concatenate(told, axis=1), -largest, largest)


def combined(told: Mapping[str, Array], units: Mapping[str, Array], weights: Mapping[str, float]) -> Array:
    """One figure a metric, shape (n, k): the weighted mean of its signs in their units.

    Args:
        told: Signals by name.
        units: Shape (k,) by the same names: how far a normal row hardly ever gets.
        weights: By sign: ``distance``, ``structure``, ``spread``, ``movement`` and any further signal.
    """
    scaled = {name: compressed(values / units[name]) for name, values in told.items()}
    signs = {
        "distance": np.minimum(*(scaled[name] for name in DISTANCE)),
        "structure": np.minimum(*(scaled[name] for name in STRUCTURE)),
    } | {name: values for name, values in scaled.items() if name not in (*DISTANCE, *STRUCTURE)}
    total = sum(weights[name] for name in signs)
    return np.asarray(sum(weights[name] * values for name, values in signs.items()) / total)


def compressed(values: Array) -> Array:
    """Linear up to 10 units, logarithmic beyond: the rank among wild metrics stays, their weight does not grow."""
    beyond = _LINEAR_UNTIL * (1 + np.log(np.maximum(values, _LINEAR_UNTIL) / _LINEAR_UNTIL))
    return np.where(values > _LINEAR_UNTIL, beyond, values)


def strongest(contributions: Array, count: int) -> Array:
    """Mean of the largest ``count`` figures of each row, shape (n,)."""
    columns = contributions.shape[1]
    kept = min(count, columns)
    return np.asarray(np.partition(contributions, columns - kept, axis=1)[:, columns - kept :].mean(axis=1))


def stacked(columns: Mapping[str, NDArray], names: Sequence[str], rows: int) -> Array:
    """Named columns side by side, shape (n, len(names)); an absent one is missing throughout."""
    matrix = np.full((rows, len(names)), np.nan)
    for position, name in enumerate(names):
        if name in columns:
            matrix[:, position] = columns[name]
    return matrix


def _mean(values: Array) -> Array:
    """Mean over the last axis of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _standard(values: Array, usual: tuple[Array, Array]) -> Array:
    centre, scale = usual
    return np.nan_to_num((values - centre) / scale, nan=0.0)
