"""The Open Inference Protocol over gRPC, by Triton's own client and by hand."""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from fastapi.testclient import TestClient
from google.protobuf.descriptor import FieldDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from models.manifest import FieldType
from pipelines.adapters.exports import make_sample, manifest_sha256, write_export
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Signer, Trust
from pipelines.adapters.spool.records import Damage, Record, decode
from pipelines.adapters.spool.segments import streams
from pipelines.errors import ProcessError
from pipelines.settings import Settings, load_settings
from serving.app import create_app
from serving.cache import Served, VersionCache
from serving.dataplane import DataPlane
from serving.grpc.messages import METHODS, POOL, REQUESTS, RESPONSES, SERVICE
from serving.grpc.server import _THREADS, GrpcServer
from serving.grpc.tensors import response_of

pytestmark = pytest.mark.integration  # two models, and a server on a port

NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once
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


@pytest.fixture(scope="module")
def serving(
    make_export: Callable[..., Path],
    signing_key: Path,
    trusted_keys: str,
    tmp_path_factory: pytest.TempPathFactory,
    wait_until: Callable[..., None],
) -> Iterator[Serving]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = load_settings(
        {},
        home=tmp_path_factory.mktemp("home"),
        trusted_keys=trusted_keys,
        serving_max_rows=MAX_ROWS,
        serving_max_body_bytes=100_000,
        serving_grpc_port=port,
        serving_replica="one",
        prediction_log_flush_seconds=0.01,
    )
    folder = settings.home / "serving"
    make_export(folder / "tiny" / "2", slope=2.0)
    make_export(folder / "tiny" / "3", slope=3.0)
    write_net(folder / "net" / "1")
    Signer(signing_key).sign(folder / "net" / "1", manifest_sha256(folder / "net" / "1"))
    served = [("tiny", "production", "2"), ("tiny", "challenger", "3"), ("net", "production", "1")]
    VersionCache(folder, Trust.of(settings)).note(
        Served(
            name=name, alias=alias, version=version, manifest_sha256=manifest_sha256(folder / name / version)
        )
        for name, alias, version in served
    )
    app = create_app(settings, Registry(NOBODY))
    server = GrpcServer(app.plane, app.repository, settings)
    app.transports.append(server)
    with TestClient(app, raise_server_exceptions=False) as http:
        wait_until(lambda: http.get("/v2/health/ready").status_code == 200)
        address = f"127.0.0.1:{port}"
        with grpc.insecure_channel(address) as channel:
            yield Serving(settings, app.plane, http, address, channel)


@pytest.fixture(name="wait_until", scope="module")
def wait_until_for_module() -> Callable[..., None]:
    from tests.serving.conftest import wait_until

    return wait_until


@pytest.fixture
def client(serving: Serving) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(serving.address) as client:
        yield client


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


# The protocol's messages


def test_our_messages_are_those_of_tritons_client() -> None:
    """Every field that its generated module knows has the same number, type and place in ours."""

    def fields(descriptor: Any) -> dict[str, Any]:
        return {
            field.name: (
                field.number,
                field.type,
                field.is_repeated,
                field.containing_oneof is not None,
                field.message_type.full_name if field.type == FieldDescriptor.TYPE_MESSAGE else None,
            )
            for field in descriptor.fields
        }

    def compare(theirs: Any) -> None:
        ours = POOL.FindMessageTypeByName(theirs.full_name)
        assert fields(theirs).items() <= fields(ours).items(), theirs.full_name
        assert ours.GetOptions().map_entry == theirs.GetOptions().map_entry
        for nested in theirs.nested_types:
            compare(nested)

    messages = service_pb2.DESCRIPTOR.message_types_by_name
    for method in METHODS:
        compare(messages[f"{method}Request"])
        compare(messages[f"{method}Response"])
    for name in ("InferParameter", "ModelRepositoryParameter", "InferTensorContents"):
        compare(messages[name])


# Triton's client


def test_live_ready_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "3")
    assert client.get_server_metadata().name == "headrace"
    found = client.get_model_metadata("tiny", as_json=True)
    assert (found["name"], found["versions"], found["platform"]) == ("tiny", ["2", "3"], "headrace_lightgbm")
    assert [(each["name"], each["datatype"], each["shape"]) for each in found["inputs"]] == [
        (name, datatype, ["-1"]) for name, (datatype, _) in TINY.items()
    ]
    assert [(each["name"], each["datatype"]) for each in found["outputs"]] == [
        ("probability", "FP64"),
        ("alarm", "BOOL"),
    ]


