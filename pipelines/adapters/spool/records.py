"""How an answer lies in the spool: frames of length, checksum and content.

A frame is the length of its content (uint32), the CRC-32 of its content (uint32), both
little-endian, and the content. The first byte of the content is its kind:

- ``L``: a *layout* — the model, version, alias and transport that the records after it share, and
  the names and types of inputs and outputs — as JSON. Each segment has its own.
- ``R``: a *record* — one answer of n rows: a header, the features (n, d) and the numeric outputs
  (n, k) as raw float64, then what is text as JSON, where there is any.

Only numbers take the short way, since nearly everything is one.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.manifest import FieldType
from pipelines.adapters.spool.ids import PredictionIds, moment_of
from pipelines.adapters.traffic import SHADOW

MAGIC = b"HEADRACE SPOOL 1\n"

_FRAME = struct.Struct("<II")
# kind, flags, layout, rows, id (upper, lower), seconds to answer, moment asked for (µs since 1970)
_RECORD = struct.Struct("<cBHIQQdq")
_LAYOUT_KIND, _RECORD_KIND = b"L", b"R"
_HAS_TEXT, _HAS_MOMENT = 1, 2
_NO_TEXTS: Mapping[str, Sequence[str | None]] = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Layout:
    """What the records of one version, alias and transport share.

    Attributes:
        inputs, outputs: Name and type, in the order of the manifest.
        alias: As what the version answered: ``production``, ``challenger``, ``shadow``; empty
            where it was asked for by its number.
    """

    model: str
    version: str
    alias: str
    transport: str
    inputs: tuple[tuple[str, FieldType], ...]
    outputs: tuple[tuple[str, FieldType], ...]

    @cached_property
    def numeric_outputs(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.outputs if kind is not FieldType.STRING)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row without text."""
        return 8 * (len(self.inputs) + len(self.outputs))

    @cached_property
    def text_inputs(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.inputs if kind is FieldType.STRING)

    @cached_property
    def text_outputs(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.outputs if kind is FieldType.STRING)


class Entry(NamedTuple):
    """One answer as the server hands it over; arrays are read later, on another thread.

    Attributes:
        features: Float64 of shape (n, d) in the order of the layout's inputs, row by row, as array
            or as its bytes, with NaN for missing values and in the place of text.
        texts: Text inputs by name.
        outputs: Arrays of shape (n,) by name.
        seconds: From the request being read to the answer being ready.
        entities: One per row, or None.
        at: Moment that the prediction is about, where the request named entities.
    """

    layout: Layout
    ids: PredictionIds
    features: NDArray[np.float64] | bytes
    outputs: Mapping[str, NDArray]
    seconds: float
    entities: Sequence[str] | None = None
    at: datetime | None = None
    texts: Mapping[str, Sequence[str | None]] = _NO_TEXTS
    request_id: str = ""


@dataclass(frozen=True)
class Record:
    """One answer as it was read back.

    Attributes:
        features: Shape (n, d), in the order of the layout's inputs; NaN for missing and for text.
        outputs: Shape (n, k), the numeric outputs in the layout's order.
        texts: Text inputs and outputs, ``{"inputs": {name: [...]}, "outputs": {name: [...]}}``.
    """

    layout: Layout
    ids: PredictionIds
    features: NDArray[np.float64]
    outputs: NDArray[np.float64]
    seconds: float
    entities: Sequence[str] | None
    at: datetime | None
    texts: Mapping[str, Mapping[str, Sequence[str | None]]]
    request_id: str

    @property
    def answered_at(self) -> datetime:
        return moment_of(self.ids.high)


@dataclass
class Damage:
    """What could not be read of a segment.

    Attributes:
        torn_bytes: At its end: a write that a crash cut off.
        frames: In its midst: the checksum is wrong. Never the work of a killed process.
    """

    torn_bytes: int = 0
    frames: int = 0


class Encoder:
    """Frames of one segment. A layout is written before the first record that needs it."""

    def __init__(self) -> None:
        # By identity: comparing all names would cost more than writing a record.
        self._layouts: dict[int, tuple[int, Layout]] = {}

    def encode(self, entry: Entry) -> bytes:
        """The frames of one entry.

        Raises:
            ValueError: its arrays do not have the layout's shapes.
            KeyError: an output is absent.
        """
        before, number = self._layout(entry.layout)
        layout, ids = entry.layout, entry.ids
        rows, flags = len(ids), 0
        features = entry.features if isinstance(entry.features, bytes) else entry.features.tobytes()
        outputs = b"".join(
            [np.asarray(entry.outputs[name], np.float64).tobytes() for name in layout.numeric_outputs]
        )
        width = 8 * rows
        if len(features) != width * len(layout.inputs) or len(outputs) != width * len(layout.numeric_outputs):
            raise ValueError(
                f"{len(features)} bytes of features and {len(outputs)} of outputs are not {rows} rows of {layout.model}"
            )
        text = _text(entry)
        at = 0
        if entry.at is not None:
            flags |= _HAS_MOMENT
            at = (entry.at - _EPOCH) // _MICROSECOND
        header = _RECORD.pack(
            _RECORD_KIND,
            flags | (_HAS_TEXT if text else 0),
            number,
            rows,
            ids.high,
            ids.low,
            entry.seconds,
            at,
        )
        content = b"".join((header, features, outputs, text))
        return before + _FRAME.pack(len(content), zlib.crc32(content)) + content

    def _layout(self, layout: Layout) -> tuple[bytes, int]:
        known = self._layouts.get(id(layout))
        if known is not None:
            return b"", known[0]
        number = len(self._layouts)
        self._layouts[id(layout)] = number, layout
        return _layout_frame(number, layout), number


