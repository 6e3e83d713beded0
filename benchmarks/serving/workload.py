"""What every server is asked: one boosted model, and the same rows in each server's own shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray

from models.heads import ProbabilityHead
from models.manifest import Estimator, FieldType, InputField, ServingParts
from pipelines.adapters.exports import make_sample, write_export
from pipelines.adapters.signing import Signer

FEATURES = 40
TREES = 300
LEAVES = 31
NAMES = tuple(f"feature_{number:02d}" for number in range(FEATURES))
INPUTS = tuple(InputField(name=name, type=FieldType.DOUBLE, minimum=-100, maximum=100) for name in NAMES)
HEAD = ProbabilityHead(slope=1.1, intercept=-0.2, alarm_threshold=0.5)
MODEL = "bench"

_TRAINING_ROWS = 20_000
_SEED = 20260101


@dataclass(frozen=True)
class Workload:
    """The model as a file and as an export, and rows to ask about.

    Attributes:
        rows: Shape (n, 40).
    """

    model_file: Path
    export: Path
    rows: NDArray[np.float64]


def build(folder: Path, signer: Signer) -> Workload:
    """Train the model and write its export."""
    random = np.random.default_rng(_SEED)
    matrix = random.normal(size=(_TRAINING_ROWS, FEATURES))
    score = matrix[:, :8].sum(axis=1) + matrix[:, 0] * matrix[:, 1] + random.normal(size=_TRAINING_ROWS)
    data = lightgbm.Dataset(matrix, (score > 0).astype(int), feature_name=list(NAMES))
    settings = {"objective": "binary", "num_leaves": LEAVES, "num_threads": 1, "verbosity": -1, "seed": _SEED}
    booster = lightgbm.train(settings, data, TREES)
    model_file = folder / "model.txt"
    booster.save_model(str(model_file))

    def save(part: Path) -> ServingParts:
        booster.save_model(str(part / "model.txt"))
        estimator = Estimator(name=HEAD.estimator, runtime="lightgbm", file="model.txt", inputs=NAMES)
        return ServingParts((estimator,), HEAD, tolerance=1e-9)

    rows = random.normal(size=(1000, FEATURES)).round(6)
    raw = np.asarray(booster.predict(rows[:20], raw_score=True))
    columns = {name: rows[:20, place] for place, name in enumerate(NAMES)}
    answers = HEAD.answer(columns, {HEAD.estimator: raw})
    sample = make_sample(INPUTS, columns, answers)
    export = folder / "export"
    digest = write_export(
        export, save, model=MODEL, inputs=INPUTS, sample=sample, lineage={"seed": str(_SEED)}
    )
    signer.sign(export, digest)
    return Workload(model_file, export, rows)
