"""Bodies of requests, read within limits of size, time and memory."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from serving.errors import (
    BusyError,
    MalformedRequestError,
    SlowClientError,
    TooLargeError,
    UnsupportedMediaError,
)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# What every connection may hold without counting: so large batches, however many, cannot keep out small requests.
_SMALL_BYTES = 64 * 1024
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


class Bodies:
    """Reads the bodies of one server.

    Args:
        max_bytes: Of one body, as sent and unpacked.
        max_held_bytes: Of all large bodies that are being read or answered.
        max_seconds: From the first byte of a body to its last.
    """

    def __init__(self, max_bytes: int, max_held_bytes: int, max_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._max_seconds = max_seconds
        self._small_bytes = min(_SMALL_BYTES, max_bytes)
        self.held_bytes = 0

    def at_once(self, message: MutableMapping[str, Any], headers: Mapping[bytes, bytes]) -> bytes | None:
        """The body, where the first message holds all of a small one; None: :meth:`read` it."""
        if message["type"] != "http.request" or message.get("more_body") or b"content-encoding" in headers:
            return None
        content: bytes = message.get("body", b"")
        return content if len(content) <= self._small_bytes else None

    async def read(
        self, message: MutableMapping[str, Any], headers: Mapping[bytes, bytes], receive: Receive
    ) -> tuple[bytes, int]:
        """The whole body from its first message on, and how much of it to :meth:`release` when it is answered.

        Raises:
            TooLargeError: it is larger than allowed; the rest is not read.
            SlowClientError: it did not come in time.
            BusyError: all large bodies together would be too large.
            MalformedRequestError: the client broke off, or the body cannot be unpacked.
        """
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        content, held = await self._rest(message, receive)
        if b"content-encoding" in headers:
            try:
                content = self._unpacked(headers[b"content-encoding"], content)
            except BaseException:
                self.release(held)
                raise
        return content, held

    def release(self, held: int) -> None:
        self.held_bytes -= held

    async def _rest(self, message: MutableMapping[str, Any], receive: Receive) -> tuple[bytes, int]:
        content, held = bytearray(), 0
        try:
            async with asyncio.timeout(self._max_seconds):
                while True:
                    if message["type"] == "http.disconnect":
                        raise MalformedRequestError("the client broke off before the end of the body")
                    chunk = message.get("body", b"")
                    self._check(len(content) + len(chunk))
                    if len(content) + len(chunk) > _SMALL_BYTES:
                        self._take(len(chunk))
                        held += len(chunk)
                    content += chunk
                    if not message.get("more_body"):
                        return bytes(content), held
                    message = await receive()
        except BaseException as error:
            self.release(held)
            if isinstance(error, TimeoutError):
                raise SlowClientError(
                    f"the body did not come within {self._max_seconds:g} s ({len(content)} bytes of it did)"
                ) from error
            raise

    def _take(self, count: int) -> None:
        if self.held_bytes + count > self._max_held_bytes:
            raise BusyError(
                f"bodies of {self.held_bytes} bytes are under way, at most {self._max_held_bytes} are taken at once; "
                "send it again a little later"
            )
        self.held_bytes += count

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body is larger than {self._max_bytes} bytes; send fewer rows at once")

    def _unpacked(self, named: bytes, content: bytes) -> bytes:
        coding = named.strip().lower()
        if coding == b"identity":
            return content
        if coding not in _WINDOW_BITS:
            raise UnsupportedMediaError(
                f"content-encoding {coding.decode('latin-1')[:40]!r} is not taken; gzip, deflate or none is wanted"
            )
        unpacker = zlib.decompressobj(_WINDOW_BITS[coding])
        try:
            unpacked = unpacker.decompress(content, self._max_bytes + 1)
        except zlib.error as error:
            raise MalformedRequestError(f"the body is not {coding.decode()}: {error}") from error
        self._check(len(unpacked))
        if not unpacker.eof:
            raise MalformedRequestError(f"the body ends in the middle of its {coding.decode()} stream")
        return unpacked
