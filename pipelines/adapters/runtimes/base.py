"""A loaded export: its estimators and its head behind one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.encoding import estimator_matrix
from models.manifest import Estimator, FieldType, InputField, Manifest
from models.tree_shap import Contributions
from pipelines.adapters.runtimes.rows import Columns, EstimatorPlan, Rows
from pipelines.errors import InvalidRequestError


class EstimatorRuntime(Protocol):
    """A model file, opened. Safe to call from several threads at once."""

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw answers, shape (n,) or (n, k), to rows as :func:`models.encoding.estimator_matrix` makes them."""
        ...

    def contributions(self, matrix: NDArray[np.float64]) -> Contributions | None:
        """What each feature adds to the raw answers. None: this kind of estimator has no exact account."""
        ...


@dataclass(frozen=True)
class Explanation:
    """What inputs add to one raw answer of an estimator, shape (n,) each; base and inputs add up to ``raw``.

    Where the estimator works out features of its own from the inputs, such as ratios, ``inputs`` has those.
    """

    raw: NDArray[np.float64]
    base: NDArray[np.float64]
    inputs: Mapping[str, NDArray[np.float64]]


class Predictor:
    """Answers of one version. Safe to call from several threads at once."""

    def __init__(self, manifest: Manifest, runtimes: Mapping[str, EstimatorRuntime]) -> None:
        self._manifest = manifest
        self._runtimes = {
            estimator.name: (estimator, runtimes[estimator.name]) for estimator in manifest.estimators
        }
        self._plans = {
            estimator.name: EstimatorPlan(manifest.inputs, estimator) for estimator in manifest.estimators
        }
        self._steps = tuple(
            (name, plan.matrix, self._runtimes[name][1].raw) for name, plan in self._plans.items()
        )
        self._head = manifest.head
        self._positions = {field.name: position for position, field in enumerate(manifest.inputs)}
        self._outputs = tuple(field.name for field in manifest.outputs)

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
        return {name: answers[name] for name in self._outputs}

    def predict_rows(self, rows: Rows) -> dict[str, NDArray]:
        """As :meth:`predict`, from rows that were checked against the manifest: the way of the server."""
        raw = {name: ask(matrix(rows)) for name, matrix, ask in self._steps}
        answers = self._head.answer(Columns(rows, self._positions), raw)
        return {name: answers[name] for name in self._outputs}

    def explain_rows(self, rows: Rows) -> dict[str, Explanation | None]:
        """Per estimator: what each input adds to its raw answer; None for one that has no exact account.

        TreeSHAP (Lundberg et al., 2020). An estimator of several raw answers has an explanation for each
        that the head names, under ``estimator.answer``.
        """
        return self._explained({name: self._plans[name].matrix(rows) for name in self._runtimes})

    def explain(self, columns: Mapping[str, NDArray]) -> dict[str, Explanation | None]:
        """As :meth:`explain_rows`, from columns as :meth:`predict` takes them."""
        checked = self._checked(columns)
        return self._explained(
            {name: self._matrix(estimator, checked) for name, (estimator, _) in self._runtimes.items()}
        )

    def _explained(self, matrices: Mapping[str, NDArray[np.float64]]) -> dict[str, Explanation | None]:
        told: dict[str, Explanation | None] = {}
        for name, (_, runtime) in self._runtimes.items():
            account = runtime.contributions(matrices[name])
            if account is None:
                told[name] = None
                continue
            raw = runtime.raw(matrices[name]).reshape(len(matrices[name]), -1)
            several = raw.shape[1] > 1
            asked = self._manifest.head.explained(name) if several else {name: 0}
            for answer, place in asked.items():
                *shares, base = account.values[:, place].T
                told[f"{name}.{answer}" if several else name] = Explanation(
                    raw[:, place], base, dict(zip(account.names, shares, strict=True))
                )
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
