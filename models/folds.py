"""Folds of what lies before the holdout: for judging parameters, and for backtests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from models.base import Observations


def together(first: Observations, second: Observations) -> Observations:
    """The rows of both, the first's before the second's."""
    return Observations(
        {name: np.concatenate([values, second.columns[name]]) for name, values in first.columns.items()},
        {name: np.concatenate([values, second.targets[name]]) for name, values in first.targets.items()},
        np.concatenate([first.weight, second.weight]),
        np.concatenate([first.entity, second.entity]),
        np.concatenate([first.time, second.time]),
    )


def folds(
    observations: Observations, count: int, by: Literal["time", "entity"], horizon: np.timedelta64, seed: int
) -> Iterator[tuple[Observations, Observations]]:
    """``(learn, judge)`` per fold.

    By entity, each entity is judged once, by what was learned of the others. By time, the newer
    half of the span is cut into ``count`` stretches, and each is judged by what was learned of all
    that lies before it, less one horizon: a label that reaches into the stretch is not learned of
    (rolling origin, Tashman 2000). Folds without rows on either side are left out.
    """
    if by == "entity":
        names, index = np.unique(observations.entity.astype(str), return_inverse=True)
        fold_of = np.random.default_rng(seed).permutation(len(names)) % count
        parts = [(fold_of[index] != number, fold_of[index] == number) for number in range(count)]
    else:
        first, last = observations.time.min(), observations.time.max()
        middle = first + (last - first) / 2
        edges = [middle + (last - middle) * number / count for number in range(count)] + [None]
        parts = []
        for number in range(count):
            begin, end = edges[number], edges[number + 1]
            judged = observations.time >= begin
            if end is not None:
                judged &= observations.time < end
            parts.append((observations.time + horizon <= begin, judged))
    for learn, judge in parts:
        if learn.any() and judge.any():
            yield observations.rows(learn), observations.rows(judge)
