"""Two models to serve over gRPC, and ways to ask about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from fastapi.testclient import TestClient

from models.manifest import FieldType
from pipelines.adapters.exports import make_sample, write_export
from pipelines.adapters.spool.records import Damage, Record, decode
from pipelines.adapters.spool.segments import streams
from pipelines.settings import Settings
from serving.dataplane import DataPlane
from serving.grpc.messages import REQUESTS, RESPONSES, SERVICE

MAX_ROWS = 50
TINY = {"cpu": ("FP64", 50.0), "latency": ("FP64", 10.0), "cores": ("INT64", 8), "zone": ("BYTES", b"a")}


@dataclass
class Serving:
    """A server of ``tiny`` (LightGBM, numbers and strings, versions 2 and 3) and ``net`` (ONNX, doubles)."""

    settings: Settings
    plane: DataPlane
    http: TestClient
    address: str
    channel: grpc.Channel

    def call(self, method: str, content: Any = b"", *, timeout: float = 30.0, metadata: Any = ()) -> Any:
        """Response of a method to a message, or to bytes as they are."""
        ask = self.channel.unary_unary(f"/{SERVICE}/{method}")
        sent = content if isinstance(content, bytes) else content.SerializeToString()
        return RESPONSES[method].FromString(ask(sent, timeout=timeout, metadata=metadata))

    def refusal(self, method: str, content: Any) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(method, content)
        return caught.value


def write_net(folder: Path) -> None:
    """An ONNX model of three doubles, of which the last may be missing."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from models.heads import ProbabilityHead
    from models.manifest import Estimator, InputField, ServingParts

    names = ("a", "b", "c")
    inputs = tuple(InputField(name=name, type=FieldType.DOUBLE, required=name != "c") for name in names)
    head = ProbabilityHead(slope=1.0, intercept=0.0, alarm_threshold=0.5)
    weights = np.array([[1.0], [-2.0], [3.0]], dtype=np.float32)

    def save(part: Path) -> ServingParts:
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
            [numpy_helper.from_array(weights, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        onnx.save(model, str(part / "net.onnx"))
        estimator = Estimator(
            name=head.estimator, runtime="onnx", file="net.onnx", inputs=names, fill=(0.0, 0.0, 0.5)
        )
        return ServingParts((estimator,), head, tolerance=1e-6)

    columns = {"a": np.array([1.0, 0.5]), "b": np.array([0.2, 0.9]), "c": np.array([np.nan, 0.1])}
    probability = net_probability(columns)
    sample = make_sample(inputs, columns, {"probability": probability, "alarm": probability >= 0.5})
    write_export(folder, save, model="net", inputs=inputs, sample=sample, lineage={})


def net_probability(columns: dict[str, np.ndarray]) -> np.ndarray:
    score = columns["a"] - 2 * columns["b"] + 3 * np.where(np.isnan(columns["c"]), 0.5, columns["c"])
    return 1 / (1 + np.exp(-score))


def tensor(name: str, datatype: str, values: Any) -> triton.InferInput:
    kinds = {
        "FP64": np.float64,
        "FP32": np.float32,
        "INT64": np.int64,
        "INT32": np.int32,
        "BYTES": np.object_,
    }
    array = np.array(values, dtype=kinds[datatype])
    found = triton.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


def rest_answer(serving: Serving, name: str, record: dict[str, Any]) -> dict[str, Any]:
    reply = serving.http.post(f"/models/{name}/predict", json={"records": [record]})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()["predictions"][0]
    return found


def logged(serving: Serving) -> list[Record]:
    return [
        record
        for stream in streams(serving.settings.prediction_spool)
        for segment in stream.segments
        for record in decode(segment.path.read_bytes(), Damage())
    ]


def request_of(columns: dict[str, tuple[str, str, list[Any]]], **given: Any) -> Any:
    """A request with typed contents: ``{input: (datatype, field of the contents, values)}``."""
    request = REQUESTS["ModelInfer"](model_name=given.pop("model_name", "net"), **given)
    for name, (datatype, field, values) in columns.items():
        sent = request.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        getattr(sent.contents, field).extend(values)
    return request


ROW = {name: ("FP64", "fp64_contents", [value]) for name, value in (("a", 1.0), ("b", 2.0), ("c", 0.5))}
