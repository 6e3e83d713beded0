"""Callers at a steady rate: a process of its own, an open loop.

``python -m benchmarks.serving.paced`` reads a JSON plan, asks until SIGTERM, and writes one line per
request: when it was due (s, monotonic), how long its answer took from then, status (0: none came), version,
and whether each row is as that version must answer it. A request is due when the clock says so, not when the
one before was answered; a connection that is cut is made anew for the next.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

import orjson
import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TICK_SECONDS = 0.002
_TOLERANCE = 1e-9


class _Connection(asyncio.Protocol):
    """Asks one request after another."""

    def __init__(self, owner: _Callers) -> None:
        self._owner = owner
        self._buffer = bytearray()
        self._under_way: tuple[float, int] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, due: float, place: int) -> None:
        self._under_way = due, place
        self._buffer.clear()
        self._transport.write(self._owner.requests[place])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or (length := _LENGTH.search(self._buffer[:end])) is None:
            return
        if len(self._buffer) < end + 4 + int(length[1]):
            return
        status, content = int(self._buffer[9:12]), bytes(self._buffer[end + 4 :])
        asked, self._under_way = self._under_way, None
        if asked is not None:
            self._owner.answered(*asked, status, content)
        self._owner.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._owner.idle:
            self._owner.idle.remove(self)
        if self._under_way is not None:
            self._owner.answered(*self._under_way, 0, b"")
        self._owner.connections -= 1


class _Callers:
    def __init__(self, plan: dict[str, Any], out: TextIO) -> None:
        self._plan = plan
        self._out = out
        self.requests = [_request(plan["path"], body) for body in plan["bodies"]]
        self.idle: deque[_Connection] = deque()
        self.connections = 0

    async def run(self, stopped: asyncio.Event) -> None:
        began, sent = time.monotonic(), 0
        while not stopped.is_set():
            await self._connect()
            due_by_now = int((time.monotonic() - began) * self._plan["per_second"])
            while sent < due_by_now:
                due = began + (sent + 1) / self._plan["per_second"]
                if self.idle:
                    self.idle.popleft().ask(due, sent % len(self.requests))
                elif self.connections == 0:
                    self.answered(due, 0, 0, b"")  # nobody listens
                else:
                    break  # all connections wait for answers; what is due meanwhile is asked late
                sent += 1
            await asyncio.sleep(_TICK_SECONDS)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while self.connections < self._plan["connections"]:
            try:
                _, made = await loop.create_connection(
                    lambda: _Connection(self), "127.0.0.1", self._plan["port"]
                )
            except OSError:
                return
            self.connections += 1
            self.idle.append(made)

    def answered(self, due: float, place: int, status: int, content: bytes) -> None:
        seconds = time.monotonic() - due
        version, right = "", False
        if status == 200:
            told = orjson.loads(content)
            version = told["version"]
            wanted = self._plan["expected"].get(version)
            given = [row["probability"] for row in told["predictions"]]
            right = wanted is not None and all(
                math.isclose(one, other, rel_tol=_TOLERANCE)
                for one, other in zip(given, wanted[place], strict=True)
            )
        self._out.write(json.dumps([due, seconds, status, version, right]) + "\n")


def _request(path: str, body: str) -> bytes:
    content = body.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def main() -> None:
    plan = json.load(sys.stdin)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    with Path(plan["out"]).open("w") as out:
        await _Callers(plan, out).run(stopped)
        await asyncio.sleep(1.0)  # for the last answers


if __name__ == "__main__":
    uvloop.run(main())
