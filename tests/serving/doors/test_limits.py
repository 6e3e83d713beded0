"""Explanations, limits of size and time, and what is answered off the loop."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
from typing import Any

import numpy as np
import orjson
import pytest

from serving.app import Server
from serving.plan import DATATYPES
from tests.serving.conftest import wait_until
from tests.serving.doors.asking import (
    CLIENT_SECONDS,
    KINDS,
    MAX_BODY_BYTES,
    RECORDS,
    ROW,
    Serving,
)

pytestmark = pytest.mark.integration  # nine models, and a server on a port


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
