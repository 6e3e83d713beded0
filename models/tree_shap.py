"""Exact SHAP values of tree ensembles, from the paths to their leaves. NumPy only: the server uses it.

The path-dependent game of TreeSHAP (Lundberg et al., 2020): of a set of known features a tree says
its expectation, taking at each split on an unknown feature both ways, in the shares in which the
training rows went. Its value is a sum over leaves of products over the features on the way: a known
feature contributes 1 or 0 (is the row within the leaf's bounds?), an unknown one the share of rows
that stayed within them. The Shapley value of one feature in a product game is the integral over t
from 0 to 1 of the product, over the other features, of ``t * known + (1 - t) * share``, times
``known - share`` (Owen's multilinear extension, 1972). The integrand is a polynomial, so Gauss-Legendre
quadrature of enough nodes is exact, and all leaves are worked out side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models.tree_graph import Tree

_LEAVES_AT_ONCE = 4096


@dataclass(frozen=True)
class Contributions:
    """What features add to raw answers.

    Attributes:
        names: Of m features, as the estimator sees them.
        values: Shape (n, k, m + 1), k raw answers; the base value, which is what is said where nothing
            is known, comes last. Sums over the last axis are the raw answers.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Leaves:
    """Leaves of trees that add to the same raw answers, L of them, with at most d features on the way.

    Attributes:
        feature: Shape (L, d), index of a feature, once each; where a way has fewer, m with bounds that hold always.
        low, high: Shape (L, d), float32; a row is within where ``low < value <= high``.
        share: Shape (L, d), float32; of the training rows that came, those that stayed within the bounds.
        value: Shape (L, k), what the leaf adds.
        first_target: The raw answer that the first column of ``value`` is added to.
    """

    feature: NDArray[np.uint16]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    share: NDArray[np.float32]
    value: NDArray[np.float64]
    first_target: int

    def add_contributions(self, row: NDArray[np.float32], answer: NDArray[np.float64]) -> None:
        """Add the contributions to one row, shape (m,), to ``answer`` of shape (k, m + 1)."""
        value = np.append(row, np.float32(0.0))[self.feature]
        known = (value > self.low) & (value <= self.high)
        share = self.share.astype(np.float64)
        node, weight = _quadrature(share.shape[1])
        # Shape (L, d, nodes). Never zero: shares are above zero and the nodes lie below 1.
        factor = node * known[..., None] + (1.0 - node) * share[..., None]
        others = np.prod(factor, axis=1, keepdims=True) / factor
        shapley = (known - share) * (others @ weight)
        per_feature = np.zeros((len(share), len(row) + 1))
        per_feature[np.arange(len(share))[:, None], self.feature] = shapley
        per_feature[:, -1] = np.prod(share, axis=1)  # over what filled up short ways
        targets = slice(self.first_target, self.first_target + self.value.shape[1])
        answer[targets] += self.value.T @ per_feature


@dataclass(frozen=True)
class TreePaths:
    """The ways to all leaves of an ensemble."""

    names: tuple[str, ...]
    targets: int
    groups: tuple[Leaves, ...]

    @classmethod
    def of(cls, trees: Sequence[Tree], names: tuple[str, ...], targets: int) -> TreePaths:
        """The ways of trees over the named features."""
        groups = []
        for key in dict.fromkeys((tree.first_target, tree.value.shape[1]) for tree in trees):
            ways = [
                way
                for tree in trees
                if (tree.first_target, tree.value.shape[1]) == key
                for way in _ways(tree)
            ]
            groups += [
                _leaves(ways[start : start + _LEAVES_AT_ONCE], len(names), key[0])
                for start in range(0, len(ways), _LEAVES_AT_ONCE)
            ]
        return cls(names, targets, tuple(groups))

    def contributions(self, seen: NDArray[np.float32]) -> Contributions:
        """Contributions to the raw answers to rows of shape (n, m), as the trees see them; no missing values."""
        answer = np.zeros((len(seen), self.targets, len(self.names) + 1))
        for row, place in zip(seen, answer, strict=True):
            for group in self.groups:
                group.add_contributions(row, place)
        return Contributions(self.names, answer)

    def save(self, file: Path) -> None:
        """Write the ways; the same ways give the same bytes."""
        arrays: dict[str, NDArray] = {"names": np.array(self.names), "targets": np.array(self.targets)}
        for place, group in enumerate(self.groups):
            arrays |= {f"{place}/{name}": np.asarray(values) for name, values in vars(group).items()}
        with file.open("wb") as opened:
            np.savez_compressed(opened, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, file: Path) -> TreePaths:
        """Read what :meth:`save` wrote. Runs nothing that is in the file.

        Raises:
            ValueError: it is no such file.
        """
        try:
            with np.load(file, allow_pickle=False) as stored:
                count = len({name.split("/")[0] for name in stored.files if "/" in name})
                groups = tuple(_stored_leaves(stored, place) for place in range(count))
                return cls(tuple(stored["names"].tolist()), int(stored["targets"]), groups)
        except (KeyError, OSError, EOFError, ValueError, BadZipFile) as error:
            raise ValueError(f"{file} does not hold the ways of trees: {error}") from error


def _stored_leaves(stored: Mapping[str, NDArray], place: int) -> Leaves:
    return Leaves(
        feature=stored[f"{place}/feature"],
        low=stored[f"{place}/low"],
        high=stored[f"{place}/high"],
        share=stored[f"{place}/share"],
        value=stored[f"{place}/value"],
        first_target=int(stored[f"{place}/first_target"]),
    )


@dataclass(frozen=True)
class _Way:
    """To one leaf: bounds and share by feature, and the leaf's value."""

    bounds: dict[int, tuple[float, float, float]]
    value: NDArray[np.float64]


def _ways(tree: Tree) -> Iterator[_Way]:
    from models.tree_graph import round_down

    threshold = round_down(tree.threshold)  # as the exported trees ask
    stack: list[tuple[int, dict[int, tuple[float, float, float]]]] = [(0, {})]
    while stack:
        node, bounds = stack.pop()
        feature = int(tree.feature[node])
        if feature < 0:
            yield _Way(bounds, tree.value[node])
            continue
        low, high, share = bounds.get(feature, (-np.inf, np.inf, 1.0))
        cut = float(threshold[node])
        for child, ends in (
            (tree.left[node], (low, min(high, cut))),
            (tree.right[node], (max(low, cut), high)),
        ):
            stayed = share * float(tree.cover[child] / tree.cover[node])
            stack.append((int(child), {**bounds, feature: (*ends, stayed)}))


def _leaves(ways: Sequence[_Way], filler: int, first_target: int) -> Leaves:
    width = max(1, max(len(way.bounds) for way in ways))
    feature = np.full((len(ways), width), filler, dtype=np.uint16)
    low = np.full((len(ways), width), -np.inf, dtype=np.float32)
    high = np.full((len(ways), width), np.inf, dtype=np.float32)
    share = np.ones((len(ways), width), dtype=np.float32)
    for place, way in enumerate(ways):
        for column, (name, (below, above, stayed)) in enumerate(way.bounds.items()):
            feature[place, column] = name
            low[place, column], high[place, column], share[place, column] = below, above, stayed
    return Leaves(feature, low, high, share, np.stack([way.value for way in ways]), first_target)


def _quadrature(degree: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights on (0, 1), exact for products of up to ``degree`` factors."""
    node, weight = np.polynomial.legendre.leggauss(degree // 2 + 1)
    return (node + 1.0) / 2.0, weight / 2.0
