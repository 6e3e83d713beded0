"""Rows that ask for different days ahead, put together by the entity and time that they ask from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Array, Observations
from models.targets import STEPS_AHEAD

_LAG = re.compile(r".+__lag_(\d+)")


@dataclass(frozen=True)
class Origins:
    """Distinct entities and times, ordered by time.

    Attributes:
        rows: Shape (origins, steps): the row that asks for each step; -1 where there is none.
        first: Shape (origins,), a row of each.
    """

    rows: NDArray[np.intp]
    first: NDArray[np.intp]

    def of(self, values: Array) -> Array:
        """Values of rows by origin and step, shape (origins, steps); NaN where there is no row."""
        return np.where(self.rows >= 0, values[np.maximum(self.rows, 0)], np.nan)


def origins_of(part: Observations, steps: int | None = None) -> Origins:
    """The origins of a part; ``steps``: days of the horizon, by default the largest asked for."""
    step = part.columns[STEPS_AHEAD].astype(np.intp)
    width = steps or int(step.max(initial=1))
    names, entity = np.unique(part.entity.astype(str), return_inverse=True)
    key = part.time.astype("datetime64[us]").astype(np.int64) * max(len(names), 1) + entity
    _, first, of_row = np.unique(key, return_index=True, return_inverse=True)
    rows = np.full((len(first), width), -1, dtype=np.intp)
    rows[of_row.reshape(-1), step - 1] = np.arange(len(part))
    return Origins(rows, first)


def asked_once(part: Observations, target: str, steps: int) -> Observations:
    """One row an origin, whose targets are the truth of each day ahead, named by its number: 1, 2, …"""
    origins = origins_of(part, steps)
    truth = origins.of(part.targets[target])
    once = part.rows(origins.first)
    return Observations(
        once.columns,
        {str(step): truth[:, step - 1] for step in range(1, steps + 1)},
        once.weight,
        once.entity,
        once.time,
    )


def truth_of(once: Observations) -> Array:
    """Truth of the days ahead of rows from :func:`asked_once`, shape (origins, steps)."""
    return np.stack([once.targets[str(step)] for step in range(1, len(once.targets) + 1)], axis=1)


def lag_names(columns: Iterable[str]) -> list[str]:
    """Names of the lags without a gap, from lag 0 on."""
    found = {int(match[1]): name for name in columns if (match := _LAG.fullmatch(name))}
    names: list[str] = []
    while len(names) in found:
        names.append(found[len(names)])
    return names


def side_by_side(columns: Mapping[str, NDArray], names: Sequence[str]) -> Array:
    """The named columns as a matrix, shape (n, names)."""
    return np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1)
