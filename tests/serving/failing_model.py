"""An export that reproduces its sample, and fails in its runtime on some rows: those with cpu from 90 on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.heads import ProbabilityHead
from models.manifest import Estimator, FieldType, InputField, ServingParts
from pipelines.adapters.exports import make_sample, manifest_sha256, write_export
from pipelines.adapters.signing import Signer

FAILS_FROM = 90.0

# Those of ``make_export``: the same requests fit both.
_INPUTS = (
    InputField(name="cpu", type=FieldType.DOUBLE, unit="percent", minimum=0, maximum=100),
    InputField(name="latency", type=FieldType.DOUBLE, required=False, unit="ms"),
    InputField(name="cores", type=FieldType.LONG, minimum=1),
    InputField(name="zone", type=FieldType.STRING, required=False, categories=("a", "b")),
)
_SCORES = np.array([[0.0], [1.0]], dtype=np.float32)


def write_failing_model(folder: Path, signing_key: Path) -> Path:
    """Write and sign it."""
    head = ProbabilityHead(slope=1.0, intercept=0.1, alarm_threshold=0.5)

    def save(part: Path) -> ServingParts:
        onnx.save(_graph(), str(part / "net.onnx"))
        estimator = Estimator(
            name=head.estimator, runtime="onnx", file="net.onnx", inputs=("cpu",), fill=(0.0,)
        )
        return ServingParts((estimator,), head, tolerance=1e-5)

    columns = {
        "cpu": np.array([5.0, 50.0, 80.0]),
        "latency": np.array([np.nan, 10.0, 40.0]),
        "cores": np.array([4.0, 8.0, 16.0]),
        "zone": np.array(["a", None, "b"], dtype=object),
    }
    probability = 1 / (1 + np.exp(-(np.array([0.0, 1.0, 1.0]) + 0.1)))
    sample = make_sample(_INPUTS, columns, {"probability": probability, "alarm": probability >= 0.5})
    digest = write_export(folder, save, model="tiny", inputs=_INPUTS, sample=sample, lineage={})
    assert digest == manifest_sha256(folder)
    Signer(signing_key).sign(folder, digest)
    return folder


def _graph() -> onnx.ModelProto:
    """Looks a score up by cpu / 45, in a table of two: from 90 on there is none."""
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["x", "step"], ["d"]),
            helper.make_node("Floor", ["d"], ["f"]),
            helper.make_node("Cast", ["f"], ["i"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["i", "axes"], ["place"]),
            helper.make_node("Gather", ["scores", "place"], ["y"], axis=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(np.array(FAILS_FROM / 2, dtype=np.float32), "step"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
            numpy_helper.from_array(_SCORES, "scores"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
