"""Prediction ids: UUIDs of version 7 (RFC 9562), ordered by time, made without asking anybody.

From the most significant bit: 48 bits of Unix milliseconds, version, 12 bits of the millisecond's
fraction (method 3 of section 6.2), variant, 38 random bits of the process, and a counter of 24
bits. Rows of one answer have consecutive counters, so that the first id and their number say all.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import overload

_COUNTER_BITS = 24
_PROCESS_BITS = 38
_COUNTERS = 1 << _COUNTER_BITS
_VARIANT = 2 << 62
_VERSION = 7 << 12
_NANOSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PredictionIds(Sequence[str]):
    """Ids of the rows of one answer. Text is made when it is asked for.

    Attributes:
        high: The upper 64 bits, which all of them share.
        low: The lower 64 bits of the first; the next rows count on.
    """

    __slots__ = ("_count", "high", "low")

    def __init__(self, high: int, low: int, count: int) -> None:
        self.high = high
        self.low = low
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        high, low = f"{self.high:016x}", f"{self.low:016x}"
        start = f"{high[:8]}-{high[8:12]}-{high[12:]}-{low[:4]}-{low[4:10]}"
        first = self.low & (_COUNTERS - 1)
        return (f"{start}{counter:06x}" for counter in range(first, first + self._count))

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return list(self)[index]
        row = range(self._count)[index]  # raises IndexError, and counts negative ones from the end
        high, low = f"{self.high:016x}", f"{self.low + row:016x}"
        return f"{high[:8]}-{high[8:12]}-{high[12:]}-{low[:4]}-{low[4:]}"

    def __repr__(self) -> str:
        return f"PredictionIds({self[0]}, {self._count} rows)" if self._count else "PredictionIds(none)"


class IdSource:
    """Makes ids for one process. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process = _VARIANT | secrets.randbits(_PROCESS_BITS) << _COUNTER_BITS
        self._last = 0
        self._counter = 0

    def take(self, count: int = 1) -> PredictionIds:
        """Ids for so many rows, each larger than all that this source gave before.

        Raises:
            ValueError: more than 16,777,216 at once.
        """
        if count > _COUNTERS:
            raise ValueError(f"{count} ids at once; at most {_COUNTERS} are given")
        milliseconds, rest = divmod(time.time_ns(), _NANOSECONDS)
        high = milliseconds << 16 | _VERSION | (rest << 12) // _NANOSECONDS
        with self._lock:
            if high < self._last:
                high = self._last  # the clock was set back, or another thread was quicker
            first = self._counter
            if first + count > _COUNTERS or (high != self._last and first > _COUNTERS // 2):
                # Counters begin anew; within one 4,096th of a millisecond they must not.
                high = max(high, _next(self._last))
                first = 0
            self._last = high
            self._counter = first + count
        return PredictionIds(high, self._process | first, count)


def _next(high: int) -> int:
    """The upper bits one 4,096th of a millisecond later."""
    return high + 1 if high & 0xFFF != 0xFFF else ((high >> 16) + 1) << 16 | _VERSION


def moment_of(high: int) -> datetime:
    """When an id was given (UTC, microseconds), by its upper 64 bits."""
    return _EPOCH + timedelta(microseconds=(high >> 16) * 1000 + ((high & 0xFFF) * 1000 >> 12))


def parse_id(text: str) -> tuple[int, int]:
    """Upper and lower 64 bits of an id.

    Raises:
        ValueError: it is no prediction id.
    """
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no prediction id; one reads like {_example()}") from None
    if parsed.version != 7:
        raise ValueError(f"{text[:80]!r} is no prediction id: those are UUIDs of version 7, as {_example()}")
    return parsed.int >> 64, parsed.int & (1 << 64) - 1


def _example() -> str:
    return "019438f1-2a80-7c3e-8f00-5b7a1c000001"
