"""Runtimes that load serving exports without the libraries that trained them."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from models.manifest import Manifest
from pipelines.adapters.runtimes.base import Predictor, to_column

__all__ = ["Predictor", "open_runtime", "to_column"]


def open_runtime(manifest: Manifest, folder: Path) -> Predictor:
    """The predictor for an export's model files. Checks no hashes: use ``exports.load_export``.

    Raises:
        ArtifactError: the model files do not fit the manifest.
    """
    match manifest.runtime:
        case "lightgbm":
            # Imported here: the server starts without it, and other runtimes do without it.
            from pipelines.adapters.runtimes.lightgbm import LightGBMPredictor

            return LightGBMPredictor(manifest, folder)
        case unknown:
            assert_never(unknown)
