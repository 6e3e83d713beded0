"""Bodies that mean harm: each door says what is wrong, soon, and never that the server is."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

DOORS = ("/v2/models/tiny/infer", "/models/tiny/predict", "/models/tiny/invocations", "/v2/repository/index")
SECONDS = 2.0
DEEP = 9_000  # the client's fixture takes 20,000 bytes


def tensor(**changed: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "cpu", "shape": [1], "datatype": "FP64", "data": [1.0]} | changed]}


def record(value: str) -> bytes:
    return b'{"records": [{"cpu": ' + value.encode() + b', "cores": 1}]}'


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "nul bytes": b"\x00" * 100,
    "no UTF-8": b'{"records": [{"\xff\xfe": 1}]}',
    "byte order mark": b'\xef\xbb\xbf{"records": []}',
    "half of a surrogate pair": b'{"records": [{"\\ud800": 1, "cpu": 1, "cores": 1}]}',
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep lists that never end": b"[" * (2 * DEEP),
    "deep objects": b'{"records":' * 1_500 + b"1" + b"}" * 1_500,
    "deep data": json.dumps(tensor(data=0))
    .replace('"data": 0', '"data": ' + "[" * 5_000 + "1" + "]" * 5_000)
    .encode(),
    "an integer of 5,000 digits": record("9" * 5_000),
    "an integer of 400 digits": record("9" * 400),
    "beyond the largest double": record("1e400"),
    "below the smallest double": record("1e-400"),
    "a negative zero": record("-0.0"),
    "NaN": record("NaN"),
    "infinity": record("-Infinity"),
    "a key twice": b'{"records": [{"cpu": 1, "cpu": "x", "cores": 1}], "records": 3}',
    "records that are all else": b'{"records": [null, 1, "x", [], true, {"cpu": {}}]}',
    "a million rows said": json.dumps(tensor(shape=[1_000_000])).encode(),
    "more rows than a word holds": json.dumps(tensor(shape=[2**63])).encode(),
    "fewer than no rows": json.dumps(tensor(shape=[-1])).encode(),
    "no dimension": json.dumps(tensor(shape=[])).encode(),
    "many dimensions": json.dumps(tensor(shape=[1] * 1_000)).encode(),
    "a shape of text": json.dumps(tensor(shape=["1"])).encode(),
    "a datatype that is a list": json.dumps(tensor(datatype=["FP64"])).encode(),
    "a name of 10,000 letters": json.dumps(tensor(name="x" * 10_000)).encode(),
    "binary that is not there": json.dumps(
        tensor(data=None, parameters={"binary_data_size": 2**62})
    ).encode(),
    "one column twice": b'{"dataframe_split": {"columns": ["cpu", "cpu"], "data": [[1, 2]]}}',
    "rows of many lengths": b'{"dataframe_split": {"columns": ["cpu"], "data": [[], [1, 2], 3]}}',
    "columns that are numbers": b'{"dataframe_split": {"columns": [1, 2], "data": [[1, 2]]}}',
    "inputs of many lengths": b'{"inputs": {"cpu": [1, 2], "cores": []}}',
    "an entity that is an object": b'{"entities": [{}]}',
    "a time that is none": b'{"entities": ["m"], "at": "9999-12-31T23:59:60+99:99"}',
    "CSV with a quote that never ends": b'cpu,cores\n"1,2\n' * 100,
}


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("what", BODIES)
def test_it_is_refused_in_words(client: TestClient, path: str, what: str) -> None:
    began = time.monotonic()
    reply = client.post(path, content=BODIES[what])
    assert time.monotonic() - began < SECONDS
    assert reply.status_code < 500 or reply.status_code in {501, 503}, reply.text  # no store was filled here
    if reply.status_code >= 400:
        said = reply.json()["error"]
        assert said
        assert len(said) < 1_000  # what came is not thrown back whole


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/csv"},
        {"Content-Type": "application/vnd.apache.arrow.stream"},
        {"Content-Type": "\xff\xfe"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "br, gzip"},
        *(
            {"Inference-Header-Content-Length": length}
            for length in ("", "-1", "0", "7", "1e3", "9" * 40, "\xb2")
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", DOORS[:3])
def test_headers_that_lie_about_the_body_are_refused(
    client: TestClient, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    for content in (b"", b"\x00" * 50, record("1"), json.dumps(tensor()).encode(), b"cpu,cores\n1,2\n"):
        reply = client.post(path, content=content, headers=sent)
        assert reply.status_code < 500, reply.text


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/%00/infer",
        "/v2/models/..%2f..%2fetc/infer",
        "/models/%ff%fe/predict",
        "/models/tiny/versions/%F0%9F%92%A9/predict",
        "/models/" + "x" * 5_000 + "/predict",
        "/v2/models/tiny/versions/-1/infer",
        "/v2/models/tiny/versions/" + "9" * 400,
    ],
)
def test_names_that_mean_harm_are_not_found(client: TestClient, path: str) -> None:
    for method in ("POST", "GET"):
        reply = client.request(method, path, content=record("1"))
        assert reply.status_code in {404, 405}, reply.text
        assert len(reply.text) < 12_000
