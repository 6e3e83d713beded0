"""The exact size of the test over time: no simulation, where gains are a Gaussian series.

Mean and cosine transforms of such a series are jointly Gaussian, so that "the mean is more than c
standard errors above 0" is a quadratic form in Gaussian variables above 0, whose probability is an
integral (Imhof, 1961). How many cosines the gate takes is chosen by these figures.
"""

from __future__ import annotations

import numpy as np
from scipy import integrate, stats
from scipy.linalg import matmul_toeplitz

from models.base import Array
from pipelines.evaluate.paired import OverTime

LEVEL = 0.025  # one-sided


def size(autocovariance: Array, memory: float, level: float = LEVEL) -> float:
    """How often the gate's test finds a gain where there is none.

    Args:
        autocovariance: Of the gains by lag, shape (n,): n moments.
        memory: As the gate is told, see :class:`pipelines.evaluate.paired.OverTime`.
        level: One-sided, that the test is asked for.
    """
    moments = len(autocovariance)
    terms = OverTime(np.zeros(moments), memory).terms
    order = np.arange(1, terms + 1)[:, None]
    cosines = np.sqrt(2) * np.cos(np.pi * order * (np.arange(moments) + 0.5) / moments)
    forms = np.vstack([np.ones(moments), cosines]) / np.sqrt(moments)
    covariance = forms @ matmul_toeplitz(autocovariance, forms.T)
    critical = float(stats.t.ppf(1 - level, terms))
    signs = np.diag([1.0, *[-(critical**2) / terms] * terms])
    root = np.linalg.cholesky(covariance)
    # The quadratic form tells both tails, and they are alike.
    return positive(np.linalg.eigvalsh(root.T @ signs @ root)) / 2


def positive(weights: Array) -> float:
    """Probability that a weighted sum of independent chi-squares of one degree of freedom is above 0 (Imhof, 1961)."""
    scaled = weights / np.abs(weights).max()

    def integrand(u: float) -> float:
        angle = 0.5 * np.sum(np.arctan(scaled * u))
        return float(np.sin(angle) / (u * np.prod((1 + (scaled * u) ** 2) ** 0.25)))

    integral, _ = integrate.quad(integrand, 0, np.inf, limit=2000, epsabs=1e-8)
    return float(0.5 + integral / np.pi)


def autoregression(moments: int, phi: float) -> Array:
    """Autocovariance of a first-order autoregression, shape (moments,)."""
    return np.asarray(phi ** np.arange(moments, dtype=np.float64))


def overlap(moments: int, horizon: int) -> Array:
    """Autocovariance of sums over ``horizon`` moments of white noise: what forecasts that overlap share."""
    return np.asarray(np.clip(1 - np.arange(moments) / horizon, 0.0, None))
