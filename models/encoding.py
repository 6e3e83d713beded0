"""From named columns to the matrix that an estimator takes; the same at training and at serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.manifest import FieldType, InputField


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