def test_metadata_says_units_ranges_and_what_may_be_missing(serving: Serving) -> None:
    found = serving.call("ModelMetadata", REQUESTS["ModelMetadata"](name="tiny"))
    cpu, latency, _, zone = found.inputs
    assert cpu.parameters["maximum"].double_param == 100
    assert cpu.parameters["unit"].string_param == "percent"
    assert cpu.parameters["required"].bool_param
    assert not latency.parameters["required"].bool_param
    assert zone.parameters["categories"].string_param == "a, b"
    assert found.parameters["version"].string_param == "2"


def test_what_is_not_loaded_is_not_found(client: triton.InferenceServerClient) -> None:
    for name, version in (("nothing", ""), ("tiny", "7"), ("", "")):
        with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
            client.get_model_metadata(name, version)
        with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
            client.is_model_ready(name, version)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_tensors_in_raw_contents_get_the_answer_that_rest_gives(
    serving: Serving, client: triton.InferenceServerClient, shape: tuple[int, ...]
) -> None:
    inputs = [tensor(name, kind, np.full(shape, value)) for name, (kind, value) in TINY.items()]
    answer = client.infer("tiny", inputs, request_id="mine")
    rest = rest_answer(serving, "tiny", {"cpu": 50, "latency": 10, "cores": 8, "zone": "a"})
    assert answer.as_numpy("probability").tolist() == [rest["probability"]]
    assert answer.as_numpy("alarm").tolist() == [rest["alarm"]]
    told = answer.get_response()
    assert (told.model_name, told.model_version, told.id) == ("tiny", "2", "mine")
    assert uuid.UUID(told.parameters["prediction_ids"].string_param).version == 7


def test_doubles_alone_take_the_short_way_to_the_same_answer(client: triton.InferenceServerClient) -> None:
    random = np.random.default_rng(0)
    columns = {name: random.normal(size=7) for name in "abc"}
    columns["c"][3] = np.nan
    inputs = [tensor(name, "FP64", columns[name]) for name in "cab"]
    answer = client.infer("net", inputs)
    np.testing.assert_allclose(answer.as_numpy("probability"), net_probability(columns), atol=1e-6)
    ids = answer.get_response().parameters["prediction_ids"].string_param.split(",")
    assert len(set(ids)) == 7
    singles = [tensor(name, "FP64" if name == "b" else "FP32", columns[name]) for name in "abc"]
    np.testing.assert_allclose(
        client.infer("net", singles).as_numpy("probability"), net_probability(columns), atol=1e-5
    )
    without = [tensor(name, "FP64", columns[name]) for name in "ab"]
    np.testing.assert_allclose(
        client.infer("net", without).as_numpy("probability"),
        net_probability(columns | {"c": np.full(7, np.nan)}),
        atol=1e-6,
    )


def test_a_version_and_outputs_may_be_named(client: triton.InferenceServerClient) -> None:
    inputs = [tensor(name, kind, [value]) for name, (kind, value) in TINY.items()]
    answer = client.infer("tiny", inputs, "3", outputs=[triton.InferRequestedOutput("alarm")])
    told = answer.get_response()
    assert told.model_version == "3"
    assert [output.name for output in told.outputs] == ["alarm"]


def test_an_output_that_the_model_does_not_have_is_refused(client: triton.InferenceServerClient) -> None:
    asked = [triton.InferRequestedOutput("x")]
    for model, inputs in (
        ("tiny", [tensor(name, kind, [value]) for name, (kind, value) in TINY.items()]),
        ("net", [tensor(name, "FP64", [1.0]) for name in "abc"]),
    ):
        with pytest.raises(triton.InferenceServerException, match=r"INVALID_ARGUMENT.*no output 'x'"):
            client.infer(model, inputs, outputs=asked)


@pytest.mark.parametrize("outputs", [["alarm"], ["alarm", "probability"], ["alarm", "alarm"]])
def test_outputs_come_in_the_order_in_which_they_are_asked(
    client: triton.InferenceServerClient, outputs: list[str]
) -> None:
    inputs = [tensor(name, "FP64", [1.0]) for name in "abc"]
    asked = [triton.InferRequestedOutput(name) for name in outputs]
    told = client.infer("net", inputs, outputs=asked).get_response()
    assert [output.name for output in told.outputs] == outputs


