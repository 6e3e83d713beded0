"""predictions: what the servers of this machine logged goes to the lake, each answer once.

A segment's rows and its name enter a table in one commit, and the segment is removed after it was
committed everywhere. A run that was killed in between finds the name in the table and adds
nothing; so do two runs at once.
"""

from __future__ import annotations

import fcntl
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.adapters.spool.records import Damage, Record, decode
from pipelines.adapters.spool.segments import Found, Segment, remove_stream, set_aside, streams
from pipelines.predictions import table
from pipelines.references import Reference, TableRef

if TYPE_CHECKING:
    from pipelines.settings import Settings

_BYTES_PER_COMMIT = 96 * 2**20  # bounds memory: a commit takes about five times as much

log = logging.getLogger(__name__)


class ShipmentRef(Reference):
    """What a run took from the spool.

    Attributes:
        segments: Files of the spool that are in the lake now and gone from the spool.
        rows: Added by this run, over all models.
        torn_bytes: Cut off at the ends of segments by crashes.
        damaged: Records whose checksum is wrong; their segments stay in the spool as ``*.damaged``.
        tables: The tables that grew.
    """

    segments: int
    rows: int
    torn_bytes: int
    damaged: int
    tables: dict[str, TableRef]


def run(settings: Settings) -> ShipmentRef:
    """Ship all segments that no living process writes to.

    Raises:
        LakeError: a table cannot be written; what was not shipped stays in the spool.
    """
    lake = Lake.of(settings)
    segments = rows = 0
    damage = Damage()
    tables: dict[str, TableRef] = {}
    with alone(settings.prediction_spool):
        found = list(streams(settings.prediction_spool))
        for batch in _batches(_ready(found)):
            shipped = _ship(lake, batch, damage)
            segments += len(batch)
            rows += sum(reference.rows_added for reference in shipped.values())
            tables |= shipped
        for stream in found:
            remove_stream(stream)
    if damage.torn_bytes or damage.frames:
        log.warning(
            "prediction log: %d bytes were torn by crashes, %d records are damaged (kept as *.damaged in %s)",
            *(damage.torn_bytes, damage.frames, settings.prediction_spool),
        )
    return ShipmentRef(
        segments=segments, rows=rows, torn_bytes=damage.torn_bytes, damaged=damage.frames, tables=tables
    )


def _ready(found: Iterable[Found]) -> Iterator[Segment]:
    """Closed segments, and what dead processes left open."""
    for stream in found:
        for segment in stream.segments:
            if segment.rows is not None or not stream.alive:
                yield segment


def _batches(segments: Iterable[Segment]) -> Iterator[list[tuple[Segment, bytes]]]:
    """Segments with their content, as many as go into one commit."""
    batch: list[tuple[Segment, bytes]] = []
    size = 0
    for segment in segments:
        try:
            content = segment.path.read_bytes()
        except FileNotFoundError:
            continue  # the spool was full, and the server made room
        if batch and size + len(content) > _BYTES_PER_COMMIT:
            yield batch
            batch, size = [], 0
        batch.append((segment, content))
        size += len(content)
    if batch:
        yield batch


def _ship(lake: Lake, batch: list[tuple[Segment, bytes]], damage: Damage) -> dict[str, TableRef]:
    by_model: dict[str, dict[Segment, list[Record]]] = defaultdict(lambda: defaultdict(list))
    damaged = set()
    for segment, content in batch:
        before = damage.frames
        for record in decode(content, damage):
            by_model[record.layout.model][segment].append(record)
        if damage.frames > before:
            damaged.add(segment)
    shipped = {
        table.table_of(model): reference
        for model, records in by_model.items()
        if (reference := _append(lake, model, records)) is not None
    }
    for segment, _ in batch:
        if segment in damaged:
            set_aside(segment)
        else:
            segment.path.unlink(missing_ok=True)
    return shipped


def _append(lake: Lake, model: str, records: dict[Segment, list[Record]]) -> TableRef | None:
    """Add the rows of those segments that the model's table does not hold yet."""
    from pipelines.predictions.steps import DAY, rows_of

    name = table.table_of(model)
    done = lake.done(name, [segment.work for segment in records])
    new = {segment: each for segment, each in records.items() if segment.work not in done}
    if not new:
        return None
    exists = lake.exists(name)
    if not exists:
        table.enter(lake, model)
    rows = rows_of(
        ((segment.replica, record) for segment, each in new.items() for record in each),
        dict(lake.scan(name).collect_schema()) if exists else None,
    )
    return lake.append(name, rows, work=[segment.work for segment in new], partition_by=DAY)


@contextmanager
def alone(spool: Path) -> Iterator[None]:
    """One shipper at a time on this machine: two would read the same files for nothing."""
    spool.mkdir(parents=True, exist_ok=True)
    with (spool / "shipping.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
