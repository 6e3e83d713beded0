"""From named columns to the matrix that an estimator takes; the same at training and at serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.manifest import Estimator, FieldType, InputField


def encode(columns: Mapping[str, NDArray], inputs: Sequence[InputField]) -> NDArray[np.float64]:
    """Matrix of shape (n_rows, n_inputs), in the order of ``inputs``.

    Args:
        columns: 1-D arrays of n rows by input name. Numbers use NaN for missing; strings are
            object arrays with None for missing.
        inputs: The inputs of the model. A string becomes its index in ``categories``; one that
            training did not see becomes NaN, as a missing one does.

    Raises:
        KeyError: a column is absent.
    """
    rows = len(columns[inputs[0].name])
    matrix = np.empty((rows, len(inputs)), dtype=np.float64)
    for position, field in enumerate(inputs):
        values = columns[field.name]
        if field.type is FieldType.STRING:
            codes = {text: float(code) for code, text in enumerate(field.categories or ())}
            matrix[:, position] = [codes.get(value, np.nan) for value in values]
        else:
            matrix[:, position] = values
    return matrix


def estimator_matrix(
    columns: Mapping[str, NDArray], inputs: Sequence[InputField], estimator: Estimator
) -> NDArray[np.float64]:
    """What one estimator takes: its inputs in its order, filled and shaped as it wants them.

    Returns:
        Shape (n_rows, n_inputs), or (n_rows, \\*estimator.shape).
    """
    by_name = {field.name: field for field in inputs}
    matrix = encode(columns, [by_name[name] for name in estimator.inputs])
    if estimator.fill is not None:
        matrix = np.where(np.isnan(matrix), np.asarray(estimator.fill), matrix)
    return matrix if estimator.shape is None else matrix.reshape(len(matrix), *estimator.shape)
