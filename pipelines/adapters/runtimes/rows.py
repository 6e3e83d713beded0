"""Checked rows as one matrix, and what an estimator takes of them.

The general way (:func:`models.encoding.estimator_matrix`) works from named columns and is what
training uses. The way here does the same from a matrix that is already in the manifest's order;
all that depends on the manifest alone is worked out once per version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.manifest import Estimator, FieldType, InputField

Text = str | None


@dataclass(slots=True, eq=False)
class Rows:
    """n rows of a model's inputs, each value checked. Not changed once it is made.

    Attributes:
        matrix: float64, shape (n, n_inputs), row-major, in the order of the manifest; NaN where a
            number is missing, and throughout the columns of strings.
        texts: The n values of each string input; None where missing.
    """

    matrix: NDArray[np.float64]
    texts: Mapping[str, Sequence[Text]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.matrix)


class Columns(Mapping[str, NDArray]):
    """Rows by input, as heads read them; only what is read is cut out."""

    __slots__ = ("_positions", "_rows")

    def __init__(self, rows: Rows, positions: Mapping[str, int]) -> None:
        self._rows = rows
        self._positions = positions

    def __getitem__(self, name: str) -> NDArray:
        position = self._positions[name]
        if (texts := self._rows.texts.get(name)) is not None:
            column = np.empty(len(texts), dtype=object)
            column[:] = texts
            return column
        return np.ascontiguousarray(self._rows.matrix[:, position])

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


class EstimatorPlan:
    """What one estimator takes of checked rows: its inputs in its order, encoded, filled and shaped."""

    def __init__(self, inputs: Sequence[InputField], estimator: Estimator) -> None:
        positions = {field.name: position for position, field in enumerate(inputs)}
        order = [positions[name] for name in estimator.inputs]
        self._order = None if order == list(range(len(inputs))) else np.array(order, dtype=np.intp)
        self._codes = [
            (place, name, {text: float(code) for code, text in enumerate(inputs[position].categories or ())})
            for place, (name, position) in enumerate(zip(estimator.inputs, order, strict=True))
            if inputs[position].type is FieldType.STRING
        ]
        self._fill = None if estimator.fill is None else np.asarray(estimator.fill, dtype=np.float64)
        self._shape = estimator.shape

    def matrix(self, rows: Rows) -> NDArray[np.float64]:
        """Shape (n, n_inputs), or (n, \\*estimator.shape). It may be the rows' own matrix: do not write to it."""
        matrix = rows.matrix
        if self._order is not None:
            matrix = matrix.take(self._order, axis=1)
        elif self._codes:
            matrix = matrix.copy()
        for place, name, codes in self._codes:
            matrix[:, place] = [codes.get(text, np.nan) for text in rows.texts[name]]  # type: ignore[arg-type]
        if self._fill is not None:
            matrix = np.where(np.isnan(matrix), self._fill, matrix)
        return matrix if self._shape is None else matrix.reshape(len(matrix), *self._shape)
