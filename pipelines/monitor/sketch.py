"""What is kept of a feature: how its values lay in training, and what each bin of time added up to.

A value becomes its normal score: the quantile of the standard normal distribution at the value's rank
in training (van der Waerden, 1952). Ranks have no units and no outliers, so the mean of scores is a
location and their mean square a spread for a column in bytes as for one in percent. Scores come from
a histogram of at most :data:`CELLS` cells between quantiles, which adds up over rows, files and machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.base import Array

#: Ranks at which a column is cut; closer together at the ends, where changes show.
CUTS = np.array(
    [0.001, 0.005, 0.01, 0.025, *np.arange(0.05, 0.96, 0.05), 0.975, 0.99, 0.995, 0.999], dtype=np.float64
)
CELLS = len(CUTS) + 1
#: Categories that are counted by name; the rest is one.
MOST_CATEGORIES = 12
OTHER = "(other)"


@dataclass(frozen=True)
class NumberSketch:
    """How a numeric column lay.

    Attributes:
        edges: Rising, shape (c - 1,): cell i holds values in (edges[i - 1], edges[i]].
        scores: Normal score of each cell, shape (c,); mean 0 and variance 1 over the shares (of a constant: 0).
        shares: Of the rows that are not missing, shape (c,).
        missing: Share of rows that are missing.
    """

    edges: Array
    scores: Array
    shares: Array
    missing: float

    @classmethod
    def of(cls, values: Array) -> NumberSketch:
        """Of the values of training, NaN for missing; of nothing but missing values it is one cell."""
        present = values[np.isfinite(values)]
        missing = 1 - len(present) / max(len(values), 1)
        if not len(present):
            return cls(np.empty(0), np.zeros(1), np.ones(1), missing)
        # The lower of two neighbours is a value that occurs, so equal values share one cell. The outermost
        # cells hold what training never saw.
        cuts = np.quantile(present, CUTS, method="inverted_cdf")
        edges = np.unique([np.nextafter(present.min(), -np.inf), *cuts, present.max()])
        shares = np.bincount(np.searchsorted(edges, present), minlength=len(edges) + 1) / len(present)
        return cls(edges, _scores(shares), shares, missing)

    def cells(self, values: Array) -> NDArray[np.intp]:
        """Cell of each value; that of a missing one means nothing."""
        return np.searchsorted(self.edges, values)


@dataclass(frozen=True)
class TextSketch:
    """How a column of categories lay.

    Attributes:
        categories: The commonest first; the last one, :data:`OTHER`, is all others.
        shares: Of the rows that are not missing, shape (c,).
        missing: Share of rows that are missing.
    """

    categories: tuple[str, ...]
    shares: Array
    missing: float

    @classmethod
    def of(cls, values: NDArray) -> TextSketch:
        """Of the values of training, None for missing."""
        present = np.array([value for value in values.tolist() if value is not None], dtype=str)
        names, counts = np.unique(present, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        kept = order[:MOST_CATEGORIES]
        total = max(len(present), 1)
        shares = np.append(counts[kept], counts.sum() - counts[kept].sum()) / total
        return cls((*names[kept].tolist(), OTHER), shares, 1 - len(present) / max(len(values), 1))

    def cells(self, values: NDArray) -> NDArray[np.intp]:
        """Number of each value's category; -1 for missing."""
        place: dict[str | None, int] = {name: number for number, name in enumerate(self.categories[:-1])}
        place[None] = -1
        other = len(self.categories) - 1
        return np.array([place.get(value, other) for value in values.tolist()], dtype=np.intp)


Sketch = NumberSketch | TextSketch


@dataclass(frozen=True)
class Binned:
    """Rows of a column added up by bins of time.

    Attributes:
        missing: Rows that are missing, shape (bins,).
        counts: Rows by cell of the column's sketch, shape (bins, c).
        scores: Score of each cell, shape (c,); 0 for categories, which have none.
    """

    missing: Array
    counts: Array
    scores: Array

    @cached_property
    def present(self) -> Array:
        """Rows that are not missing, shape (bins,)."""
        total: Array = self.counts.sum(axis=1)
        return total

    @cached_property
    def rows(self) -> Array:
        """All rows, shape (bins,)."""
        total: Array = self.present + self.missing
        return total

    @cached_property
    def first(self) -> Array:
        """Mean score, shape (bins,); NaN where nothing is."""
        return over(self.counts @ self.scores, self.present)

    @cached_property
    def second(self) -> Array:
        """Mean squared score, shape (bins,); NaN where nothing is."""
        return over(self.counts @ self.scores**2, self.present)

    @property
    def shares(self) -> Array:
        """Share of each cell, shape (bins, c); NaN where nothing is."""
        return over(self.counts, self.present[:, None])

    @property
    def cells(self) -> Array:
        """Rows by cell over all bins, shape (c,)."""
        total: Array = self.counts.sum(axis=0)
        return total

    def between(self, first: int, last: int) -> Binned:
        """The bins from ``first`` to below ``last``."""
        return Binned(self.missing[first:last], self.counts[first:last], self.scores)


def binned(
    sketch: Sketch, values: NDArray, bins: NDArray[np.int64], count: int, weight: Array | None = None
) -> Binned:
    """Add rows up.

    Args:
        values: Shape (n,).
        bins: Bin of each row, shape (n,), from 0 to ``count`` - 1.
        weight: How many rows each stands for; None: one.
    """
    cells = sketch.cells(values)
    absent = cells < 0 if isinstance(sketch, TextSketch) else ~np.isfinite(values)
    there, size = ~absent, len(sketch.shares)
    missing = np.bincount(bins[absent], None if weight is None else weight[absent], minlength=count)
    counts = np.bincount(
        bins[there] * size + cells[there], None if weight is None else weight[there], minlength=count * size
    ).reshape(count, size)
    scores = np.zeros(size) if isinstance(sketch, TextSketch) else sketch.scores
    return Binned(missing.astype(np.float64), counts.astype(np.float64), scores)


def over(total: Array, count: Array) -> Array:
    """A mean; NaN where nothing was counted."""
    return np.where(count > 0, total / np.maximum(count, 1e-12), np.nan)


def sketches(columns: Mapping[str, NDArray]) -> dict[str, Sketch]:
    """One for each column: of objects as categories, of anything else as numbers."""
    return {
        name: TextSketch.of(values)
        if values.dtype.kind in "OUS"
        else NumberSketch.of(values.astype(np.float64))
        for name, values in columns.items()
    }


def jensen_shannon(left: Array, right: Array) -> float:
    """Distance of two distributions over the same cells, from 0 to 1 (base 2, as Evidently has it)."""
    from scipy.spatial.distance import jensenshannon

    if left.sum() == 0 or right.sum() == 0:
        return float("nan")
    return float(jensenshannon(left, right, base=2))


def _scores(shares: Sequence[float] | Array) -> Array:
    """Normal scores at the middle ranks of cells, standardised."""
    share = np.asarray(shares, dtype=np.float64)
    middle = np.cumsum(share) - share / 2
    scores: Array = stats.norm.ppf(np.clip(middle, 1e-4, 1 - 1e-4))
    scores -= scores @ share
    spread = float(np.sqrt(share @ scores**2))
    if spread > 0:
        scores /= spread
    return scores  # of a constant: 0, and what lies below or above
