"""The contract of every endpoint, at the door."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.manifest import Sample
from pipelines.adapters.registry import Registry
from pipelines.settings import Settings
from serving.app import create_app

ROW = {"cpu": 95.0, "latency": 40.0, "cores": 16, "zone": "b"}


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def tensors(**changes: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        "cpu": tensor("cpu", "FP64", [95.0, 5.0]),
        "latency": tensor("latency", "FP64", [40.0, None]),
        "cores": tensor("cores", "INT64", [16, 4]),
        "zone": tensor("zone", "BYTES", ["b", "a"]),
    } | changes
    return {"id": "42", "inputs": list(inputs.values())}


@pytest.fixture(scope="session")
def sample(client: TestClient) -> Sample:
    """The stored sample of the version in production."""
    follower = client.app.follower
    return follower._table.at("tiny", "production").export.sample


def test_server_and_liveness(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "headrace"
    assert client.get("/v2/health/live").json() == {"live": True}


def test_readiness_says_what_serves(client: TestClient) -> None:
    answer = client.get("/v2/health/ready")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True
    assert answer.json()["models"]["tiny"]["production"]["serving"] == "2"
    assert "no answer from MLflow" in answer.json()["warnings"][0]


def test_a_server_without_models_is_alive_but_not_ready(settings: Settings) -> None:
    with TestClient(create_app(settings, Registry("http://127.0.0.1:9"))) as empty:
        assert empty.get("/v2/health/live").status_code == 200
        answer = empty.get("/v2/health/ready")
        assert answer.status_code == 503
        assert answer.json()["ready"] is False
        assert answer.json()["reasons"]
        missing = empty.post("/models/tiny/predict", json={"records": [ROW]})
        assert (missing.status_code, "tiny" in missing.json()["error"]) == (404, True)
        assert ">not ready<" in empty.get("/").text


def test_metadata_names_inputs_with_datatypes_and_shapes(client: TestClient) -> None:
    metadata = client.get("/v2/models/tiny").json()
    assert metadata["versions"] == ["2", "3"]
    assert [(field["name"], field["datatype"], field["shape"]) for field in metadata["inputs"]] == [
        ("cpu", "FP64", [-1]),
        ("latency", "FP64", [-1]),
        ("cores", "INT64", [-1]),
        ("zone", "BYTES", [-1]),
    ]
    assert metadata["inputs"][0]["parameters"] == {
        "required": True,
        "unit": "percent",
        "minimum": 0.0,
        "maximum": 100.0,
    }
    assert [(field["name"], field["datatype"]) for field in metadata["outputs"]] == [
        ("probability", "FP64"),
        ("alarm", "BOOL"),
    ]
    assert client.get("/v2/models/tiny/versions/3").json()["parameters"]["version"] == "3"


@pytest.mark.parametrize("path", ["/v2/models/tiny/ready", "/v2/models/tiny/versions/3/ready"])
def test_model_ready(client: TestClient, path: str) -> None:
    assert client.get(path).json()["ready"] is True


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/none"),
        ("GET", "/v2/models/none/ready"),
        ("GET", "/v2/models/tiny/versions/1"),
        ("GET", "/v2/models/tiny/versions/1/ready"),
        ("POST", "/v2/models/none/infer"),
        ("POST", "/v2/models/tiny/versions/x/infer"),
        ("POST", "/models/none/predict"),
        ("POST", "/models/%ED%A0%80/predict"),
        ("GET", "/nothing/here"),
    ],
)
def test_unknown_models_versions_and_paths_are_404_with_an_error(
    client: TestClient, method: str, path: str
) -> None:
    answer = client.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


def test_infer_reproduces_the_stored_sample(client: TestClient, sample: Sample) -> None:
    columns = {name: [row[name] for row in sample.rows] for name in ROW}
    body = tensors(
        cpu=tensor("cpu", "FP64", columns["cpu"]),
        latency=tensor("latency", "FP64", columns["latency"]),
        cores=tensor("cores", "INT64", [int(value) for value in columns["cores"]]),
        zone=tensor("zone", "BYTES", columns["zone"]),
    )
    answer = client.post("/v2/models/tiny/infer", json=body).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "2", "42")
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["probability"]["shape"] == [3]
    stored = [prediction["probability"] for prediction in sample.predictions]
    assert outputs["probability"]["data"] == pytest.approx(stored, abs=1e-9)
    assert outputs["alarm"]["data"] == [prediction["alarm"] for prediction in sample.predictions]


def test_infer_takes_column_shapes_nested_data_other_widths_and_leaves_out_optional_inputs(
    client: TestClient,
) -> None:
    expected = client.post("/v2/models/tiny/infer", json=tensors()).json()["outputs"]
    body = tensors(cpu=tensor("cpu", "FP32", [[95.0], [5.0]], [2, 1]))
    assert client.post("/v2/models/tiny/infer", json=body).json()["outputs"] == expected
    del body["inputs"][1]
    assert client.post("/v2/models/tiny/infer", json=body).status_code == 200


def test_infer_answers_with_the_outputs_asked_for(client: TestClient) -> None:
    body = tensors() | {"outputs": [{"name": "alarm"}]}
    outputs = client.post("/v2/models/tiny/infer", json=body).json()["outputs"]
    assert [output["name"] for output in outputs] == ["alarm"]


def test_versions_answer_by_number_with_their_own_predictions(client: TestClient) -> None:
    by_version = {
        version: client.post(f"/v2/models/tiny/versions/{version}/infer", json=tensors()).json()
        for version in ("2", "3")
    }
    assert by_version["3"]["model_version"] == "3"
    assert by_version["2"]["outputs"][0]["data"] != by_version["3"]["outputs"][0]["data"]


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        (tensors(cpu=tensor("cpu", "BYTES", ["1", "2"])), "cpu", "FP64"),
        (tensors(cpu=tensor("cpu", "FP64", [1.0])), "latency", "2 rows"),
        (tensors(cpu=tensor("cpu", "FP64", [1.0, 2.0], [3])), "cpu", "2 values"),
        (tensors(cpu=tensor("cpu", "FP64", [1.0, 2.0], [1, 2])), "cpu", "[n]"),
        (tensors(cpu=tensor("cpu", "FP64", [[1.0], 2.0])), "cpu", "nested"),
        (tensors(cpu=tensor("cpu", "FP64", [1.0, None])), "cpu", "null"),
        (tensors(cpu=tensor("cpu", "FP64", [1.0, 101.0])), "cpu", "from 0 to 100"),
        (tensors(cpu=tensor("cpu", "FP64", [1.0, "x"])), "cpu", "'x'"),
        (tensors(cpu=tensor("cpu", "FP64", [1.0, True])), "cpu", "true"),
        (tensors(cores=tensor("cores", "INT64", [1, 2.5])), "cores", "whole number"),
        (tensors(more=tensor("cpy", "FP64", [1.0, 2.0])), "cpy", "did you mean 'cpu'"),
        (tensors(more=tensor("cpu", "FP64", [1.0, 2.0])), "cpu", "twice"),
        ({"inputs": [tensor("latency", "FP64", [1.0])]}, "cpu", "missing"),
        ({"inputs": []}, "inputs", "empty"),
        ({}, "inputs", "required"),
        (tensors() | {"outputs": [{"name": "x"}]}, "outputs", "no output"),
        ({"inputs": [tensor("cpu", "FP64", [], [0])]}, "cpu", "empty"),
    ],
)
def test_infer_refuses_what_does_not_fit_and_names_it(
    client: TestClient, body: Any, field: str, said: str
) -> None:
    answer = client.post("/v2/models/tiny/infer", json=body)
    assert answer.status_code == 400
    assert answer.json()["field"] == field
    assert said in answer.json()["error"]


def test_predict_answers_each_record_with_an_id_of_its_own(client: TestClient) -> None:
    answer = client.post(
        "/models/tiny/predict", json={"records": [ROW, ROW | {"cpu": 5, "zone": None}]}
    ).json()
    assert (answer["model"], answer["version"]) == ("tiny", "2")
    first, second = answer["predictions"]
    assert UUID(first["prediction_id"]).version == 7
    assert first["prediction_id"] != second["prediction_id"]
    assert first["probability"] > second["probability"]
    assert isinstance(first["alarm"], bool)


def test_optional_fields_may_be_absent_null_or_of_unknown_category(client: TestClient) -> None:
    bare = {"cpu": 95.0, "cores": 16}
    rows = [bare, bare | {"latency": None, "zone": None}, bare | {"zone": "never seen"}]
    predictions = client.post("/models/tiny/predict", json={"records": rows}).json()["predictions"]
    assert len({prediction["probability"] for prediction in predictions}) == 1


@pytest.mark.parametrize(
    ("record", "field", "said"),
    [
        ({"cores": 1}, "cpu", "null or nothing"),
        (ROW | {"cpu": None}, "cpu", "a number in percent from 0 to 100 is wanted"),
        (ROW | {"cpu": "95"}, "cpu", "'95'"),
        (ROW | {"cpu": False}, "cpu", "false"),
        (ROW | {"cpu": [1]}, "cpu", "a list"),
        (ROW | {"cpu": -0.1}, "cpu", "-0.1"),
        (ROW | {"cores": 1.5}, "cores", "1.5"),
        (ROW | {"cores": 0}, "cores", "at least 1"),
        (ROW | {"zone": 3}, "zone", "a string, or null"),
        (ROW | {"cpus": 3}, "cpus", "did you mean 'cpu'"),
        (17, "records", "an object is wanted"),
    ],
)
def test_predict_refuses_what_does_not_fit_and_names_field_and_record(
    client: TestClient, record: Any, field: str, said: str
) -> None:
    answer = client.post("/models/tiny/predict", json={"records": [ROW, record]})
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert said in answer.json()["error"]
    assert "record 1" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b'{"records": [{"cpu": NaN, "cores": 1}]}', 422, "'cpu': record 0 has nan"),
        (b'{"records": [{"cpu": 1, "cores": -Infinity}]}', 422, "'cores': record 0 has -inf"),
        (b'{"records": [{"cpu": 1e999, "cores": 1}]}', 422, "cpu"),
        (b"[]", 400, "a list"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"records": [{"\\ud800": 1}]}', 422, "does not take"),
        (b"[" * 15_000, 400, "not JSON"),
        (b'{"records": ' + b"[" * 900 + b"]" * 900 + b"}", 422, "a list"),
        (b"{}", 422, "either"),
        (b'{"records": [], "entities": []}', 422, "either"),
        (b'{"records": []}', 422, "empty"),
        (b'{"entities": []}', 422, "empty"),
        (b'{"entities": [1]}', 422, "entities.0"),
        (b'{"entities": ["m"], "at": "2026-01-01T00:00:00"}', 422, "at"),
        (b'{"entities": ["m"], "at": 0}', 422, "ISO 8601"),
        (b'{"entities": ["m"], "at": "0001-01-01T00:00:00+14:00"}', 422, "year 1"),
        (b'{"records": [1], "at": "2026-01-01T00:00:00Z"}', 422, "'at'"),
        (b'{"recrods": []}', 422, "recrods"),
        (b'{"records": "x"}', 422, "records"),
    ],
)
def test_predict_refuses_bodies_of_another_shape(
    client: TestClient, content: bytes, status: int, said: str
) -> None:
    answer = client.post("/models/tiny/predict", content=content)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]


def test_too_many_rows_and_too_large_bodies_are_413(client: TestClient) -> None:
    many = client.post("/models/tiny/predict", json={"records": [ROW] * 51})
    assert (many.status_code, many.json()["field"]) == (413, "records")
    large = client.post("/models/tiny/predict", content=b" " * 20_001)
    assert large.status_code == 413
    chunked = client.post("/models/tiny/predict", content=iter([b" " * 15_000, b" " * 15_000]))
    assert (chunked.status_code, "20000 bytes" in chunked.json()["error"]) == (413, True)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=5)
    | st.sampled_from(["cpu", "FP64", "b", 95.0, 16]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *ROW,
                    "inputs",
                    "records",
                    "entities",
                    "at",
                    "name",
                    "shape",
                    "datatype",
                    "data",
                    "outputs",
                    "id",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
tensor_like = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*ROW, "x"]),
        "shape": st.lists(st.integers(-1, 3), max_size=3) | json_values,
        "datatype": st.sampled_from(["FP64", "INT64", "BYTES", "BOOL"]) | json_values,
        "data": st.lists(json_values, max_size=3),
    }
)
bodies = (
    json_values
    | st.fixed_dictionaries(
        {"records": st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(ROW, json_values)))}
    )
    | st.fixed_dictionaries({"inputs": st.lists(tensor_like, max_size=5)})
)


@pytest.mark.parametrize("path", ["/models/tiny/predict", "/v2/models/tiny/infer"])
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=bodies)
def test_nothing_that_a_client_sends_is_answered_with_500(client: TestClient, path: str, body: Any) -> None:
    answer = client.post(path, content=json.dumps(body).encode())
    # 503: this server's online store was never filled, which is no fault of the client's.
    asks_store = isinstance(body, dict) and "entities" in body
    assert answer.status_code in {200, 400, 413, 422} | ({503} if asks_store else set())
    if answer.status_code != 200:
        assert isinstance(answer.json()["error"], str)


@hypothesis_settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200))
def test_no_bytes_are_answered_with_500(client: TestClient, content: bytes) -> None:
    assert client.post("/models/tiny/predict", content=content).status_code in {400, 422}


class Known:
    """An online store of three machines, in memory."""

    def online(
        self, source: str, entities: Sequence[str], at: datetime, grid: str | None = None
    ) -> list[Mapping[str, Any] | None]:
        assert (source, at, grid) == ("simulated", datetime(2026, 1, 1, tzinfo=UTC), None)
        store: dict[str, Mapping[str, Any]] = {
            "m-001": ROW | {"machine_id": "m-001", "event_time": at, "latency": float("nan")},
            "m-002": ROW | {"cpu": None},
            "m-003": ROW | {"stale_views": ["telemetry_windows"], "telemetry_windows__age_hours": 30.0},
        }
        return [store.get(entity) for entity in entities]


@pytest.fixture
def with_store(settings: Settings, fill_cache: Callable[..., Path], wait_until: Callable[..., None]) -> Any:
    fill_cache(settings, {"production": "1"})
    with TestClient(create_app(settings, Registry("http://127.0.0.1:9"), Known())) as client:
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        yield client


def test_entities_are_answered_from_the_online_store(with_store: TestClient) -> None:
    body = {"entities": ["m-001"], "at": "2026-01-01T01:00:00+01:00"}
    prediction = with_store.post("/models/tiny/predict", json=body).json()["predictions"][0]
    record = ROW | {"latency": None}
    same = with_store.post("/models/tiny/predict", json={"records": [record]}).json()["predictions"][0]
    assert (prediction["entity"], prediction["probability"]) == ("m-001", same["probability"])


def test_each_entity_is_answered_once_per_supposition(with_store: TestClient) -> None:
    given = [{"cpu": 10.0}, {"cpu": 90.0}]
    body = {"entities": ["m-001", "m-001"], "given": given, "at": "2026-01-01T00:00:00Z"}
    rows = with_store.post("/models/tiny/predict", json=body).json()["predictions"]
    assert [(row["entity"], row["cpu"]) for row in rows] == [("m-001", 10.0), ("m-001", 90.0)] * 2
    assert rows[0]["probability"] != rows[1]["probability"] == rows[3]["probability"]
    refused = with_store.post("/models/tiny/predict", json=body | {"given": [{"heat": 1}]})
    assert (refused.status_code, refused.json()["field"]) == (422, "heat")


@pytest.mark.parametrize(("entity", "status", "field"), [("m-009", 404, "entities"), ("m-002", 422, "cpu")])
def test_entities_without_usable_features_are_named(
    with_store: TestClient, entity: str, status: int, field: str
) -> None:
    body = {"entities": ["m-001", entity], "at": "2026-01-01T00:00:00Z"}
    answer = with_store.post("/models/tiny/predict", json=body)
    assert (answer.status_code, answer.json()["field"]) == (status, field)


def test_stale_features_are_no_answer(with_store: TestClient) -> None:
    body = {"entities": ["m-001", "m-003"], "at": "2026-01-01T00:00:00Z"}
    answer = with_store.post("/models/tiny/predict", json=body)
    assert answer.status_code == 503
    assert "m-003" in answer.json()["error"]
    assert "telemetry_windows of 30.0 h" in answer.json()["error"]


@pytest.mark.integration  # a process of its own
def test_without_a_feature_store_client_entities_are_501_with_the_remedy(client: TestClient) -> None:
    code = """
