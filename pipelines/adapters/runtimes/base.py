"""What every runtime offers: predictions of an export, from named columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import FieldType, InputField, Manifest


class Predictor(Protocol):
    """A loaded export. Safe to call from several threads at once."""

    @property
    def manifest(self) -> Manifest: ...

    def predict(self, columns: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs by name, each of shape (n,), in the order of the manifest.

        Args:
            columns: One array of shape (n,) per input of the manifest. Numbers are float64 with
                NaN for missing; strings are object arrays with None for missing. Further
                columns are ignored.

        Raises:
            InvalidRequestError: an input is absent, or lengths differ. The field is named.
        """
        ...


def to_column(field: InputField, values: Sequence[Any]) -> NDArray:
    """Array of shape (n,) as :meth:`Predictor.predict` takes it; None becomes missing.

    Args:
        values: Of the field's type already, or None.
    """
    if field.type is FieldType.STRING:
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    # NumPy turns None into NaN where the type is given.
    return np.array(values, dtype=np.float64)
