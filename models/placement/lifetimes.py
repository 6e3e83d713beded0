"""Distributions of lifetimes: how likely a machine is to live on, given how old it is already.

A distribution is a survival curve with a constant hazard between knots (piecewise exponential), from
probabilities of lifetime classes. Given an age, the curve from there on is the prediction made anew:
nothing needs to be asked of the model again (Ling et al., "LAVA: Lifetime-Aware VM Allocation with
Learned Distributions and Adaptation to Mispredictions", MLSys 2025, repredict with the model).
NumPy only: the server uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A class that the model holds for impossible still leaves a trace, so that every age has a future.
_LEAST_SURVIVAL = 1e-6
_LEAST_HAZARD = 1e-9  # per hour; so that hours until a share has gone stay finite


def softmax(scores: Floats) -> Floats:
    """Probabilities of shape (n, k) from raw scores of that shape."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Lifetimes:
    """Survival curves of n machines.

    Attributes:
        knots: Hours where the hazard changes, shape (k,), the first of them 0.
        cumulated: Cumulative hazard at the knots, shape (n, k); it never falls along a row.
        hazard: Per hour from each knot to the next, and from the last one on, shape (n, k).
    """

    knots: Floats
    cumulated: Floats
    hazard: Floats

    @classmethod
    def of_classes(cls, probability: Floats, edges: tuple[float, ...], tail_hours: float) -> Lifetimes:
        """Curves from probabilities of classes.

        Args:
            probability: Shape (n, len(edges) + 1); rows add up to 1.
            edges: Hours that part the classes, rising, above 0; the last class has no end.
            tail_hours: Mean time that a machine of the last class lives beyond the last edge.
        """
        knots = np.concatenate([[0.0], edges])
        survival = np.maximum(1.0 - np.cumsum(probability, axis=1)[:, :-1], _LEAST_SURVIVAL)
        cumulated = np.concatenate(
            [np.zeros((len(probability), 1)), -np.log(np.minimum(survival, 1.0))], axis=1
        )
        cumulated = np.maximum.accumulate(cumulated, axis=1)
        within = np.diff(cumulated, axis=1) / np.diff(knots)
        tail = np.full((len(probability), 1), 1.0 / tail_hours)
        return cls(knots, cumulated, np.concatenate([within, tail], axis=1))

    @classmethod
    def of_quantiles(cls, hours: Floats, shares: tuple[float, ...], knots: Floats) -> Lifetimes:
        """Curves through quantiles, as answers of the model give them.

        Args:
            hours: Shape (n, m): when each share has gone; rising along a row.
            shares: m shares, rising, within (0, 1).
            knots: Of the curves, the first of them 0; the hazard beyond the last quantile goes on.
        """
        at = np.concatenate([np.zeros((len(hours), 1)), hours], axis=1)
        at = np.maximum.accumulate(at + np.arange(at.shape[1]) * 1e-6, axis=1)
        height = np.concatenate([[0.0], -np.log1p(-np.asarray(shares))])
        slope = np.diff(height) / np.diff(at, axis=1)
        cumulated = np.zeros((len(hours), len(knots)))
        for piece in range(slope.shape[1]):
            last = piece == slope.shape[1] - 1
            reach = np.maximum(knots[None, :] - at[:, piece, None], 0.0)
            if not last:
                reach = np.minimum(reach, at[:, piece + 1, None] - at[:, piece, None])
            cumulated += slope[:, piece, None] * reach
        within = np.diff(cumulated, axis=1) / np.diff(knots)
        return cls(knots, cumulated, np.concatenate([within, slope[:, -1:]], axis=1))

    def __len__(self) -> int:
        return len(self.cumulated)

    def rows(self, chosen: NDArray) -> Lifetimes:
        """The curves of some machines, by index or by mask."""
        return Lifetimes(self.knots, self.cumulated[chosen], self.hazard[chosen])

    def survival(self, age: Floats, ahead: Floats) -> Floats:
        """Probability that a machine of this age (hours, shape (n,)) still runs; shape (n, m) for ``ahead`` (m,)."""
        machine = np.arange(len(self))[:, None]
        later = self._cumulated_at(machine, age[:, None] + ahead[None, :])
        return np.asarray(np.exp(self._cumulated_at(machine, age[:, None]) - later))

    def gone(self, hours: Floats) -> Floats:
        """Probability that each machine has gone after so many hours; shape (n,)."""
        return np.asarray(-np.expm1(-self._cumulated_at(np.arange(len(self)), hours)))

    def remaining(self, age: Floats, share: float) -> Floats:
        """Hours from now by which that share of such machines has gone, given their age; shape (n,)."""
        machine = np.arange(len(self))
        target = self._cumulated_at(machine, age) - np.log1p(-share)
        place = np.maximum((self.cumulated <= target[:, None]).sum(axis=1) - 1, 0)
        beyond = (target - self.cumulated[machine, place]) / np.maximum(
            self.hazard[machine, place], _LEAST_HAZARD
        )
        return np.asarray(np.maximum(self.knots[place] + beyond - age, 0.0))

    def extension(self, age: Floats, busy_hours: Floats) -> Floats:
        """Expected hours by which each machine outlives a host that is busy for ``busy_hours`` anyway.

        The integral of the survival curve from there on: E[max(0, lifetime - busy)].

        Args:
            age: Hours, shape (n,).
            busy_hours: Shape (n,), or (n, m) for m hosts each.

        Returns:
            The shape of ``busy_hours``.
        """
        asked = busy_hours.reshape(len(self), -1)
        machine = np.arange(len(self))[:, None, None]
        now = self._cumulated_at(machine[:, 0, 0], age)
        until = (age[:, None] + np.maximum(asked, 0.0))[:, :, None]
        # From each knot to the next, what of it lies after `until`; the last piece has no end.
        start = np.maximum(self.knots, until)
        length = np.maximum(np.append(self.knots[1:], np.inf) - start, 0.0)
        hazard = np.maximum(self.hazard, _LEAST_HAZARD)[:, None, :]
        alive = np.exp(now[:, None, None] - self._cumulated_at(machine, start))
        pieces = np.where(length > 0, alive * -np.expm1(-hazard * length) / hazard, 0.0)
        return np.asarray(pieces.sum(axis=2).reshape(busy_hours.shape))

    def _cumulated_at(self, machine: NDArray, hours: Floats) -> Floats:
        place = np.searchsorted(self.knots, hours, side="right") - 1
        return np.asarray(
            self.cumulated[machine, place] + self.hazard[machine, place] * (hours - self.knots[place])
        )
