"""What the gate sends is what the server reads, and the other way round."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import FieldType, InputField, OutputField
from pipelines.evaluate.wire import Wire, answers, request

INPUTS = (
    InputField(name="cpu", type=FieldType.DOUBLE, required=False),
    InputField(name="cores", type=FieldType.LONG),
    InputField(name="zone", type=FieldType.STRING, required=False),
    InputField(name="never", type=FieldType.DOUBLE, required=False),
)
OUTPUTS = (OutputField(name="p", type=FieldType.DOUBLE), OutputField(name="alarm", type=FieldType.BOOLEAN))

rows = st.lists(
    st.fixed_dictionaries(
        {
            "cpu": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "cores": st.integers(0, 2**53),
            "zone": st.none() | st.text(max_size=5),
        }
    ),
    min_size=1,
    max_size=5,
)


@given(rows, st.sampled_from(Wire))
def test_each_value_arrives_as_it_was_sent(sent, wire):
    body = request(INPUTS, OUTPUTS, sent, wire)
    length = int(body.headers.get("inference-header-content-length", len(body.content)))
    document, place = json.loads(body.content[:length]), length

    assert [tensor["name"] for tensor in document["inputs"]] == ["cpu", "cores", "zone"]
    for tensor in document["inputs"]:
        if "data" in tensor:
            values = tensor["data"]
        else:
            size = tensor["parameters"]["binary_data_size"]
            read = np.frombuffer(body.content[place : place + size], "<f8")
            values, place = [None if np.isnan(value) else value for value in read], place + size
        assert values == [row[tensor["name"]] for row in sent]
        assert tensor["shape"] == [len(sent)]
    assert place == len(body.content)
    wanted = {tensor["name"]: tensor["parameters"]["binary_data"] for tensor in document["outputs"]}
    assert wanted == {"p": wire is Wire.BINARY, "alarm": False}


def test_answers_are_read_in_json_and_in_binary():
    header = {
        "outputs": [
            {"name": "p", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}},
            {"name": "alarm", "datatype": "BOOL", "shape": [2], "data": [True, False]},
        ]
    }
    text = json.dumps(header).encode()
    numbers = np.array([0.25, 0.1], "<f8")

    found = answers(text + numbers.tobytes(), {"inference-header-content-length": str(len(text))})

    assert found == {"p": [0.25, 0.1], "alarm": [True, False]}
    plain = {"outputs": [{"name": "p", "datatype": "FP64", "shape": [1], "data": [0.5]}]}
    assert answers(json.dumps(plain).encode(), {}) == {"p": [0.5]}


def test_an_answer_with_too_few_bytes_is_refused():
    output = {"name": "p", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}
    text = json.dumps({"outputs": [output]}).encode()
    with pytest.raises(ValueError, match="16 bytes"):
        answers(text + b"\0" * 8, {"inference-header-content-length": str(len(text))})
