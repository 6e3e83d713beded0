"""Stock clients at the doors: Triton's over HTTP with and without binary data, MLflow's shapes, Arrow streams."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow
import pyarrow.ipc
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from models.manifest import FieldType
from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.runtimes import Predictor
from pipelines.adapters.signing import Trust
from pipelines.settings import load_settings
from serving.app import Server, create_app
from serving.cache import Served, VersionCache
from serving.plan import DATATYPES
from tests.serving.conftest import wait_until
from tests.serving.running import running
from tests.serving.small_models import SMALL_MODELS, write_small_model

pytestmark = pytest.mark.integration  # nine models, and a server on a port

MAX_ROWS, MAX_BODY_BYTES, CLIENT_SECONDS = 50, 300_000, 1.0
KINDS = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}
ROW = {"cpu": 95.0, "latency": 40.0, "cores": 16, "zone": "b"}
OTHER = {"cpu": 5.0, "latency": None, "cores": 4, "zone": None}


@dataclass
class Serving:
    url: str
    app: Server
    http: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def predictor(self, name: str) -> Predictor:
        return self.app.plane.find(name).predictor

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.http.post(f"{self.url}{path}", **more)


@pytest.fixture(scope="module")
def serving(
    make_export: Callable[..., Path],
    signing_key: Path,
    trusted_keys: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serving]:
    """A server of ``tiny`` (LightGBM) and of one small model for each kind of head, as uvicorn runs it."""
    settings = load_settings(
        {},
        home=tmp_path_factory.mktemp("home"),
        trusted_keys=trusted_keys,
        serving_max_rows=MAX_ROWS,
        serving_max_body_bytes=MAX_BODY_BYTES,
        serving_max_held_bytes=2 * MAX_BODY_BYTES,
        serving_client_seconds=CLIENT_SECONDS,
    )
    folder = settings.home / "serving"
    make_export(folder / "tiny" / "1")
    for name in SMALL_MODELS:
        write_small_model(name, folder / name / "1", signing_key)
    VersionCache(folder, Trust.of(settings)).note(
        Served(
            name=name, alias="production", version="1", manifest_sha256=manifest_sha256(folder / name / "1")
        )
        for name in ("tiny", *SMALL_MODELS)
    )
    app = create_app(settings, Registry("http://127.0.0.1:9"))
    with running(app, settings) as url, httpx.Client(trust_env=False, timeout=30) as http:
        wait_until(lambda: http.get(f"{url}/v2/health/ready").status_code == 200)
        yield Serving(url, app, http)


def columns_of(serving: Serving, name: str, rows: int, seed: int = 1) -> dict[str, NDArray]:
    """Rows for a model, without missing strings: the protocol's binary form has none."""
    if name == "tiny":
        return {key: np.array([ROW[key]] * rows, dtype=object if key == "zone" else float) for key in ROW}
    columns = SMALL_MODELS[name].columns(np.random.default_rng(seed), rows)
    return {
        key: _without_none(values) if values.dtype == object else values for key, values in columns.items()
    }


def _without_none(values: NDArray) -> NDArray:
    return np.array(["?" if text is None else text for text in values], dtype=object)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("name", ["tiny", *SMALL_MODELS])
def test_tritons_client_gets_the_predictors_own_answers(
    serving: Serving, name: str, binary: bool, rows: int
) -> None:
    columns, manifest = columns_of(serving, name, rows), serving.predictor(name).manifest
    with triton.InferenceServerClient(serving.url.removeprefix("http://")) as client:
        metadata = client.get_model_metadata(name)
        assert [field["name"] for field in metadata["inputs"]] == [field.name for field in manifest.inputs]
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(name, "1")
        inputs = []
        for told in metadata["inputs"]:
            values = columns[told["name"]]
            missing = values.dtype != object and np.isnan(values).any()
            if missing and (told["datatype"] == "INT64" or not binary):
                columns[told["name"]] = values = np.nan_to_num(
                    values, nan=1.0
                )  # neither form has a missing one
            tensor = triton.InferInput(told["name"], [rows], told["datatype"])
            tensor.set_data_from_numpy(values.astype(KINDS[told["datatype"]]), binary_data=binary)
            inputs.append(tensor)
        outputs = [
            triton.InferRequestedOutput(told["name"], binary_data=binary) for told in metadata["outputs"]
        ]
        result = client.infer(name, inputs, outputs=outputs, request_id="7")
        assert result.get_response()["id"] == "7"
        asked_for_nothing = client.infer(name, inputs)  # all outputs, in binary
    expected = serving.predictor(name).predict(columns)
    for field in manifest.outputs:
        for answer in (result, asked_for_nothing):
            found = answer.as_numpy(field.name)
            if field.type is FieldType.STRING:
                assert [str(text, "utf-8") if type(text) is bytes else text for text in found] == [
                    text or "" for text in expected[field.name]
                ]
            else:
                np.testing.assert_array_equal(found, expected[field.name])


