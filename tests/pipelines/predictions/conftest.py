"""Spools as servers leave them.

``spooled``: writes closed segments of a process that has ended, one per group of entries.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines.adapters.spool.records import Encoder, Entry
from pipelines.adapters.spool.segments import OpenSegment, Stream
from pipelines.settings import Settings


def write(segment: OpenSegment, encoder: Encoder, *entries: Entry) -> list[str]:
    for each in entries:
        segment.write(encoder.encode(each), len(each.ids))
    return [text for each in entries for text in each.ids]


@pytest.fixture(name="write")
def write_fixture() -> Callable[..., list[str]]:
    """``write(segment, encoder, *entries)`` appends entries; returns the ids of all rows."""
    return write


@pytest.fixture
def spooled() -> Callable[..., list[str]]:
    """``spooled(settings, *groups)`` writes a closed segment per group; returns the ids of all rows."""

    def spooled(settings: Settings, *groups: list[Entry], replica: str = "replica") -> list[str]:
        stream = Stream(settings.prediction_spool / replica)
        ids = []
        for group in groups:
            segment = stream.open_segment()
            ids += write(segment, Encoder(), *group)
            segment.close()
        stream.release()
        return ids

    return spooled
