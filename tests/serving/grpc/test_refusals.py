"""What is not as it should be over gRPC: refused, with the field; no message makes the server fail."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from serving.grpc.messages import METHODS, REQUESTS, RESPONSES, SERVICE
from serving.grpc.service import _AT_WORK
from tests.serving.grpc.asking import (
    ROW,
    TINY,
    Serving,
    request_of,
)

pytestmark = pytest.mark.integration  # two models, and a server on a port


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
    under_way = [ask.future(content, timeout=30) for _ in range(_AT_WORK)]
    try:
        wait_until(lambda: len(asked) == _AT_WORK)
        with pytest.raises(grpc.RpcError) as caught:
            ask(content, timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        free.set()
    assert all(RESPONSES["ModelInfer"].FromString(each.result()).model_name == "net" for each in under_way)
    serving.call("ModelInfer", request_of(ROW))
    assert len(asked) == _AT_WORK + 1


def test_calls_that_are_never_sent_whole_hold_up_nobody(serving: Serving) -> None:
    with half_sent(serving.address, 3 * _AT_WORK):
        assert serving.call("ModelInfer", request_of(ROW), timeout=10).model_name == "net"
        assert serving.call("ServerLive", timeout=10).live


@contextmanager
def half_sent(address: str, calls: int) -> Iterator[None]:
    """So many calls over one connection, each with its headers and half of its message, as gRPC frames them."""
    host, _, port = address.partition(":")
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{SERVICE}/ModelInfer",
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    # Each a literal that is not to be indexed, without Huffman's code.
    block = b"".join(
        b"\0" + b"".join(bytes([len(part)]) + part.encode() for part in pair) for pair in headers.items()
    )
    message = b"\0" + struct.pack(">I", 100) + bytes(50)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        for stream in range(1, 2 * calls, 2):
            connection.sendall(_frame(1, 4, stream, block) + _frame(0, 0, stream, message))
        time.sleep(0.5)  # until they hold what they will hold
        yield


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


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