def test_tritons_client_is_told_what_is_wrong_and_what_it_may(serving: Serving) -> None:
    with triton.InferenceServerClient(serving.url.removeprefix("http://")) as client:
        assert set(client.get_server_metadata()["extensions"]) == {"binary_tensor_data", "model_repository"}
        index = client.get_model_repository_index()
        assert {(row["name"], row["version"], row["state"]) for row in index} == {
            (name, "1", "READY") for name in ("tiny", *SMALL_MODELS)
        }
        with pytest.raises(InferenceServerException, match="stays loaded while the registry"):
            client.unload_model("tiny")
        client.load_model("tiny")
        wrong = triton.InferInput("cpu", [1], "FP64")
        wrong.set_data_from_numpy(np.array([101.0]))
        with pytest.raises(InferenceServerException, match="from 0 to 100"):
            client.infer("tiny", [wrong])
        with pytest.raises(InferenceServerException, match="no model"):
            client.get_model_metadata("none")
        compressed = triton.InferInput("load", [1], "FP64")
        compressed.set_data_from_numpy(np.array([10.0]))
        for coding in ("gzip", "deflate"):
            client.infer("interval", [compressed], request_compression_algorithm=coding)


BINARY = {"binary_data_size": 8}


@pytest.mark.parametrize(
    ("header", "data", "length", "said"),
    [
        ({"inputs": [{"name": "load", "shape": [1], "datatype": "FP64", "parameters": BINARY}]}, b"1234567", None, "7 bytes"),
        ({"inputs": [{"name": "load", "shape": [2], "datatype": "FP64", "parameters": BINARY}]}, b"12345678", None, "16 are wanted"),
        ({"inputs": [{"name": "load", "shape": [1], "datatype": "FP64", "parameters": BINARY}]}, b"123456789", None, "take 8"),
        ({"inputs": [{"name": "load", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": -1}}]}, b"", None, "-1"),
        ({"inputs": [{"name": "load", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": "8"}}]}, b"12345678", None, "binary_data_size"),
        ({"inputs": [{"name": "load", "shape": [1], "datatype": "FP64", "data": [1], "parameters": BINARY}]}, b"12345678", None, "both"),
        ({"inputs": [{"name": "load", "shape": [1], "datatype": "FP64"}]}, b"", None, "neither"),
        ({"inputs": [{"name": "load", "shape": [1], "datatype": "FP64", "parameters": BINARY}]}, np.array([np.inf]).tobytes(), None, "inf"),
        ({"inputs": []}, b"", b"999999", "Inference-Header-Content-Length"),
        ({"inputs": []}, b"", b"-1", "Inference-Header-Content-Length"),
        ({"inputs": []}, b"", b"12e3", "Inference-Header-Content-Length"),
        ({"inputs": []}, b"", b"5", "not JSON"),
    ],
)  # fmt: skip
def test_binary_requests_that_contradict_themselves_are_refused(
    serving: Serving, header: Any, data: bytes, length: bytes | None, said: str
) -> None:
    head = json.dumps(header).encode()
    headers = {b"Inference-Header-Content-Length": length or str(len(head)).encode()}
    answer = serving.post("/v2/models/interval/infer", content=head + data, headers=headers)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


@examples(max_examples=60)
@given(
    head=st.binary(max_size=30)
    | st.builds(
        lambda name, kind, shape, size: json.dumps(
            {
                "inputs": [
                    {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": size}}
                ]
            }
        ).encode(),
        st.sampled_from(["zone", "latency", "cores"]),
        st.sampled_from(["FP64", "BYTES", "INT64", "BOOL", "FP16"]),
        st.lists(st.integers(-2, 2**40), max_size=3),
        st.integers(-1, 40) | st.none() | st.floats(),
    ),
    data=st.binary(max_size=40),
    cut=st.integers(-40, 40),
)
def test_no_binary_request_is_answered_with_500(serving: Serving, head: bytes, data: bytes, cut: int) -> None:
    headers = {"Inference-Header-Content-Length": str(len(head) + min(cut, 0))}
    answer = serving.post("/v2/models/probability/infer", content=head + data, headers=headers)
    assert answer.status_code in {200, 400, 413}, answer.text  # 413: more rows than this server takes


# MLflow's shapes

RECORDS = [ROW, OTHER]
SPLIT = {"columns": list(ROW), "data": [list(ROW.values()), list(OTHER.values())]}
COLUMNS = {name: [ROW[name], OTHER[name]] for name in ROW}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": SPLIT},
        {"dataframe_split": SPLIT | {"index": [7, 8]}},
        {
            "dataframe_split": {
                "columns": SPLIT["columns"][::-1],
                "data": [row[::-1] for row in SPLIT["data"]],
            }
        },
        {"dataframe_records": RECORDS},
        {"instances": RECORDS},
        {"instances": SPLIT["data"]},
        {"inputs": COLUMNS},
        {"inputs": RECORDS},
    ],
    ids=["split", "index", "reversed", "records", "instances", "lists", "inputs", "input records"],
)
def test_mlflows_shapes_are_answered_alike(serving: Serving, body: dict[str, Any]) -> None:
    answer = serving.post("/models/tiny/invocations", json=body)
    expected = serving.post("/models/tiny/predict", json={"records": RECORDS}).json()["predictions"]
    assert answer.status_code == 200, answer.text
    assert [row["probability"] for row in answer.json()["predictions"]] == [
        row["probability"] for row in expected
    ]


def test_one_row_may_come_without_brackets_and_columns_of_numbers_go_the_short_way(serving: Serving) -> None:
    one = serving.post("/models/tiny/invocations", json={"inputs": ROW}).json()["predictions"]
    assert len(one) == 1
    split = {"columns": ["load", "hour"], "data": [[1.0, 2], [3, None]]}
    assert serving.post("/models/interval/invocations", json={"dataframe_split": split}).status_code == 200


def test_csv_is_read_by_the_types_of_the_inputs(serving: Serving) -> None:
    text = "zone,cpu,cores,latency\nb,95,16,40\n,5.0,4,\n"
    answer = serving.post(
        "/models/tiny/invocations", content=text, headers={"content-type": "text/csv; charset=utf-8"}
    )
    expected = serving.post("/models/tiny/predict", json={"records": RECORDS}).json()["predictions"]
    assert [row["probability"] for row in answer.json()["predictions"]] == [
        row["probability"] for row in expected
    ]


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b"cpu,cores\nx,1\n", "text/csv", 422, "'x'"),
        (b"cpu,cores\n1\n", "text/csv", 422, "2 values"),
        (b"cpu,cpu\n1,1\n", "text/csv", 422, "twice"),
        (b"cpu,cors\n1,1\n", "text/csv", 422, "did you mean 'cores'"),
        (b"cpu,cores\n", "text/csv", 422, "empty"),
        (b"", "text/csv", 400, "no line"),
        (b'cpu,cores\n"1', "text/csv", 400, "not CSV"),
        (b"\xff\xff", "text/csv", 400, "UTF-8"),
        (b"{}", "application/json", 422, "dataframe_split"),
        (b"[]", "application/json", 400, "an object"),
        (b'{"inputs": 3, "instances": []}', "application/json", 422, "one of"),
        (b'{"inputs": [1]}', "application/json", 422, "an object"),
        (b'{"inputs": "x"}', "application/json", 422, "a list"),
        (b'{"instances": [[1]]}', "application/json", 422, "4 values"),
        (b'{"dataframe_split": {"columns": [1], "data": []}}', "application/json", 422, "names"),
        (b'{"dataframe_split": {"columns": ["cpu"], "data": 1}}', "application/json", 422, "rows"),
        (b'{"dataframe_split": []}', "application/json", 422, "columns and data"),
        (b'{"inputs": {"cpu": [1, 2], "cores": [1]}}', "application/json", 422, "rows"),
        (b'{"inputs": {"cpu": [1]}}', "application/json", 422, "cores"),
        (b'{"inputs": {"cpu": [1], "cores": [1]}, "params": {"a": 1}}', "application/json", 422, "params"),
        (b'{"instances": [], "more": 1}', "application/json", 422, "more"),
        (b"x", "application/xml", 415, "text/csv"),
        (b"not arrow", "application/vnd.apache.arrow.stream", 400, "no Arrow stream"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused_in_words(
    serving: Serving, content: bytes, kind: str, status: int, said: str
) -> None:
    answer = serving.post("/models/tiny/invocations", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]


ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


def stream_of(table: pyarrow.Table) -> bytes:
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("load", [[1.0, 2.0], [3, 4]], ids=["doubles", "integers"])
def test_a_null_in_a_stream_is_a_missing_number(serving: Serving, load: list[float]) -> None:
    table = pyarrow.table({"hour": pyarrow.array([None, 2.0]), "load": load})
    answer = serving.post("/models/interval/invocations", content=stream_of(table), headers=ARROW)
    records = [{"load": load[0], "hour": None}, {"load": load[1], "hour": 2.0}]
    expected = serving.post("/models/interval/predict", json={"records": records}).json()["predictions"]
    told = pyarrow.ipc.open_stream(answer.content).read_all().column("forecast").to_pylist()
    assert told == [row["forecast"] for row in expected]


def test_arrow_streams_are_answered_with_one(serving: Serving) -> None:
    zones = pyarrow.array(COLUMNS["zone"]).dictionary_encode()
    content = stream_of(pyarrow.table(COLUMNS | {"zone": zones}))
    answer = serving.post("/models/tiny/invocations", content=content, headers=ARROW)
    table = pyarrow.ipc.open_stream(answer.content).read_all()
    expected = serving.post("/models/tiny/predict", json={"records": RECORDS}).json()["predictions"]
    assert table.column("probability").to_pylist() == [row["probability"] for row in expected]
    assert table.column("alarm").to_pylist() == [row["alarm"] for row in expected]
    assert table.schema.metadata == {b"model": b"tiny", b"version": b"1"}
    assert len(set(table.column("prediction_id").to_pylist())) == 2


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"cpu": [1.0]}, "'cores' is missing"),
        ({"cpu": ["1"], "cores": [1]}, "numbers are wanted"),
        ({"cpu": [1.0], "cores": [1.5]}, "numbers are wanted"),
        ({"cpu": [None, 1.0], "cores": [1, 1]}, "'cpu': row 0"),
        ({"cpu": [101.0], "cores": [1]}, "from 0 to 100"),
        ({"cpu": [1.0], "cores": [1], "zone": [2]}, "strings are wanted"),
        ({"cpu": [1.0], "cores": [1], "zne": ["a"]}, "did you mean 'zone'"),
        ({"cpu": [1.0] * 51, "cores": [1] * 51}, "at most 50"),
    ],
)
def test_arrow_columns_that_do_not_fit_are_named(
    serving: Serving, columns: dict[str, Any], said: str
) -> None:
    answer = serving.post(
        "/models/tiny/invocations", content=stream_of(pyarrow.table(columns)), headers=ARROW
    )
    assert answer.status_code in {413, 422}, answer.text
    assert said in answer.json()["error"]


@examples(max_examples=60)
@given(place=st.integers(0, 5000), byte=st.integers(0, 255), length=st.integers(1, 8))
def test_a_damaged_stream_is_no_500_and_no_crash(
    serving: Serving, place: int, byte: int, length: int
) -> None:
    content = bytearray(stream_of(pyarrow.table(COLUMNS)))
    place %= len(content)
    content[place : place + length] = bytes([byte]) * length
    answer = serving.post("/models/tiny/invocations", content=bytes(content), headers=ARROW)
    assert answer.status_code in {200, 400, 413, 422}, answer.text


def test_a_column_whose_name_is_no_utf_8_is_refused(serving: Serving) -> None:
    content = stream_of(pyarrow.table(COLUMNS)).replace(b"zone", b"zo\xcbe")
    answer = serving.post("/models/tiny/invocations", content=content, headers=ARROW)
    assert answer.status_code == 400, answer.text
    assert "no Arrow stream" in answer.json()["error"]


# Explanations


def test_contributions_and_base_add_up_to_the_raw_answer(serving: Serving) -> None:
    answer = serving.post("/models/tiny/predict?explain=true", json={"records": RECORDS}).json()
    assert "unexplained" not in answer
    for row in answer["predictions"]:
        (told,) = row["explanation"].values()
        assert set(told["contributions"]) == set(ROW)
        assert told["base"] + sum(told["contributions"].values()) == pytest.approx(told["raw"], abs=1e-9)
        # Platt scaling of the raw answer is the probability: the account is of this very answer.
        assert 1 / (1 + np.exp(-(told["raw"] + 0.1))) == pytest.approx(row["probability"], abs=1e-12)


def test_estimators_without_an_account_are_named(serving: Serving) -> None:
    answer = serving.post("/models/interval/predict?explain=1", json={"records": [{"load": 3.0}]}).json()
    assert set(answer["unexplained"]) == {"boosters"}
    assert answer["predictions"][0]["explanation"] == {}
    for query in ("explain=perhaps", "explian=true"):
        assert serving.post(f"/models/tiny/predict?{query}", json={"records": [ROW]}).status_code == 422


# Limits


def test_packed_bodies_are_unpacked_within_the_limit(serving: Serving) -> None:
    packed = gzip.compress(orjson.dumps({"records": [ROW]}))
    answer = serving.post("/models/tiny/predict", content=packed, headers={"content-encoding": "gzip"})
    assert answer.status_code == 200
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    for content, coding, status in (
        (bomb, "gzip", 413),
        (packed[:-9], "gzip", 400),
        (b"x", "gzip", 400),
        (b"x", "br", 415),
    ):
        answer = serving.post("/models/tiny/predict", content=content, headers={"content-encoding": coding})
        assert answer.status_code == status, answer.text


def send(serving: Serving, content: bytes) -> socket.socket:
    client = socket.create_connection(serving.address, timeout=10)
    client.sendall(content)
    return client


def answer_of(client: socket.socket) -> bytes:
    """All until the server closes."""
    content = b""
    while chunk := client.recv(65536):
        content += chunk
    return content


HEAD = b"POST /models/tiny/predict HTTP/1.1\r\nhost: x\r\n"


def test_a_body_that_never_ends_is_408_and_the_connection_is_closed(serving: Serving) -> None:
    with send(serving, HEAD + b"content-length: 100\r\n\r\n{") as client:
        began = time.monotonic()
        answer = answer_of(client)
    assert answer.startswith(b"HTTP/1.1 408")
    assert CLIENT_SECONDS * 0.9 < time.monotonic() - began < 5 * CLIENT_SECONDS


@pytest.mark.parametrize(
    "content", [b"", HEAD, b"POST /mod"], ids=["silence", "half of the headers", "half a line"]
)
def test_a_client_that_dawdles_over_its_headers_is_cut_off(serving: Serving, content: bytes) -> None:
    began = time.monotonic()
    with send(serving, content) as client, contextlib.suppress(ConnectionResetError):  # as good as an end
        assert client.recv(10) == b"", "nothing is answered to half a request"
    assert time.monotonic() - began < 5 * CLIENT_SECONDS


def test_slow_and_large_bodies_do_not_keep_out_others(serving: Serving) -> None:
    """Two bodies of half the budget each stall: a third large one is told to come back, small ones are answered."""
    size = MAX_BODY_BYTES - 1000
    stalled = [
        send(serving, HEAD + f"content-length: {MAX_BODY_BYTES}\r\n\r\n".encode() + b" " * size)
        for _ in range(2)
    ]
    try:
        wait_until(lambda: serving.app._bodies.held_bytes > MAX_BODY_BYTES, 5)
        large = serving.post("/models/tiny/predict", content=b" " * size)
        assert (large.status_code, large.headers["retry-after"]) == (503, "1")
        assert serving.post("/models/tiny/predict", json={"records": [ROW]}).status_code == 200
    finally:
        for client in stalled:
            client.close()
    wait_until(lambda: serving.app._bodies.held_bytes == 0, 5 * CLIENT_SECONDS)


def test_other_methods_are_405(serving: Serving) -> None:
    answer = serving.http.get(f"{serving.url}/models/tiny/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_large_batches_are_answered_off_the_loop_as_on_it(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By measured costs; here the cost is set, so that both ways are taken for certain."""
    ways = []
    answers = []
    for seconds in (0.0, 10.0):
        monkeypatch.setattr(serving.app.plane, "seconds_of", lambda version, rows, told=seconds: told)
        original = type(serving.app)._in_thread

        async def counted(self: Server, work: Any, kept: Any = original) -> Any:
            ways.append("thread")
            return await kept(self, work)

        monkeypatch.setattr(type(serving.app), "_in_thread", counted)
        answer = serving.post("/models/tiny/predict", json={"records": RECORDS}).json()
        answers.append([row["probability"] for row in answer["predictions"]])
        monkeypatch.undo()
    assert ways == ["thread"]
    assert answers[0] == answers[1]


def test_datatypes_are_those_of_the_protocol(serving: Serving) -> None:
    assert set(DATATYPES.values()) == set(KINDS)