def test_the_repository_follows_the_registry(client: triton.InferenceServerClient) -> None:
    found = client.get_model_repository_index(as_json=True)["models"]
    assert [(each["name"], each["version"], each["state"]) for each in found] == [
        ("net", "1", "READY"),
        ("tiny", "3", "READY"),
        ("tiny", "2", "READY"),
    ]
    client.load_model("tiny")
    with pytest.raises(triton.InferenceServerException, match=r"INVALID_ARGUMENT.*stays loaded"):
        client.unload_model("tiny")
    client.unload_model("nothing")


# By hand


def request_of(columns: dict[str, tuple[str, str, list[Any]]], **given: Any) -> Any:
    """A request with typed contents: ``{input: (datatype, field of the contents, values)}``."""
    request = REQUESTS["ModelInfer"](model_name=given.pop("model_name", "net"), **given)
    for name, (datatype, field, values) in columns.items():
        sent = request.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        getattr(sent.contents, field).extend(values)
    return request


ROW = {name: ("FP64", "fp64_contents", [value]) for name, value in (("a", 1.0), ("b", 2.0), ("c", 0.5))}


def test_typed_contents_are_answered_with_typed_contents(serving: Serving) -> None:
    answer = serving.call("ModelInfer", request_of(ROW))
    probability, alarm = answer.outputs
    assert not answer.raw_output_contents
    wanted = net_probability({name: np.array(values) for name, (_, _, values) in ROW.items()})
    assert list(probability.contents.fp64_contents) == pytest.approx(wanted.tolist(), abs=1e-6)
    assert list(alarm.contents.bool_contents) == [bool(wanted[0] >= 0.5)]
    tiny = {
        "cpu": ("FP32", "fp32_contents", [50.0]),
        "cores": ("UINT8", "uint_contents", [8]),
        "zone": ("BYTES", "bytes_contents", [b"a"]),
    }
    rest = rest_answer(serving, "tiny", {"cpu": 50, "latency": None, "cores": 8, "zone": "a"})
    told = serving.call("ModelInfer", request_of(tiny, model_name="tiny"))
    assert list(told.outputs[0].contents.fp64_contents) == [rest["probability"]]


def test_nan_is_a_missing_number_in_either_form_of_contents(serving: Serving) -> None:
    for model, row in (
        ("net", ROW | {"c": ("FP64", "fp64_contents", [float("nan")])}),
        (
            "tiny",
            {
                "cpu": ("FP64", "fp64_contents", [50.0]),
                "latency": ("FP32", "fp32_contents", [float("nan")]),
                "cores": ("INT32", "int_contents", [8]),
            },
        ),
    ):
        given = serving.call("ModelInfer", request_of(row, model_name=model))
        left_out = {name: column for name, column in row.items() if name not in {"c", "latency"}}
        without = serving.call("ModelInfer", request_of(left_out, model_name=model))
        assert given.outputs[0].contents.fp64_contents == without.outputs[0].contents.fp64_contents


def test_text_outputs_are_bytes() -> None:
    fields = [
        SimpleNamespace(name="action", type=FieldType.STRING),
        SimpleNamespace(name="n", type=FieldType.LONG),
    ]
    version = SimpleNamespace(
        name="m", version="1", predictor=SimpleNamespace(manifest=SimpleNamespace(outputs=fields))
    )
    outputs = {"action": np.array(["grow", "ünï"], dtype=object), "n": np.array([1.0, 2.0])}
    answer = SimpleNamespace(asked=["action", "n"], outputs=outputs, prediction_ids=["i", "k"])
    typed = response_of(version, answer, "x", raw=False)  # type: ignore[arg-type]
    assert list(typed.outputs[0].contents.bytes_contents) == [b"grow", "ünï".encode()]
    assert list(typed.outputs[1].contents.int64_contents) == [1, 2]
    raw = response_of(version, answer, "x", raw=True)  # type: ignore[arg-type]
    result = triton.InferResult(service_pb2.ModelInferResponse.FromString(raw.SerializeToString()))
    assert result.as_numpy("action").tolist() == [b"grow", "ünï".encode()]
    assert result.as_numpy("n").tolist() == [1, 2]


