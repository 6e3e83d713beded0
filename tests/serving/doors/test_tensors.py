"""Triton's own client over HTTP, with and without binary data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from models.manifest import FieldType
from tests.serving.doors.asking import (
    KINDS,
    Serving,
    columns_of,
)
from tests.serving.small_models import SMALL_MODELS

pytestmark = pytest.mark.integration  # nine models, and a server on a port


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
