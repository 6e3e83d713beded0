"""ONNX Runtime, for what Keras and scikit-learn trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import Estimator
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

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        (answer,) = self._session.run([self._output], {self._input: matrix.astype(np.float32)})
        values = np.asarray(answer, dtype=np.float64)
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values

    def contributions(self, matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return None