def test_each_answer_is_in_the_log_and_in_the_metrics(
    serving: Serving, wait_until: Callable[..., None]
) -> None:
    metric = 'headrace_requests_total{code="200",model="net",transport="grpc",version="1"}'

    def counted() -> float:
        lines = [line for line in serving.http.get("/metrics").text.splitlines() if line.startswith(metric)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    before = counted()
    answer = serving.call("ModelInfer", request_of(ROW, id="for the log"))
    (identity,) = answer.parameters["prediction_ids"].string_param.split(",")
    assert counted() == before + 1
    wait_until(lambda: any(record.ids[0] == identity for record in logged(serving)))
    (record,) = (record for record in logged(serving) if record.ids[0] == identity)
    assert (record.layout.model, record.layout.version, record.layout.alias) == ("net", "1", "production")
    assert (record.layout.transport, record.request_id, record.entities) == ("grpc", "for the log", None)
    assert record.features.tolist() == [[1.0, 2.0, 0.5]]
    assert record.outputs[0, 0] == answer.outputs[0].contents.fp64_contents[0]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (lambda row: row.pop("a"), "a", "'a' is missing"),
        (lambda row: row.update(a=("FP64", "fp64_contents", [1.0, 2.0])), "b", "'b' has 1 rows, 'a' has 2"),
        (lambda row: row.update(a=("FP64", "fp64_contents", [float("nan")])), "a", "'a': row 0 has nan"),
        (lambda row: row.update(a=("FP64", "fp64_contents", [float("inf")])), "a", "'a': row 0 has inf"),
        (lambda row: row.update(a=("FP64", "fp32_contents", [1.0])), "a", "'a'.* 0 values"),
        (
            lambda row: row.update(a=("BYTES", "bytes_contents", [b"1"])),
            "a",
            "datatype 'BYTES', FP64 is wanted",
        ),
        (
            lambda row: row.update(a=("FP16", "bytes_contents", [b"11"])),
            "a",
            "belong into raw_input_contents",
        ),
        (lambda row: row.update(d=row["a"]), "d", "which the model does not take"),
        (lambda row: row.clear(), "inputs", "inputs is empty"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_field_is_named(
    serving: Serving, change: Callable[[dict[str, Any]], Any], field: str, words: str
) -> None:
    row = dict(ROW)
    change(row)
    error = serving.refusal("ModelInfer", request_of(row))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(words, error.details())
    assert dict(error.trailing_metadata())["headrace-field"] == field


def test_raw_contents_that_do_not_fit_are_refused(serving: Serving) -> None:
    def raw(contents: list[bytes], shape: tuple[int, ...] = (1,), **more: Any) -> Any:
        request = REQUESTS["ModelInfer"](model_name="net", raw_input_contents=contents, **more)
        for name in "abc":
            request.inputs.add(name=name, datatype="FP64", shape=shape)
        return request

    eight = bytes(8)
    cases = {
        "raw_input_contents has 2 elements for 3 inputs": raw([eight, eight]),
        "has 7 bytes of data, 8 are wanted": raw([eight, eight, bytes(7)]),
        "has 8 bytes of data, 16 are wanted": raw([eight] * 3, (2,)),
        "has shape \\[1, 2\\]": raw([bytes(16)] * 3, (1, 2)),
        "has shape \\[\\]": raw([eight] * 3, ()),
        "give at least one row": raw([b""] * 3, (0,)),
        "at most 50 are taken": raw([bytes(8 * 51)] * 3, (51,)),
    }
    for words, request in cases.items():
        error = serving.refusal("ModelInfer", request)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, words
        assert re.search(words, error.details())
    both = raw([eight] * 3)
    both.inputs[0].contents.fp64_contents.append(1.0)
    assert serving.call("ModelInfer", raw([eight] * 3)).model_name == "net"
    assert "shared memory" in serving.refusal("ModelInfer", _shared(raw([]))).details()


def _shared(request: Any) -> Any:
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    return request


def test_bytes_that_are_no_message_are_the_clients_error(serving: Serving) -> None:
    for method in METHODS:
        error = serving.refusal(method, b"\xff\xff\xff")
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"no {method}Request" in error.details()


def test_other_methods_and_messages_beyond_the_limit_are_refused(serving: Serving) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        serving.channel.unary_unary(f"/{SERVICE}/ModelConfig")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    error = serving.refusal("ModelInfer", bytes(100_001))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_request_whose_deadline_passed_while_it_waited_is_not_answered(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    free, find, asked = Event(), serving.plane.find, []

    def held(name: str, version: str | None = None) -> Any:
        asked.append(name)
        free.wait(30)
        return find(name, version)

    monkeypatch.setattr(serving.plane, "find", held)
    ask = serving.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    content = request_of(ROW).SerializeToString()
    under_way = [ask.future(content, timeout=30) for _ in range(_THREADS)]
    try:
        wait_until(lambda: len(asked) == _THREADS)
        with pytest.raises(grpc.RpcError) as caught:
            ask(content, timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        free.set()
    assert all(RESPONSES["ModelInfer"].FromString(each.result()).model_name == "net" for each in under_way)
    serving.call("ModelInfer", request_of(ROW))
    assert len(asked) == _THREADS + 1


CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=3),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
        "int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        "uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=3),
        "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=3),
        "fp32_contents": st.lists(st.floats(width=32), max_size=3),
        "fp64_contents": st.lists(st.floats(), max_size=3),
        "bytes_contents": st.lists(st.binary(max_size=5), max_size=3),
    },
)
DATATYPE = st.sampled_from(["FP64", "FP32", "FP16", "INT64", "INT8", "UINT64", "BOOL", "BYTES", "FP65", ""])
SHAPE = st.lists(st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 51, 2**31, 2**63 - 1]), max_size=3)
PARAMETERS = st.dictionaries(
    st.text(max_size=5), st.sampled_from([{"int64_param": 1}, {"string_param": "x"}, {}]), max_size=2
)


