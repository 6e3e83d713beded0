"""Load: a process of its own that sends one request after another on each of some connections.

``python -m benchmarks.serving.load PLAN`` reads a JSON plan and prints what it saw as JSON. Raw
sockets on uvloop, so that the generator costs less than any of the servers; a closed loop, so
latency is that of a server with so many callers, not of a queue that grows.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        requests: Whole HTTP requests in base64, sent in turn.
        warm_up_seconds: Sent, but not counted.
    """

    host: str
    port: int
    requests: list[str]
    connections: int
    seconds: float
    warm_up_seconds: float = 1.0


@dataclass(frozen=True)
class Seen:
    """What came back between the end of the warm-up and the end."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Caller(Protocol):
    """Asks one request after another.

    Attributes:
        latencies: Of each answer, s.
    """

    latencies: list[float]
    errors: int


class _Connection(asyncio.Protocol):
    """One connection that has one request under way."""

    def __init__(self, requests: list[bytes], first: int) -> None:
        self._requests = requests
        self._turn = first
        self._buffer = bytearray()
        self._wanted: int | None = None
        self.latencies: list[float] = []
        self.errors = 0
        self.stopped = False
        self.closed = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._wanted is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end])
            if (length := _LENGTH.search(head)) is not None:
                self._wanted = end + 4 + int(length[1])
            elif _CHUNKED.search(head) is None:
                raise RuntimeError(f"an answer without a length: {head[:200]!r}")
        if self._wanted is None:
            if not self._buffer.endswith(b"0\r\n\r\n"):
                return
        elif len(self._buffer) < self._wanted:
            return
        self.latencies.append(time.perf_counter() - self._sent)
        if self._buffer[9:12] != b"200":
            self.errors += 1
        self._buffer.clear()
        self._wanted = None
        if self.stopped:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if not self.stopped:
            self.errors += 1

    def _send(self) -> None:
        self._turn = (self._turn + 1) % len(self._requests)
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._turn])


async def run(plan: Plan) -> Seen:
    requests = requests_of(plan)
    loop = asyncio.get_running_loop()
    callers = []
    for number in range(plan.connections):
        _, caller = await loop.create_connection(partial(_Connection, requests, number), plan.host, plan.port)
        callers.append(caller)
    found = await measured(plan, callers)
    for caller in callers:
        caller.stopped = True
    return found


def requests_of(plan: Plan) -> list[bytes]:
    return [base64.b64decode(text) for text in plan.requests]


async def measured(plan: Plan, callers: Sequence[Caller]) -> Seen:
    """What callers that are at work already see between the end of the warm-up and the end."""
    await asyncio.sleep(plan.warm_up_seconds)
    for caller in callers:
        caller.latencies.clear()
        caller.errors = 0
    print("measuring", file=sys.stderr, flush=True)
    began = time.perf_counter()
    await asyncio.sleep(plan.seconds)
    took = time.perf_counter() - began
    print("measured", file=sys.stderr, flush=True)
    return summary([caller.latencies for caller in callers], sum(caller.errors for caller in callers), took)


def summary(latencies: Sequence[Sequence[float]], errors: int, took: float) -> Seen:
    """Of all callers together.

    Args:
        latencies: Of each caller, s.
        took: How long they were measured, s.
    """
    milliseconds = np.concatenate([np.array(each) for each in latencies]) * 1000
    if not len(milliseconds):
        return Seen(0, errors, took, float("nan"), float("nan"))
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Seen(len(milliseconds), errors, took, float(p50), float(p99))


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(run(Plan(**json.load(sys.stdin)))))))
