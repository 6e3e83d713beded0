"""A loaded export: its estimators and its head behind one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.encoding import estimator_matrix
from models.manifest import Estimator, FieldType, InputField, Manifest
from pipelines.errors import InvalidRequestError


class EstimatorRuntime(Protocol):
    """A model file, opened. Safe to call from several threads at once."""

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw answers, shape (n,) or (n, k), to rows as :func:`models.encoding.estimator_matrix` makes them."""
        ...

    def contributions(self, matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """What each input adds to the raw answer, shape (n, n_inputs + 1), the base value last.

        The row sums are the raw answers. None: this kind of estimator has no exact account.
        """
        ...


class Predictor:
    """Answers of one version. Safe to call from several threads at once."""

    def __init__(self, manifest: Manifest, runtimes: Mapping[str, EstimatorRuntime]) -> None:
        self._manifest = manifest
        self._runtimes = {
            estimator.name: (estimator, runtimes[estimator.name]) for estimator in manifest.estimators
        }

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    def predict(self, columns: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs by name, each of shape (n,), in the order of the manifest.

        Args:
            columns: One array of shape (n,) per input of the manifest. Numbers are float64 with
                NaN for missing; strings are object arrays with None for missing. Optional
                inputs may be absent; further columns are ignored.

        Raises:
            InvalidRequestError: a required input is absent, or lengths differ. The field is named.
        """
        checked = self._checked(columns)
        raw = {
            name: runtime.raw(self._matrix(estimator, checked))
            for name, (estimator, runtime) in self._runtimes.items()
        }
        answers = self._manifest.head.answer(checked, raw)
        return {field.name: answers[field.name] for field in self._manifest.outputs}

    def explain(self, columns: Mapping[str, NDArray]) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Per estimator that can say so exactly: what each input adds to its raw answer, shape (n,) each.

        ``base`` is the answer where nothing is known; base and inputs add up to the raw answer
        (TreeSHAP for boosted trees, Lundberg et al., 2020).
        """
        checked = self._checked(columns)
        told: dict[str, dict[str, NDArray[np.float64]]] = {}
        for name, (estimator, runtime) in self._runtimes.items():
            shares = runtime.contributions(self._matrix(estimator, checked))
            if shares is not None:
                told[name] = dict(zip((*estimator.inputs, "base"), shares.T, strict=True))
        return told

    def _matrix(self, estimator: Estimator, columns: Mapping[str, NDArray]) -> NDArray[np.float64]:
        return estimator_matrix(columns, self._manifest.inputs, estimator)

    def _checked(self, columns: Mapping[str, NDArray]) -> dict[str, NDArray]:
        rows: int | None = None
        for field in self._manifest.inputs:
            if field.name not in columns:
                if field.required:
                    raise InvalidRequestError(f"input {field.name!r} is absent", field.name)
                continue
            shape = np.shape(columns[field.name])
            if len(shape) != 1 or (rows is not None and shape[0] != rows):
                raise InvalidRequestError(
                    f"input {field.name!r} has shape {shape}, one-dimensional arrays of one length are wanted",
                    field.name,
                )
            rows = shape[0]
        if rows is None:
            raise InvalidRequestError("no input is given", self._manifest.inputs[0].name)
        return {
            field.name: columns[field.name] if field.name in columns else to_column(field, [None] * rows)
            for field in self._manifest.inputs
        }


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