@st.composite
def inferences(draw: st.DrawFn) -> Any:
    model = draw(st.sampled_from(["net", "tiny"]))
    known = list("abc") if model == "net" else list(TINY)
    names = draw(st.one_of(st.just(known), st.lists(st.sampled_from([*known, "x", ""]), max_size=5)))
    request = REQUESTS["ModelInfer"](model_name=model, id=draw(st.text(max_size=3)))
    for name in names:
        datatype = draw(st.just("FP64") | DATATYPE)
        request.inputs.add(
            name=name, datatype=datatype, shape=draw(st.just([1]) | SHAPE), contents=draw(CONTENTS)
        )
    for name in draw(st.lists(st.sampled_from(["probability", "alarm", "x"]), max_size=2)):
        request.outputs.add(name=name)
    raw = st.lists(
        st.sampled_from([bytes(8), bytes(7), b"\x01\0\0\0a", b"\xff" * 8, b"", bytes(16)]), max_size=5
    )
    request.raw_input_contents.extend(draw(st.just([]) | st.just([bytes(8)] * len(names)) | raw))
    return request


@examples(max_examples=150)
@given(inferences())
def test_no_request_makes_the_server_fail(serving: Serving, request: Any) -> None:
    try:
        serving.call("ModelInfer", request)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error  # noqa: PT017
        assert error.details()  # noqa: PT017


@examples(max_examples=50)
@given(inferences(), st.data())
def test_no_damaged_message_makes_the_server_fail(
    serving: Serving, request: Any, data: st.DataObject
) -> None:
    content = bytearray(request.SerializeToString())
    if content:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        serving.call("ModelInfer", bytes(content))
    except grpc.RpcError as error:
        assert error.code() in {  # noqa: PT017
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
        }


# Standard services


def test_the_health_service_tells_readiness(serving: Serving) -> None:
    stub = health_pb2_grpc.HealthStub(serving.channel)
    for name in ("", SERVICE):
        found = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert found.status == health_pb2.HealthCheckResponse.SERVING
        assert next(iter(stub.Watch(health_pb2.HealthCheckRequest(service=name)))).status == found.status
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_describes_the_service(serving: Serving) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(serving.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
    ]
    listed, described, health = stub.ServerReflectionInfo(iter(asked), timeout=30)
    names = {service.name for service in listed.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert b"ModelInferRequest" in described.file_descriptor_response.file_descriptor_proto[0]
    assert health.file_descriptor_response.file_descriptor_proto


# Start and stop


def test_a_taken_port_is_said_with_the_remedy(serving: Serving) -> None:
    app = create_app(serving.settings, Registry(NOBODY))
    with pytest.raises(ProcessError, match="HEADRACE_SERVING_GRPC_PORT"):
        GrpcServer(app.plane, app.repository, serving.settings)
