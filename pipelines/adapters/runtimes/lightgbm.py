"""LightGBM's own booster, from its text format."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Estimator
from models.tree_shap import Contributions
from pipelines.errors import ArtifactError

# Below this, starting threads costs more than they save; and a server runs many requests at once.
_ROWS_WORTH_THREADS = 20_000

# So few are answered one after another: as quick as together up to 16 rows (measured with 300 trees), and
# without giving up the interpreter's lock.
_ROWS_ONE_BY_ONE = 8

# Of LightGBM's c_api.h.
_FLOAT64 = 1
_RAW_SCORE = 1
_ALL_ITERATIONS = -1


class LightGBMRuntime:
    """A booster trained on a matrix of floats; answers with raw scores."""

    def __init__(self, estimator: Estimator, folder: Path) -> None:
        import lightgbm

        file = folder / estimator.file
        try:
            booster = lightgbm.Booster(model_file=str(file))
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactError(f"{file} is not a model of LightGBM: {error}") from error
        expected = list(estimator.inputs)
        if booster.feature_name() != expected:
            raise ArtifactError(
                f"{file} takes {booster.feature_name()}, but the manifest's inputs are {expected}: "
                "train with feature_name set to the inputs' names, in their order"
            )
        self._booster = booster
        self._names = estimator.inputs
        self._single = threading.local()

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        if 0 < len(matrix) <= _ROWS_ONE_BY_ONE:
            return self._of_this_thread().raw(matrix)
        threads = 1 if len(matrix) < _ROWS_WORTH_THREADS else 0  # 0: as many as there are cores
        return np.asarray(
            self._booster.predict(matrix, raw_score=True, num_threads=threads), dtype=np.float64
        )

    def contributions(self, matrix: NDArray[np.float64]) -> Contributions | None:
        told = np.asarray(self._booster.predict(matrix, pred_contrib=True, num_threads=1), dtype=np.float64)
        return Contributions(self._names, told.reshape(len(matrix), -1, len(self._names) + 1))

    def _of_this_thread(self) -> _SingleRow:
        try:
            found: _SingleRow = self._single.row
        except AttributeError:
            found = self._single.row = _SingleRow(self._booster)
        return found


class _SingleRow:
    """LightGBM's single-row fast path: settings parsed and buffers found once. For one thread only.

    ``Booster.predict`` spends most of its time on one row before the first tree. The library is
    called without giving up the interpreter's lock: that takes microseconds, and a thread that gives
    it up may wait for milliseconds until it has it back.
    """

    def __init__(self, booster: Any) -> None:
        from lightgbm.basic import _LIB

        self._booster = booster  # owns what the handle below points into
        self._library = ctypes.PyDLL(_LIB._name)
        self._row = np.empty(booster.num_feature(), dtype=np.float64)
        self._answer = np.empty(booster.num_model_per_iteration(), dtype=np.float64)
        self._written = ctypes.c_int64()
        self._handle = ctypes.c_void_p()
        self._checked(
            self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                *(booster._handle, ctypes.c_int(_RAW_SCORE), ctypes.c_int(0), ctypes.c_int(_ALL_ITERATIONS)),
                *(ctypes.c_int(_FLOAT64), ctypes.c_int32(len(self._row)), ctypes.c_char_p(b"num_threads=1")),
                ctypes.byref(self._handle),
            )
        )
        self._predict = self._library.LGBM_BoosterPredictForMatSingleRowFast
        self._arguments = (
            self._handle,
            ctypes.c_void_p(self._row.ctypes.data),
            ctypes.byref(self._written),
            ctypes.c_void_p(self._answer.ctypes.data),
        )

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape (n,), or (n, k), to rows of shape (n, n_inputs)."""
        if matrix.shape[1:] != self._row.shape:  # the library reads as many numbers as it was told
            raise ValueError(f"rows of shape {self._row.shape} are wanted, got {matrix.shape[1:]}")
        answers = (
            np.concatenate([self._of(row) for row in matrix]) if len(matrix) > 1 else self._of(matrix[0])
        )
        return answers if len(self._answer) == 1 else answers.reshape(len(matrix), -1)

    def _of(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        self._row[:] = row
        if self._predict(*self._arguments):
            self._checked(1)
        return self._answer.copy()

    def _checked(self, failed: int) -> None:
        if failed:
            from lightgbm.basic import LightGBMError

            self._library.LGBM_GetLastError.restype = ctypes.c_char_p
            raise LightGBMError(self._library.LGBM_GetLastError().decode())

    def __del__(self) -> None:
        if self._handle:
            self._library.LGBM_FastConfigFree(self._handle)
