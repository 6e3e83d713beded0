"""Limits of rate, one per API key, that all processes of a server share.

The token bucket in the form of the generic cell rate algorithm (ITU-T I.371, annex A): instead of tokens
and the time they were counted at, one number per key is kept, the *theoretical arrival time* at
which the bucket is full again. It lives in memory that was shared before the processes parted. Two
processes that take a token in the same microsecond may write one of two; a limit is let over by so much
and never locks anybody out.
"""

from __future__ import annotations

import mmap
import struct
import time

from serving.errors import RateLimitedError
from serving.keys import Key

_SLOT = struct.Struct("=d")
_SLOTS = 131_072  # keys' numbers never come twice; a machine keeps only the pages that are used


class RateLimits:
    """Takes tokens. Make it before the processes of a server are forked."""

    def __init__(self) -> None:
        self._full_at = mmap.mmap(-1, _SLOTS * _SLOT.size)

    def take(self, key: Key, now: float | None = None) -> None:
        """Take one token of the key's bucket.

        Args:
            now: Seconds of the monotonic clock, which all processes of a machine share.

        Raises:
            RateLimitedError: it is empty.
        """
        if key.requests_per_second is None:
            return
        now = time.monotonic() if now is None else now
        place = key.number % _SLOTS * _SLOT.size
        (full_at,) = _SLOT.unpack_from(self._full_at, place)
        interval = 1.0 / key.requests_per_second
        wait = full_at - now - (key.burst - 1) * interval
        # A tolerance of a nanosecond: what is due now must not be late by a rounding.
        if wait > 1e-9:
            raise RateLimitedError(
                f"the API key {key.id} ({key.name}) may send {key.requests_per_second:g} requests a second, "
                f"and {key.burst} at once; send it again in {wait:.3g} s",
                wait,
            )
        _SLOT.pack_into(self._full_at, place, max(full_at, now) + interval)
