"""Two LSTM layers over the last ten steps of CPU, memory, disk and network.

The network takes plain inputs: filling of gaps, sums over gauges and scaling are layers of it, so
that the exported graph takes what callers send. It says three quantiles of the logarithm of the
traffic to come, relative to that of the newest step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bandwidth.signals import Wiring

STEPS, CHANNELS = 10, 4
BATCH = 512
ANSWER_BATCH = 8192
PATIENCE_EPOCHS = 3
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Examples:
    """What the network learns from, or stops by.

    Attributes:
        windows: Shape (n, STEPS, gauges), float32; NaN for missing.
        target: Logarithm of the traffic to come less that of the newest step, shape (n,).
        weight: Shape (n,).
    """

    windows: NDArray[np.float32]
    target: NDArray[np.float64]
    weight: NDArray[np.float64]


class Network:
    """A trained network."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def raw(self, windows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Quantiles of the logarithm's change, shape (n, quantiles)."""
        answer = self._model.predict(windows, batch_size=ANSWER_BATCH, verbose=0)
        return np.asarray(answer, dtype=np.float64)

    def write_graph(self, file: Path) -> None:
        """Write the network, scaling included, as an ONNX graph."""
        self._model.export(str(file), format="onnx", verbose=False)

    def sensitivity(self, windows: NDArray[np.float32], middle: int) -> NDArray[np.float64]:
        """Share of each input in the middle quantile, shape (STEPS * gauges,): |gradient| times spread."""
        import tensorflow as tf

        given = tf.convert_to_tensor(np.nan_to_num(windows))
        with tf.GradientTape() as tape:
            tape.watch(given)
            answer = self._model(given)[:, middle]
        slope = np.abs(tape.gradient(answer, given).numpy()).mean(axis=0)
        moved = (slope * np.nanstd(windows, axis=0)).ravel()
        return np.asarray(moved / max(float(moved.sum()), np.finfo(float).tiny), dtype=np.float64)


def train(
    learn: Examples,
    stop: Examples,
    wiring: Wiring,
    quantiles: Sequence[float],
    *,
    units: int,
    dropout: float,
    learning_rate: float,
    epochs: int,
    seed: int,
) -> Network:
    """Train by the pinball loss; the weights of the epoch that did best on ``stop`` are kept.

    TensorFlow is switched to deterministic operations for the whole process: the same examples and
    seed give the same network on the same machine.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow reports each missing GPU
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = _layers(keras, learn.windows.shape[1:], wiring, len(quantiles), units, dropout)
    levels = np.asarray(quantiles, dtype=np.float32)

    def pinball(truth: Any, answer: Any) -> Any:
        above = truth - answer
        return keras.ops.mean(keras.ops.maximum(levels * above, (levels - 1) * above), axis=-1)

    model.compile(keras.optimizers.Adam(learning_rate, clipnorm=LARGEST_GRADIENT), loss=pinball)
    model.fit(
        learn.windows,
        learn.target[:, None].astype(np.float32),
        sample_weight=learn.weight,
        validation_data=(stop.windows, stop.target[:, None].astype(np.float32), stop.weight),
        epochs=epochs,
        batch_size=BATCH,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=PATIENCE_EPOCHS, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1),
        ],
    )
    return Network(model)


def _layers(
    keras: Any, shape: tuple[int, ...], wiring: Wiring, outputs: int, units: int, dropout: float
) -> Any:
    ops, disks, unit = keras.ops, len(wiring.disk), wiring.unit

    class Channels(keras.layers.Layer):
        """Gauges to CPU, memory, disk and network: gaps take the window's mean, disks and traffic are added up."""

        def call(self, gauges: Any) -> Any:
            missing = ops.isnan(gauges)
            known = ops.where(missing, 0.0, gauges)
            count = ops.sum(ops.cast(ops.logical_not(missing), "float32"), axis=1, keepdims=True)
            mean = ops.sum(known, axis=1, keepdims=True) / ops.maximum(count, 1.0)
            filled = ops.maximum(ops.where(missing, mean, gauges), 0.0)
            disk = (
                ops.sum(filled[:, :, 2 : 2 + disks], axis=2, keepdims=True)
                if disks
                else filled[:, :, :1] * 0.0
            )
            traffic = ops.sum(filled[:, :, 2 + disks :], axis=2, keepdims=True)
            return ops.concatenate([filled[:, :, :2], disk, traffic], axis=2)

    class Scaling(keras.layers.Layer):
        """Logarithms relative to the newest step and to the window's own level."""

        def call(self, channels: Any) -> Any:
            units = np.array([1.0, 1.0, 1.0, unit], dtype=np.float32)
            # log(1 + x) and not log1p, which has no counterpart in ONNX.
            logarithm = ops.log(1.0 + channels / units)
            now, centre = logarithm[:, -1:, :], ops.mean(logarithm, axis=1, keepdims=True)
            level = ops.broadcast_to(centre[:, :, 3:] / 5.0, ops.shape(logarithm[:, :, :1]))
            return ops.concatenate(
                [logarithm - now, logarithm - centre, channels[:, :, :1] / 100.0, level], axis=2
            )

    gauges = keras.Input(shape)
    hidden = Scaling()(Channels()(gauges))
    hidden = keras.layers.LSTM(units, return_sequences=True)(hidden)
    hidden = keras.layers.Dropout(dropout)(hidden)
    hidden = keras.layers.LSTM(units // 2)(hidden)
    hidden = keras.layers.Dropout(dropout)(hidden)
    hidden = keras.layers.Dense(16, activation="relu")(hidden)
    return keras.Model(gauges, keras.layers.Dense(outputs)(hidden))