import sys, tempfile
from pathlib import Path
from pipelines.settings import load_settings
from serving.errors import FeaturesUnavailableError
from serving.features import OnlineStore
from datetime import UTC, datetime
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"feast", "polars"}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
try:
    OnlineStore(load_settings({})).online("simulated", ["m-001"], datetime(2026, 1, 1, tzinfo=UTC))
except FeaturesUnavailableError as error:
    from serving.rest.replies import error_reply
    answer = error_reply(error, 422)
    print(answer.status, answer.content.decode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("501"), done.stderr
    assert "headrace[pipeline]" in done.stdout


@pytest.mark.integration  # imports Feast
def test_a_store_that_was_never_filled_is_503_in_words(client: TestClient) -> None:
    answer = client.post("/models/tiny/predict", json={"entities": ["m-001"], "at": "2026-01-01T00:00:00Z"})
    assert answer.status_code == 503
    assert "simulated" in answer.json()["error"]


def test_metrics_count_by_model_version_and_code_and_take_no_label_from_clients(client: TestClient) -> None:
    client.post("/models/tiny/predict", json={"records": [ROW]})
    client.post("/models/made-up-name/predict", json={"records": [ROW]})
    text = client.get("/metrics").text
    assert 'headrace_requests_total{code="200",model="tiny",transport="rest",version="2"}' in text
    assert 'headrace_requests_total{code="404",model="",transport="rest",version=""}' in text
    assert "made-up-name" not in text
    assert 'headrace_request_seconds_bucket{le="0.1",model="tiny",transport="rest",version="2"}' in text
    assert 'headrace_model_info{alias="production",manifest_sha256="' in text
    assert 'headrace_alias_behind_seconds{alias="production",model="tiny"} 0.0' in text
    assert "headrace_registry_up 0.0" in text


def test_pages_for_people(client: TestClient) -> None:
    page = client.get("/").text
    assert '<a href="http://127.0.0.1:9/#/models/tiny/versions/2">version 2</a>' in page
    assert "<script" not in page
    schema = client.get("/openapi.json").json()
    assert set(schema["components"]["schemas"]) >= {"InferRequest", "PredictRequest", "InferTensor"}
    assert client.get("/docs").status_code == 200
