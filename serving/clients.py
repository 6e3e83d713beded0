"""uvicorn's HTTP protocol, with a limit for clients that dawdle over headers or answers, and one write an answer.

uvicorn itself limits only the idle time between requests. A connection that sends its headers a
byte at a time, or never reads its answer, would otherwise stay open for ever. And it writes the head of an
answer and its body each for itself: two system calls, two packets, and a client that wakes up twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LOOKS_PER_LIMIT = 4
_INTERIM = b"HTTP/1.1 100 "


def watched_protocol(max_seconds: float) -> Callable[..., HttpToolsProtocol]:
    """A protocol for ``uvicorn.Config(http=…)``.

    Args:
        max_seconds: From the first byte of a request's headers to their last; and for a client
            to take anything of an answer that waits for it.
    """

    def make(*args: Any, **kwargs: Any) -> HttpToolsProtocol:
        return _WatchedProtocol(max_seconds, *args, **kwargs)

    return make


class _WatchedProtocol(HttpToolsProtocol):
    """Looks at its connection now and then: a timer per request would cost more than it saves."""

    def __init__(self, max_seconds: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_seconds = max_seconds
        self._headers_since: float | None = None
        self._unread = 0
        self._unread_since: float | None = None
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_since = self.loop.time()  # a client that says nothing counts too
        self._look = self.loop.call_later(self._max_seconds / _LOOKS_PER_LIMIT, self._look_at_connection)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._headers_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._headers_since = None
        before = self.cycle
        super().on_headers_complete()
        # An answer to HEAD has no body that its head could wait for.
        if self.cycle is not before and self.scope["method"] != "HEAD":
            self.cycle.transport = _OneWrite(self.transport)  # type: ignore[assignment]

    def _look_at_connection(self) -> None:
        now = self.loop.time()
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread != self._unread:
            self._unread_since = now if unread else None
        self._unread = unread
        for since in (self._headers_since, self._unread_since):
            if since is not None and now - since > self._max_seconds:
                self.transport.abort()
                return
        self._look = self.loop.call_later(self._max_seconds / _LOOKS_PER_LIMIT, self._look_at_connection)


class _OneWrite:
    """The transport of one answer: its head goes out with the first part of its body."""

    __slots__ = ("_begun", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        self._begun = False

    def write(self, data: bytes) -> None:
        if self._begun or data.startswith(_INTERIM):
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._begun = True
            self._transport.writelines((self._head, data))

    def close(self) -> None:
        if self._head is not None and not self._begun:  # the application ended in the middle of its answer
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
