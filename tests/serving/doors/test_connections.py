"""What goes over a connection: an answer in one piece, an interim answer before it, answers in the order of requests."""

from __future__ import annotations

import json
import socket

import pytest

from tests.serving.doors.asking import ROW, Serving

pytestmark = pytest.mark.integration  # nine models, and a server on a port

BODY = json.dumps({"records": [ROW]}).encode()
HEAD = b"POST /models/tiny/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(BODY)
REQUEST = HEAD + b"\r\n" + BODY


@pytest.fixture
def connection(serving: Serving) -> socket.socket:
    client = socket.create_connection(serving.address, timeout=10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def split(answer: bytes) -> tuple[bytes, bytes]:
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head, rest


def length_of(head: bytes) -> int:
    (line,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(line.partition(b":")[2])


def test_head_and_body_of_an_answer_come_in_one_piece(connection: socket.socket) -> None:
    for _ in range(50):
        connection.sendall(REQUEST)
        head, body = split(connection.recv(65536))
        assert head.startswith(b"HTTP/1.1 200")
        assert len(body) == length_of(head)
        assert json.loads(body)["model"] == "tiny"


def test_an_interim_answer_is_not_held_back(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"expect: 100-continue\r\n\r\n")
    assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(BODY)
    head, body = split(connection.recv(65536))
    assert (head[:12], len(body)) == (b"HTTP/1.1 200", length_of(head))


def test_requests_in_one_piece_are_answered_in_their_order(connection: socket.socket) -> None:
    wrong = BODY.replace(b"95.0", b"9500")
    assert len(wrong) == len(BODY)
    connection.sendall(REQUEST + HEAD + b"\r\n" + wrong + REQUEST)
    answers, rest = [], b""
    while len(answers) < 3:
        rest += connection.recv(65536)
        while b"\r\n\r\n" in rest:
            head, body = split(rest)
            if len(body) < length_of(head):
                break
            answers.append(head[9:12])
            rest = body[length_of(head) :]
    assert (answers, rest) == ([b"200", b"422", b"200"], b"")


@pytest.mark.parametrize("path", [b"/", b"/metrics"])
def test_an_answer_without_a_body_ends_with_its_head(connection: socket.socket, path: bytes) -> None:
    connection.sendall(b"HEAD " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    head, body = split(connection.recv(65536))
    assert head.startswith(b"HTTP/1.1 ")
    assert body == b""
    connection.sendall(REQUEST)  # the connection goes on
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
