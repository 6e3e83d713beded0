"""MLflow's shapes, CSV and Arrow streams."""

from __future__ import annotations

import io
from typing import Any

import pyarrow
import pyarrow.ipc
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.serving.doors.asking import (
    OTHER,
    RECORDS,
    ROW,
    Serving,
)

pytestmark = pytest.mark.integration  # nine models, and a server on a port


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
