"""ONNX Runtime's estimator: the graph's own numbers, and refusal of what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.encoding import estimator_matrix
from models.manifest import Estimator, FieldType, InputField
from pipelines.adapters.runtimes.onnx import OnnxRuntime
from pipelines.errors import ArtifactError

INPUTS = tuple(InputField(name=name, type=FieldType.DOUBLE, required=False) for name in ("a", "b", "c", "d"))
NAMES = tuple(field.name for field in INPUTS)


def write_graph(path: Path, shape: tuple[int, ...], outputs: int) -> None:
    """Flattens a row and multiplies it with 0, 1, 2, …"""
    width = int(np.prod(shape))
    weights = np.arange(width * outputs, dtype=np.float32).reshape(width, outputs)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, str(path))


def estimator(**more: object) -> Estimator:
    return Estimator(name="net", runtime="onnx", file="net.onnx", inputs=NAMES, **more)


def test_rows_are_filled_shaped_and_answered(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx", (2, 2), 1)
    shaped = estimator(shape=(2, 2), fill=(0.0, 0.0, 0.0, 5.0))
    columns = {name: np.array([1.0, 2.0]) for name in NAMES} | {"d": np.array([np.nan, 1.0])}
    matrix = estimator_matrix(columns, INPUTS, shaped)
    assert matrix.shape == (2, 2, 2)
    answers = OnnxRuntime(shaped, tmp_path).raw(matrix)
    np.testing.assert_allclose(answers, [0 + 1 + 2 + 15, 0 + 2 + 4 + 3])
    assert answers.dtype == np.float64


def test_several_outputs_keep_their_shape(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx", (4,), 3)
    assert OnnxRuntime(estimator(), tmp_path).raw(np.ones((5, 4))).shape == (5, 3)


def test_a_graph_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx", (3,), 1)
    with pytest.raises(ArtifactError, match=r"\[3\].*rows of shape \[4\]"):
        OnnxRuntime(estimator(), tmp_path)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match="not a graph"):
        OnnxRuntime(estimator(), tmp_path)
