"""Telemetry of which it is known whether it has changed: rhythms, memory, skew, and changes at a known time.

Rows come every five minutes. A feature is a daily rhythm of two harmonics, a quieter weekend, and a
first-order autoregression of variance 1; every other feature is the exponential of that, as loads and
latencies are. Sizes of changes are in standard deviations of the autoregression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from models.base import Array

ROWS_PER_HOUR = 12
HOURS_PER_DAY = 24
WEEKS = 6  # of history, as the training window has them


@dataclass(frozen=True)
class World:
    """Rows of a fleet of one stream, or of several entities side by side.

    Attributes:
        columns: By name, shape (n,); strings as objects.
        hour: Of each row, from the first of the history on, shape (n,).
    """

    columns: dict[str, NDArray]
    hour: NDArray[np.int64]

    def between(self, first: int, last: int) -> World:
        """Rows of the hours from ``first`` to below ``last``; hours count from there."""
        mine = (self.hour >= first) & (self.hour < last)
        return World({name: values[mine] for name, values in self.columns.items()}, self.hour[mine] - first)


#: Changes the latent series after the history: (latent, cycle, rows of history, generator) to the values.
Change = Callable[["Latent"], "Latent"]


@dataclass
class Latent:
    """What values are made of; a change edits rows from ``start`` on.

    Attributes:
        noise: Autoregressions, shape (n, k).
        cycle: Rhythms, shape (n, k).
        start: First row after the history.
    """

    noise: Array
    cycle: Array
    start: int
    stuck: bool = False

    def values(self) -> Array:
        total = self.noise + self.cycle
        total[:, 1::2] = np.exp(total[:, 1::2])
        if self.stuck:
            total[self.start :, 0] = total[self.start - 1, 0]
        return total


def make(
    rng: np.random.Generator,
    phi: float,
    features: int,
    days: int,
    change: Change | None = None,
    common: float = 0.0,
    heavy: bool = False,
) -> World:
    """One stream of ``features`` columns ``f0``, ``f1``, …: six weeks of history and ``days`` after them.

    Args:
        common: Share of the variance that all features have in common.
        heavy: Innovations of Student's t with 4 degrees of freedom instead of normal ones.
    """
    hours = (WEEKS * 7 + days) * HOURS_PER_DAY
    count = hours * ROWS_PER_HOUR
    latent = Latent(
        autoregressions(rng, phi, count, features, common, heavy),
        rhythms(rng, count, features),
        WEEKS * 7 * HOURS_PER_DAY * ROWS_PER_HOUR,
    )
    if change is not None:
        latent = change(latent)
    values = latent.values()
    return World({f"f{i}": values[:, i] for i in range(features)}, np.repeat(np.arange(hours), ROWS_PER_HOUR))


def autoregressions(
    rng: np.random.Generator, phi: float, count: int, features: int, common: float = 0.0, heavy: bool = False
) -> Array:
    """Stationary, of variance 1, shape (count, features)."""

    def draw(columns: int) -> Array:
        if heavy:
            return rng.standard_t(4, (count, columns)) / np.sqrt(2)
        return rng.standard_normal((count, columns))

    steps = draw(features)
    if common:
        steps = np.sqrt(1 - common) * steps + np.sqrt(common) * draw(1)
    steps[1:] *= np.sqrt(1 - phi**2)
    series: Array = lfilter([1.0], [1.0, -phi], steps, axis=0)
    return series


def rhythms(rng: np.random.Generator, count: int, features: int) -> Array:
    """A daily rhythm of two harmonics and a weekend, shape (count, features)."""
    day = np.arange(count) / (HOURS_PER_DAY * ROWS_PER_HOUR)
    size, phase = rng.uniform(0.3, 1.5, features), rng.uniform(0, 1, features)
    angle = 2 * np.pi * (day[:, None] + phase)
    weekend = ((day.astype(int) % 7) >= 5)[:, None] * rng.uniform(0, 0.8, features)
    wave: Array = size * np.sin(angle) + 0.4 * size * np.sin(2 * angle) - weekend
    return wave


def shifted(size: float) -> Change:
    """The first feature is higher by ``size``."""

    def change(latent: Latent) -> Latent:
        latent.noise[latent.start :, 0] += size
        return latent

    return change


def scattered(factor: float) -> Change:
    """The first feature's autoregression has ``factor`` times its standard deviation."""

    def change(latent: Latent) -> Latent:
        latent.noise[latent.start :, 0] *= factor
        return latent

    return change


def stuck(latent: Latent) -> Latent:
    """The first feature repeats its last value."""
    latent.stuck = True
    return latent


def categories(rng: np.random.Generator, phi: float, days: int, gone: bool) -> World:
    """Four categories whose shares follow the hours and wander; the third vanishes, or nothing does."""
    hours = (WEEKS * 7 + days) * HOURS_PER_DAY
    count = hours * ROWS_PER_HOUR
    level = autoregressions(rng, phi, count, 4) * 0.5 + rhythms(rng, count, 4) * 0.5
    drawn = np.argmax(level + rng.gumbel(size=level.shape), axis=1)
    if gone:
        late = WEEKS * 7 * HOURS_PER_DAY * ROWS_PER_HOUR
        drawn[late:][drawn[late:] == 2] = 0
    names = np.array(["web", "api", "batch", "database"], dtype=object)
    return World({"service": names[drawn]}, np.repeat(np.arange(hours), ROWS_PER_HOUR))


def fleet(rng: np.random.Generator, phi: float, features: int, days: int, newcomers: bool) -> World:
    """Eight machines of unlike levels; four more that run hotter join after the history, or none do."""
    old = [make(rng, phi, features, days) for _ in range(8)]
    new = [make(rng, phi, features, days, shifted(1.5)) for _ in range(4)] if newcomers else []
    start = WEEKS * 7 * HOURS_PER_DAY
    parts = [*old, *(World(world.columns, world.hour) for world in new)]
    keep = [
        np.ones(len(world.hour), dtype=bool) if place < len(old) else world.hour >= start
        for place, world in enumerate(parts)
    ]
    return World(
        {
            name: np.concatenate([world.columns[name][mine] for world, mine in zip(parts, keep, strict=True)])
            for name in parts[0].columns
        },
        np.concatenate([world.hour[mine] for world, mine in zip(parts, keep, strict=True)]),
    )


def concept(rng: np.random.Generator, phi: float, days: int, changed: bool) -> World:
    """Ten unchanged features, and the absolute error of a model of them; its truth moves by 1 after the history."""
    world = make(rng, phi, 10, days)
    truth_noise = autoregressions(rng, phi, len(world.hour), 1)[:, 0]
    late = world.hour >= WEEKS * 7 * HOURS_PER_DAY
    error = np.abs(truth_noise + (1.0 if changed else 0.0) * late)
    return World({**world.columns, "error": error}, world.hour)
