"""Runtimes that load serving exports without the libraries that trained them."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from models.manifest import Estimator, Manifest
from pipelines.adapters.runtimes.base import EstimatorRuntime, Explanation, Predictor, to_column
from pipelines.adapters.runtimes.rows import Rows

__all__ = ["Explanation", "Predictor", "Rows", "open_runtime", "to_column"]


def open_runtime(manifest: Manifest, folder: Path) -> Predictor:
    """The predictor for an export's model files. Checks no hashes: use ``exports.load_export``.

    Raises:
        ArtifactError: the model files do not fit the manifest.
    """
    return Predictor(
        manifest, {estimator.name: _open(estimator, folder) for estimator in manifest.estimators}
    )


def _open(estimator: Estimator, folder: Path) -> EstimatorRuntime:
    # Imported here: the server starts without them, and a model of one does without the other.
    match estimator.runtime:
        case "lightgbm":
            from pipelines.adapters.runtimes.lightgbm import LightGBMRuntime

            return LightGBMRuntime(estimator, folder)
        case "onnx":
            from pipelines.adapters.runtimes.onnx import OnnxRuntime

            return OnnxRuntime(estimator, folder)
        case unknown:
            assert_never(unknown)
