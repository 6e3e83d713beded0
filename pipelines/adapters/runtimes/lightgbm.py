"""LightGBM's own booster, with Platt scaling of its raw score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.encoding import encode
from models.manifest import FieldType, Manifest
from pipelines.errors import ArtifactError, InvalidRequestError

MODEL_FILE = "model.txt"

# Below this, starting threads costs more than they save; and a server runs many requests at once.
_ROWS_WORTH_THREADS = 20_000


class LightGBMPredictor:
    """A booster in LightGBM's text format (``model.txt``), trained on a matrix of floats.

    Outputs are ``probability`` (double, calibrated) and ``alarm`` (boolean: the probability
    reaches the manifest's threshold).
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        import lightgbm

        outputs = {field.name: field.type for field in manifest.outputs}
        if outputs != {"probability": FieldType.DOUBLE, "alarm": FieldType.BOOLEAN}:
            raise ArtifactError(
                f"{folder}: outputs {outputs} are not the runtime's: probability (double) and alarm (boolean)"
            )
        try:
            booster = lightgbm.Booster(model_file=str(folder / MODEL_FILE))
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactError(f"{folder / MODEL_FILE} is not a model of LightGBM: {error}") from error
        expected = [field.name for field in manifest.inputs]
        if booster.feature_name() != expected:
            raise ArtifactError(
                f"{folder / MODEL_FILE} takes {booster.feature_name()}, but the manifest's inputs are {expected}: "
                "train with feature_name set to the inputs' names, in their order"
            )
        self._booster = booster
        self._manifest = manifest

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    def predict(self, columns: Mapping[str, NDArray]) -> dict[str, NDArray]:
        matrix = encode(self._checked(columns), self._manifest.inputs)
        threads = 1 if len(matrix) < _ROWS_WORTH_THREADS else 0  # 0: as many as there are cores
        score = np.asarray(
            self._booster.predict(matrix, raw_score=True, num_threads=threads), dtype=np.float64
        )
        calibration = self._manifest.calibration
        # exp(-log(1 + exp(-z))) is the sigmoid of z without overflow at either end.
        probability = np.exp(-np.logaddexp(0.0, -(calibration.slope * score + calibration.intercept)))
        answers = {"probability": probability, "alarm": probability >= self._manifest.alarm_threshold}
        return {field.name: answers[field.name] for field in self._manifest.outputs}

    def _checked(self, columns: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        rows: int | None = None
        for field in self._manifest.inputs:
            if field.name not in columns:
                raise InvalidRequestError(f"input {field.name!r} is absent", field.name)
            shape = np.shape(columns[field.name])
            if len(shape) != 1 or (rows is not None and shape[0] != rows):
                raise InvalidRequestError(
                    f"input {field.name!r} has shape {shape}, one-dimensional arrays of one length are wanted",
                    field.name,
                )
            rows = shape[0]
        return columns
