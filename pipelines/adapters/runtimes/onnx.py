"""ONNX Runtime, for what Keras and scikit-learn trained."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Estimator
from models.tree_shap import Contributions, TreePaths
from pipelines.errors import ArtifactError


class OnnxRuntime:
    """A graph with one float32 input of shape (n, …); its first output is the raw answer."""

    def __init__(self, estimator: Estimator, folder: Path) -> None:
        import onnxruntime

        file = folder / estimator.file
        options = onnxruntime.SessionOptions()
        # A server answers many requests at once: threads of one would wait for those of another.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's errors share no base of their own
            raise ArtifactError(f"{file} is not a graph that ONNX Runtime takes: {error}") from error
        inputs = self._session.get_inputs()
        wanted = [len(estimator.inputs)] if estimator.shape is None else list(estimator.shape)
        found = [inputs[0].shape[1:], inputs[0].type] if len(inputs) == 1 else [len(inputs), "inputs"]
        if found != [wanted, "tensor(float)"]:
            raise ArtifactError(
                f"{file} takes {found}, but the manifest says rows of shape {wanted} of float32"
            )
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name
        self._paths = _paths(estimator, folder)
        self._single = threading.local()

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        if len(matrix) == 1:
            return self._of_this_thread(matrix).raw(matrix)
        return _flat(self._run(matrix))

    def contributions(self, matrix: NDArray[np.float64]) -> Contributions | None:
        if self._paths is None:
            return None
        seen = self._session.get_outputs()[1].name
        (features,) = self._session.run([seen], {self._input: matrix.astype(np.float32)})
        return self._paths.contributions(features)

    def _run(self, matrix: NDArray[np.float64]) -> NDArray:
        (answer,) = self._session.run([self._output], {self._input: matrix.astype(np.float32)})
        return np.asarray(answer)

    def _of_this_thread(self, matrix: NDArray[np.float64]) -> _SingleRow:
        try:
            found: _SingleRow = self._single.row
        except AttributeError:
            # The graph may leave its output's shape open; what it answers to one row tells.
            found = self._single.row = _SingleRow(
                self._session, self._input, self._output, matrix, self._run(matrix)
            )
        return found


class _SingleRow:
    """One row through buffers that are bound once, which saves most of a small graph's time. For one thread only."""

    def __init__(
        self, session: Any, input_name: str, output_name: str, row: NDArray[np.float64], answer: NDArray
    ) -> None:
        import onnxruntime

        self._session = session
        self._given = onnxruntime.OrtValue.ortvalue_from_numpy(row.astype(np.float32))
        self._answer = onnxruntime.OrtValue.ortvalue_from_numpy(answer.copy())
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(input_name, self._given)
        self._binding.bind_ortvalue_output(output_name, self._answer)

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        self._given.update_inplace(matrix.astype(np.float32))
        self._session.run_with_iobinding(self._binding)
        return _flat(self._answer.numpy())


def _paths(estimator: Estimator, folder: Path) -> TreePaths | None:
    if estimator.paths is None:
        return None
    try:
        return TreePaths.load(folder / estimator.paths)
    except ValueError as error:
        raise ArtifactError(str(error)) from error


def _flat(answer: NDArray) -> NDArray[np.float64]:
    """Float64 of its own memory; one column becomes shape (n,)."""
    values = answer.astype(np.float64)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
