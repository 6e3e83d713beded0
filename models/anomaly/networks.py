"""The estimators that are trained: an autoencoder and an isolation forest, and their ONNX graphs.

Both see the *state* of a row (:func:`models.anomaly.signals.state`): z-scores against the profile
of the row's machine. In the exported graphs the profiles are tables that the machine's number looks
up, so that a server hands over nothing but inputs. TensorFlow and scikit-learn are imported inside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.anomaly.signals import Array, Usual
from models.isolation import SCORES, isolation_graph

if TYPE_CHECKING:
    import keras
    from sklearn.ensemble import IsolationForest

#: States beyond say no more; the same in training and in the graphs.
LARGEST_STATE = 5.0
_BATCH = 256
_EPOCHS = 30
_PATIENCE = 3
_HELD_OUT = 0.15
_TREES = 100
_ROWS_A_TREE = 512
_OPSET = 15
# Parts of a state: level from two sides, spread, movement.
_PARTS = 4


@dataclass(frozen=True)
class Shape:
    """How a row's inputs lie in the matrix of an estimator: machine, lags by metric, references.

    Attributes:
        metrics: How many.
        lags: How many a metric.
        level_steps: How many of them the level is the mean of.
        has_key: Whether the first column is the machine's number.
        has_reference: Whether the last columns are the means of the last hours.
    """

    metrics: int
    lags: int
    level_steps: int
    has_key: bool
    has_reference: bool

    @property
    def width(self) -> int:
        return int(self.has_key) + self.metrics * (self.lags + int(self.has_reference))


def fit_autoencoder(state: Array, width: int, bottleneck: int, seed: int) -> keras.Model:
    """An autoencoder of states whose output is the residual by metric, shape (n, k).

    Stops when states that it does not learn of are no longer rebuilt better.
    """
    import keras

    keras.utils.set_random_seed(seed)
    size = state.shape[1]
    given = keras.Input((size,), name="state")
    hidden = keras.layers.Dense(width, activation="relu")(given)
    code = keras.layers.Dense(bottleneck)(hidden)
    rebuilt = keras.layers.Dense(size)(keras.layers.Dense(width, activation="relu")(code))
    squares = keras.ops.reshape(keras.ops.square(given - rebuilt), (-1, _PARTS, size // _PARTS))
    residual = keras.ops.sqrt(keras.ops.mean(squares, axis=1) + 1e-6)
    model = keras.Model(given, residual)
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3, clipnorm=1.0),
        loss=lambda _, output: keras.ops.mean(keras.ops.square(output), axis=-1),
    )
    shuffled = np.random.default_rng(seed).permutation(state).astype(np.float32)
    nothing = np.zeros((len(shuffled), size // _PARTS), dtype=np.float32)
    model.fit(
        shuffled,
        nothing,
        batch_size=_BATCH,
        epochs=_EPOCHS,
        validation_split=_HELD_OUT,
        callbacks=[keras.callbacks.EarlyStopping(patience=_PATIENCE, restore_best_weights=True)],
        verbose=0,
    )
    return model


def fit_forest(state: Array, seed: int) -> IsolationForest:
    """An isolation forest of states (Liu, Ting and Zhou, 2008)."""
    from sklearn.ensemble import IsolationForest

    return IsolationForest(
        n_estimators=_TREES, max_samples=min(_ROWS_A_TREE, len(state)), random_state=seed, n_jobs=1
    ).fit(state.astype(np.float32))


def write_autoencoder(
    model: keras.Model, shape: Shape, usual: Sequence[Usual], resolution: Array, file: Path
) -> None:
    """The graph from inputs to residuals."""
    import keras

    given, state = _state_graph(shape, usual, resolution)
    _export(keras.Model(given, model(state)), file)


def write_forest(
    forest: IsolationForest, shape: Shape, usual: Sequence[Usual], resolution: Array, file: Path
) -> None:
    """The graph from inputs to the forest's answers."""
    import keras
    import onnx

    trees = isolation_graph(forest, "state", _OPSET)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "state.onnx"
        given, state = _state_graph(shape, usual, resolution)
        _export(keras.Model(given, state), part)
        states = onnx.compose.add_prefix(onnx.load(part), "state_")
    trees = onnx.compose.add_prefix(trees, "forest_")
    states.ir_version = trees.ir_version = min(states.ir_version, trees.ir_version)
    versions = {entry.domain: entry.version for entry in (*states.opset_import, *trees.opset_import)}
    for part_model in (states, trees):
        del part_model.opset_import[:]
        part_model.opset_import.extend(onnx.helper.make_opsetid(*pair) for pair in versions.items())
    joined = onnx.compose.merge_models(
        states,
        trees,
        io_map=[(states.graph.output[0].name, trees.graph.input[0].name)],
        outputs=[f"forest_{SCORES}"],
    )
    onnx.save(joined, file)


