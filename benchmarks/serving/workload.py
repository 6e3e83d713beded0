"""What every server is asked: a boosted model of 40 numbers, and rows to ask about."""

from __future__ import annotations

from collections.abc import Callable
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
BOOSTED = "boosted trees"
SEED = 20260101

_TRAINING_ROWS = 20_000


@dataclass(frozen=True)
class Workload:
    """A model as its library has it and as an export, and rows to ask about.

    Attributes:
        model: What kind it is, for the page.
        native: LightGBM's text; of other kinds, the folder that MLflow saves.
        rows: Shape (n, 40).
    """

    model: str
    native: Path
    export: Path
    rows: NDArray[np.float64]


def build(folder: Path, signer: Signer) -> Workload:
    """Train the model and write its export."""
    random = np.random.default_rng(SEED)
    matrix = random.normal(size=(_TRAINING_ROWS, FEATURES))
    score = matrix[:, :8].sum(axis=1) + matrix[:, 0] * matrix[:, 1] + random.normal(size=_TRAINING_ROWS)
    data = lightgbm.Dataset(matrix, (score > 0).astype(int), feature_name=list(NAMES))
    settings = {"objective": "binary", "num_leaves": LEAVES, "num_threads": 1, "verbosity": -1, "seed": SEED}
    booster = lightgbm.train(settings, data, TREES)
    model_file = folder / "model.txt"
    booster.save_model(str(model_file))

    def save(part: Path) -> ServingParts:
        booster.save_model(str(part / "model.txt"))
        estimator = Estimator(name=HEAD.estimator, runtime="lightgbm", file="model.txt", inputs=NAMES)
        return ServingParts((estimator,), HEAD, tolerance=1e-9)

    rows = random.normal(size=(1000, FEATURES)).round(6)
    raw = np.asarray(booster.predict(rows[:20], raw_score=True))
    return Workload(BOOSTED, model_file, export_of(folder, signer, save, rows[:20], raw), rows)


def export_of(
    folder: Path,
    signer: Signer,
    save: Callable[[Path], ServingParts],
    rows: NDArray[np.float64],
    raw: NDArray[np.float64],
) -> Path:
    """Write and sign an export.

    Args:
        rows: Of its sample, shape (n, 40).
        raw: What the native model says of them, shape (n,).
    """
    columns = {name: rows[:, place] for place, name in enumerate(NAMES)}
    answers = HEAD.answer(columns, {HEAD.estimator: raw})
    sample = make_sample(INPUTS, columns, answers)
    export = folder / "export"
    digest = write_export(
        export, save, model=MODEL, inputs=INPUTS, sample=sample, lineage={"seed": str(SEED)}
    )
    signer.sign(export, digest)
    return export
