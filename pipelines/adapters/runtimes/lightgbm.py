"""LightGBM's own booster, from its text format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import Estimator
from pipelines.errors import ArtifactError

# Below this, starting threads costs more than they save; and a server runs many requests at once.
_ROWS_WORTH_THREADS = 20_000


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

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        threads = 1 if len(matrix) < _ROWS_WORTH_THREADS else 0  # 0: as many as there are cores
        return np.asarray(
            self._booster.predict(matrix, raw_score=True, num_threads=threads), dtype=np.float64
        )

    def contributions(self, matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
        if self._booster.num_model_per_iteration() > 1:
            return None  # one account per class: none of them is the answer's
        return np.asarray(self._booster.predict(matrix, pred_contrib=True, num_threads=1), dtype=np.float64)
