"""The Open Inference Protocol over gRPC, by Triton's own client and by hand."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor import FieldDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import service_pb2

from models.manifest import FieldType
from pipelines.adapters.registry import Registry
from pipelines.errors import ProcessError
from serving.app import create_app
from serving.grpc.messages import METHODS, POOL, REQUESTS, SERVICE
from serving.grpc.server import GrpcServer
from serving.grpc.tensors import response_of
from tests.serving.conftest import NOBODY
from tests.serving.grpc.asking import (
    ROW,
    TINY,
    Serving,
    logged,
    net_probability,
    request_of,
    rest_answer,
    tensor,
)

pytestmark = pytest.mark.integration  # two models, and a server on a port


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
