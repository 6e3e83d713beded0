"""The other kinds of models that are served: a Keras LSTM and an isolation forest, as workloads.

Each takes the boosted model's 40 numbers, so that the same requests ask for all: ten steps of four gauges.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.workload import FEATURES, HEAD, NAMES, SEED, Workload, export_of
from models.isolation import isolation_graph
from models.manifest import Estimator, ServingParts
from pipelines.adapters.signing import Signer

STEPS, CHANNELS = 10, 4
_UNITS = 32
_TREES = 100
_TRAINING_ROWS = 4_000
_TOLERANCE = 1e-4  # of float32 graphs
_OPSET = 17

Raw = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def lstm(folder: Path, signer: Signer) -> Workload:
    """Two LSTM layers over (10, 4) windows, as the model ``bandwidth`` has them; and the same as MLflow saves it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import mlflow.tensorflow
    from mlflow.models import infer_signature

    keras.utils.set_random_seed(SEED)
    window = keras.Input((FEATURES,))
    hidden = keras.layers.Reshape((STEPS, CHANNELS))(window)
    hidden = keras.layers.LSTM(_UNITS, return_sequences=True)(hidden)
    hidden = keras.layers.LSTM(_UNITS // 2)(hidden)
    model = keras.Model(window, keras.layers.Dense(1)(hidden))
    rows = _rows()
    model.compile("adam", "mse")
    model.fit(rows, rows[:, -CHANNELS:].sum(axis=1, keepdims=True), epochs=1, batch_size=256, verbose=0)
    made = _workload(
        folder,
        signer,
        "LSTM",
        lambda file: model.export(str(file), format="onnx", opset_version=_OPSET, verbose=False),
        lambda matrix: model.predict(matrix, verbose=0)[:, 0],
    )
    asked = made.rows[:5].astype(np.float32)
    mlflow.tensorflow.save_model(
        model,
        made.native,
        signature=infer_signature(asked, model.predict(asked, verbose=0)),
        pip_requirements=["tensorflow"],
    )
    return made


def forest(folder: Path, signer: Signer) -> Workload:
    """An isolation forest (Liu, Ting and Zhou, 2008) of 100 trees; and the same as MLflow saves it."""
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=_TREES, random_state=SEED, n_jobs=1).fit(_rows())

    def write(file: Path) -> None:
        file.write_bytes(isolation_graph(model, "rows", _OPSET).SerializeToString())

    made = _workload(folder, signer, "isolation forest", write, model.decision_function)
    asked = made.rows[:5].astype(np.float32)
    mlflow.sklearn.save_model(
        model,
        made.native,
        signature=infer_signature(asked, model.predict(asked)),
        pip_requirements=["scikit-learn"],
        skops_trusted_types=["sklearn.tree._tree.Tree"],
    )
    return made


def _rows() -> NDArray[np.float32]:
    return np.random.default_rng(SEED).normal(size=(_TRAINING_ROWS, FEATURES)).astype(np.float32)


def _workload(folder: Path, signer: Signer, name: str, write: Callable[[Path], None], raw: Raw) -> Workload:
    place = folder / name
    place.mkdir()
    rows = np.random.default_rng(SEED).normal(size=(1000, FEATURES)).round(3)
    rows = rows.astype(np.float32).astype(np.float64)  # what the graph takes, exactly

    def save(part: Path) -> ServingParts:
        write(part / "model.onnx")
        estimator = Estimator(name=HEAD.estimator, runtime="onnx", file="model.onnx", inputs=NAMES)
        return ServingParts((estimator,), HEAD, tolerance=_TOLERANCE)

    answers = np.asarray(raw(rows[:20].astype(np.float32)), dtype=np.float64)
    return Workload(name, place / "mlflow", export_of(place, signer, save, rows[:20], answers), rows)