def _export(model: Any, file: Path) -> None:
    model(np.zeros((1, *model.input_shape[1:]), dtype=np.float32))  # what was never called cannot be exported
    model.export(str(file), format="onnx", opset_version=_OPSET, verbose=False)


def _state_graph(shape: Shape, usual: Sequence[Usual], resolution: Array) -> tuple[Any, Any]:
    """Input and state as Keras tensors: the arithmetic of ``signals.measure`` and ``signals.state``.

    Lags and references are taken relative to the machine's usual level first: single precision
    would lose what small changes of large numbers say.
    """
    import keras
    from keras import ops

    k, s = shape.metrics, shape.lags
    given = keras.Input((shape.width,), name="inputs")
    values = given[:, int(shape.has_key) :]
    if shape.has_key:
        fleet = float(len(usual) - 1)
        number = ops.where(ops.isnan(given[:, 0]), fleet, given[:, 0])
    else:
        number = ops.zeros_like(given[:, 0])
    row = ops.take(np.stack([_table(each) for each in usual]), ops.cast(number, "int32"), axis=0)
    centre, scale, shift, trailing_scale, spread, spread_scale, movement, movement_scale = (
        row[:, part * k : (part + 1) * k] for part in range(8)
    )
    lags = ops.reshape(values[:, : k * s], (-1, k, s))
    known = ops.cast(ops.logical_not(ops.isnan(lags)), "float32")
    moved = (ops.where(ops.isnan(lags), 0.0, lags) - ops.expand_dims(centre, 2)) * known

    newest = slice(0, shape.level_steps)
    is_known = ops.sum(known[:, :, newest], axis=2) > 0
    level = _graph_mean(moved[:, :, newest], known[:, :, newest])
    static = ops.where(is_known, level / scale, 0.0)
    # Without references the departure is from zero, as in the head. What is missing is made a number
    # before it is reckoned with, not after.
    given_reference = values[:, k * s :] if shape.has_reference else ops.zeros_like(level)
    is_missing = ops.isnan(given_reference)
    reference = ops.where(is_missing, 0.0, given_reference) - centre
    departure = (level - reference - shift) / trailing_scale
    trailing = ops.where(ops.logical_or(is_missing, ops.logical_not(is_known)), 0.0, departure)

    middle = ops.expand_dims(_graph_mean(moved, known), 2)
    deviation = ops.sqrt(_graph_mean(ops.square(moved - middle) * known, known))
    enough = ops.sum(known, axis=2) >= 3
    if s > 1:
        pairs = known[:, :, 1:] * known[:, :, :-1]
        steps = _graph_mean(ops.abs(moved[:, :, 1:] - moved[:, :, :-1]) * pairs, pairs)
        stepped = ops.logical_and(enough, ops.sum(pairs, axis=2) > 0)
    else:
        steps, stepped = deviation, enough
    small = resolution.astype(np.float32)
    activity = [
        ops.where(there, (ops.log(figure + small) - usually) / by, 0.0)
        for figure, there, usually, by in (
            (deviation, enough, spread, spread_scale),
            (steps, stepped, movement, movement_scale),
        )
    ]
    state = ops.concatenate([static, trailing, *activity], axis=1)
    return given, ops.clip(state, -LARGEST_STATE, LARGEST_STATE)


def _graph_mean(values: Any, known: Any) -> Any:
    from keras import ops

    return ops.sum(values, axis=2) / ops.maximum(ops.sum(known, axis=2), 1.0)


def _table(usual: Usual) -> Array:
    """One machine's row of the table that the graph looks up."""
    return np.concatenate(
        [
            usual.static.centre,
            usual.static.scale,
            usual.trailing.centre,
            usual.trailing.scale,
            *usual.spread,
            *usual.movement,
        ]
    ).astype(np.float32)
