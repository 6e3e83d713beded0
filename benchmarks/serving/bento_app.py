"""BentoML's service: an array in, an array out. Runs in BentoML's own environment, without Headrace."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import lightgbm
import numpy as np


@bentoml.service
class Bench:
    def __init__(self) -> None:
        self._booster = lightgbm.Booster(model_file=str(Path(os.environ["BENCH_FOLDER"]) / "model.txt"))

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self._booster.predict(rows, num_threads=1)
