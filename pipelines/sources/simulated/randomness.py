"""Random numbers that are a function of their name: of a seed, a stream and a place in it.

Nothing is drawn in sequence, so what a machine does on a day never depends on which window, which
other machine or which other column was asked for. The generator is SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), which is counter-based:
the indices are folded into its state one after the other. Only integer operations and
``log``/``cos``/``sin`` are used, so numbers do not change with a release of numpy either.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Index = int | Ints

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_TO_UNIT = 2.0**-53


class Randomness:
    """All random numbers of one simulation. Streams are named; indices broadcast as in numpy."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def uniform(self, stream: str, *indices: Index) -> Floats:
        """In [0, 1); the shape is the indices' common shape."""
        return (self._bits(stream, indices) >> np.uint64(11)).astype(np.float64) * _TO_UNIT

    def between(self, low: float, high: float, stream: str, *indices: Index) -> Floats:
        """Uniform in [low, high)."""
        return low + (high - low) * self.uniform(stream, *indices)

    def choice(self, count: int, stream: str, *indices: Index) -> Ints:
        """Whole numbers in [0, count)."""
        return (self.uniform(stream, *indices) * count).astype(np.int64)

    def normal(self, stream: str, *indices: Index) -> Floats:
        """Standard normal (Box-Muller, one of the pair)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(stream + ":radius", *indices)))
        return radius * np.cos(2.0 * np.pi * self.uniform(stream + ":angle", *indices))

    def normals(self, stream: str, rows: int, *indices: Index) -> Floats:
        """Independent standard normals, shape (rows, *common shape). Both of each pair are used."""
        pairs = (rows + 1) // 2
        which = np.arange(pairs).reshape(-1, *[1] * np.broadcast(*indices).ndim)
        radius = np.sqrt(-2.0 * np.log1p(-self._last(stream + ":radius", indices, which)))
        angle = 2.0 * np.pi * self._last(stream + ":angle", indices, which)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:rows]

    def poisson(self, mean: Floats, stream: str, *indices: Index) -> Ints:
        """Poisson counts by inversion; for small means, cut off at 24."""
        left = self.uniform(stream, *indices)
        term = np.exp(-mean) * np.ones_like(left)
        count = np.zeros(left.shape, dtype=np.int64)
        for k in range(1, 25):
            left = left - term
            count += left >= 0
            term = term * mean / k
        return count

    def smooth(self, stream: str, at_days: Floats, knot_days: float, *indices: Index) -> Floats:
        """A slow wave through standard normals at knots ``knot_days`` apart, eased in between.

        ``at_days`` has shape (n,); with one index array of shape (m, 1) the result is (m, n).
        """
        place = at_days / knot_days
        knot = np.floor(place).astype(np.int64)
        share = place - knot
        share = share * share * (3.0 - 2.0 * share)
        return (
            self.normal(stream, *indices, knot) * (1.0 - share)
            + self.normal(stream, *indices, knot + 1) * share
        )

    def _last(self, stream: str, indices: tuple[Index, ...], last: Ints) -> Floats:
        # The indices of a tile are mixed once, and only the last one for each number.
        with np.errstate(over="ignore"):
            state = _mix(self._bits(stream, indices)[np.newaxis] + _as_bits(last) * _GOLDEN)
        return (state >> np.uint64(11)).astype(np.float64) * _TO_UNIT

    def _bits(self, stream: str, indices: tuple[Index, ...]) -> NDArray[np.uint64]:
        digest = hashlib.blake2b(f"{self._seed}/{stream}".encode(), digest_size=8).digest()
        state = np.asarray(int.from_bytes(digest, "little"), dtype=np.uint64)
        with np.errstate(over="ignore"):
            for index in indices:
                state = _mix(state + (_as_bits(index) + np.uint64(1)) * _GOLDEN)
        return state


def _as_bits(index: Index) -> NDArray[np.uint64]:
    return np.asarray(index, dtype=np.int64).astype(np.uint64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return np.asarray(state ^ (state >> np.uint64(31)))