def decode(content: bytes, damage: Damage) -> Iterator[Record]:
    """The records of a segment, oldest first; what cannot be read is counted in ``damage``."""
    layouts: dict[int, Layout] = {}
    for frame in _frames(content, damage):
        if frame[:1] == _LAYOUT_KIND:
            _read_layout(frame, layouts)
        else:
            record = _record(frame, layouts)
            if record is None:
                damage.frames += 1
            else:
                yield record


def find(content: bytes, high: int, low: int, damage: Damage) -> tuple[Record, int] | None:
    """The record that holds an id, and the row in it; decodes no other. Mirrored answers, which no client has,
    go by the ids of those that they mirror, and are passed over."""
    layouts: dict[int, Layout] = {}
    for frame in _frames(content, damage):
        if frame[:1] == _LAYOUT_KIND:
            _read_layout(frame, layouts)
            continue
        _, _, _, rows, its_high, its_low, _, _ = _RECORD.unpack_from(frame)
        if its_high == high and its_low <= low < its_low + rows:
            record = _record(frame, layouts)
            if record is not None and record.layout.alias != SHADOW:
                return record, low - its_low
    return None


def _frames(content: bytes, damage: Damage) -> Iterator[memoryview]:
    view = memoryview(content)
    if not content.startswith(MAGIC):
        damage.torn_bytes += len(content)
        return
    at, end = len(MAGIC), len(content)
    while at < end:
        start = at + _FRAME.size
        length, checksum = _FRAME.unpack_from(view, at) if start <= end else (0, 0)
        # A length of 0 is what a file system leaves that grew the file but did not write it.
        if length == 0 or start + length > end:
            damage.torn_bytes += end - at
            return
        frame = view[start : start + length]
        at = start + length
        if zlib.crc32(frame) != checksum or not _is_whole(frame):
            # The last frame is torn, also where the file system filled the file up; one with others
            # behind it was changed.
            if not bytes(view[at:]).strip(b"\0"):
                damage.torn_bytes += end - start + _FRAME.size
                return
            damage.frames += 1
            continue
        yield frame


def _is_whole(frame: memoryview) -> bool:
    return frame[:1] == _LAYOUT_KIND or (frame[:1] == _RECORD_KIND and len(frame) >= _RECORD.size)


def _layout_frame(number: int, layout: Layout) -> bytes:
    fields = {
        "number": number,
        "model": layout.model,
        "version": layout.version,
        "alias": layout.alias,
        "transport": layout.transport,
        "inputs": [[name, kind.value] for name, kind in layout.inputs],
        "outputs": [[name, kind.value] for name, kind in layout.outputs],
    }
    content = _LAYOUT_KIND + json.dumps(fields).encode()
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


def _read_layout(frame: memoryview, layouts: dict[int, Layout]) -> None:
    fields = json.loads(bytes(frame[1:]))
    for name in ("inputs", "outputs"):
        fields[name] = tuple((each, FieldType(kind)) for each, kind in fields[name])
    number: int = fields.pop("number")
    layouts[number] = Layout(**fields)


def _text(entry: Entry) -> bytes:
    layout = entry.layout
    told: dict[str, Any] = {}
    if layout.text_inputs:
        told["inputs"] = {
            name: _plain(entry.texts[name]) for name in layout.text_inputs if name in entry.texts
        }
    if layout.text_outputs:
        told["outputs"] = {name: _plain(entry.outputs[name]) for name in layout.text_outputs}
    if entry.entities is not None:
        told["entities"] = _plain(entry.entities)
    if entry.request_id:
        told["request_id"] = entry.request_id
    return json.dumps(told).encode() if told else b""


def _plain(values: Any) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def _record(frame: memoryview, layouts: Mapping[int, Layout]) -> Record | None:
    _, flags, number, rows, high, low, seconds, at = _RECORD.unpack_from(frame)
    layout = layouts.get(number)
    if layout is None:
        return None
    d, k = len(layout.inputs), len(layout.numeric_outputs)
    numbers = np.frombuffer(frame, np.float64, rows * (d + k), _RECORD.size)
    features, outputs = numbers[: rows * d], numbers[rows * d :].reshape(k, rows).T
    text: dict[str, Any] = {}
    if flags & _HAS_TEXT:
        text = json.loads(bytes(frame[_RECORD.size + numbers.nbytes :]))
    return Record(
        layout=layout,
        ids=PredictionIds(high, low, rows),
        features=features.reshape(rows, d),
        outputs=outputs,
        seconds=seconds,
        entities=text.get("entities"),
        at=_EPOCH + at * _MICROSECOND if flags & _HAS_MOMENT else None,
        texts={"inputs": text.get("inputs", {}), "outputs": text.get("outputs", {})},
        request_id=text.get("request_id", ""),
    )
