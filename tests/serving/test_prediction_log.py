"""The prediction log: ids, the queue and its bounds, what lies on the disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from models.manifest import FieldType
from pipelines.adapters.spool.ids import IdSource, PredictionIds, moment_of, parse_id
from pipelines.adapters.spool.records import Damage, Encoder, Entry, Layout, Record, decode, find
from pipelines.adapters.spool.segments import MAGIC, OpenSegment, streams
from pipelines.errors import ProcessError
from serving.prediction_log import PredictionLog

# Ids


def test_ids_are_uuids_of_version_7_in_order_of_time() -> None:
    source = IdSource()
    texts = [text for count in (1, 3, 1, 1000, 1) for text in source.take(count)]
    assert len(set(texts)) == len(texts)
    assert texts == sorted(texts)
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in texts} == {(7, uuid.RFC_4122)}


def test_an_id_tells_when_it_was_given() -> None:
    before = datetime.now(UTC)
    ids = IdSource().take()
    after = datetime.now(UTC)
    high, low = parse_id(ids[0])
    assert (high, low) == (ids.high, ids.low)
    assert before - timedelta(microseconds=1) <= moment_of(high) <= after


def test_a_clock_that_is_set_back_gives_no_id_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000_000_000_000
    monkeypatch.setattr("pipelines.adapters.spool.ids.time.time_ns", lambda: now)
    source = IdSource()
    texts = [source.take(2**24 - 1)[-1]]  # the counter runs over while the clock stands still
    for step in (0, -3600, -7200, 1):
        now += step * 10**9
        texts += [*source.take(5), *source.take(1)]
    assert len(set(texts)) == len(texts)
    assert texts == sorted(texts)


def test_two_processes_give_no_id_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.adapters.spool.ids.time.time_ns", lambda: 1_800_000_000_000_000_000)
    sources = [IdSource() for _ in range(20)]
    assert len({text for source in sources for text in source.take(100)}) == 2000


@pytest.mark.parametrize("text", ["", "17", "not an id", str(uuid.UUID(int=1, version=4)), "é" * 36])
def test_what_is_no_prediction_id_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no prediction id.* 019438f1-"):
        parse_id(text)


def test_ids_are_a_sequence() -> None:
    ids = IdSource().take(4)
    assert list(ids) == [ids[0], ids[1], ids[2], ids[-1]]
    assert ids[1:3] == list(ids)[1:3]
    with pytest.raises(IndexError):
        ids[4]


# Records

NAMES = st.text(min_size=1, max_size=12)
KINDS = st.sampled_from(list(FieldType))
FIELDS = st.lists(st.tuples(NAMES, KINDS), min_size=1, max_size=5, unique_by=lambda field: field[0])
DOUBLES = st.floats(width=64, allow_nan=True, allow_infinity=True)
TEXTS = st.none() | st.text(max_size=10)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    layout = Layout(
        draw(NAMES),
        str(draw(st.integers(1, 99))),
        "production",
        "rest",
        tuple(draw(FIELDS)),
        tuple(draw(FIELDS)),
    )
    rows = draw(st.integers(1, 4))

    def column(kind: FieldType) -> list[Any]:
        values = {FieldType.STRING: TEXTS, FieldType.BOOLEAN: st.booleans()}.get(kind, DOUBLES)
        return draw(st.lists(values, min_size=rows, max_size=rows))

    features = np.full((rows, len(layout.inputs)), np.nan)
    texts = {}
    for position, (name, kind) in enumerate(layout.inputs):
        if kind is FieldType.STRING:
            texts[name] = column(kind)
        else:
            features[:, position] = column(kind)
    outputs = {
        name: np.array(column(kind), None if kind is not FieldType.STRING else object)
        for name, kind in layout.outputs
    }
    moments = st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
    return Entry(
        layout,
        draw(st.sampled_from([IdSource()])).take(rows),
        features.tobytes() if draw(st.booleans()) else features,
        outputs,
        draw(st.floats(0, 1e6)),
        draw(st.none() | st.lists(st.text(max_size=5), min_size=rows, max_size=rows)),
        draw(st.none() | moments),
        texts,
        draw(st.text(max_size=5)),
    )


def assert_same(record: Record, entry: Entry) -> None:
    layout, rows = entry.layout, len(entry.ids)
    assert record.layout == layout
    assert list(record.ids) == list(entry.ids)
    sent = entry.features if isinstance(entry.features, bytes) else entry.features.tobytes()
    assert record.features.shape == (rows, len(layout.inputs))
    assert record.features.tobytes() == sent  # to the bit, NaN and -0.0 included
    for position, name in enumerate(layout.numeric_outputs):
        np.testing.assert_array_equal(record.outputs[:, position], entry.outputs[name].astype(np.float64))
    assert record.texts["inputs"] == entry.texts
    assert record.texts["outputs"] == {name: list(entry.outputs[name]) for name in layout.text_outputs}
    assert (record.seconds, record.entities, record.at, record.request_id) == (
        *(entry.seconds, entry.entities, entry.at, entry.request_id),
    )


def encoded(made: list[Entry]) -> bytes:
    encoder = Encoder()
    return MAGIC + b"".join(encoder.encode(entry) for entry in made)


@examples(max_examples=30)
@given(st.lists(entries(), max_size=4))
def test_what_is_read_is_what_was_written(made: list[Entry]) -> None:
    damage = Damage()
    read = list(decode(encoded(made), damage))
    assert damage == Damage()
    for record, entry in zip(read, made, strict=True):
        assert_same(record, entry)


@examples(max_examples=30)
@given(st.lists(entries(), min_size=1, max_size=4), st.data())
def test_a_torn_tail_loses_what_it_tore_and_no_more(made: list[Entry], data: st.DataObject) -> None:
    content = encoded(made)
    cut = data.draw(st.integers(0, len(content) - 1))
    tail = data.draw(st.sampled_from([b"", bytes(100)]))  # a file system may have grown the file with zeros
    damage = Damage()
    read = list(decode(content[:cut] + tail, damage))
    whole = sum(len(encoded(made[: n + 1])) <= cut for n in range(len(made)))
    assert len(read) == whole
    assert damage.frames == 0
    assert damage.torn_bytes <= cut + len(tail)
    for record, entry in zip(read, made, strict=False):
        assert_same(record, entry)


@examples(max_examples=30)
@given(st.lists(entries(), min_size=1, max_size=4), st.data())
def test_a_changed_byte_is_never_read_as_something_else(made: list[Entry], data: st.DataObject) -> None:
    content = bytearray(encoded(made))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    damage = Damage()
    read = list(decode(bytes(content), damage))
    assert damage != Damage()
    written = {entry.ids[0]: entry for entry in made}
    for record in read:
        assert_same(record, written[record.ids[0]])


@examples(max_examples=30)
@given(st.lists(entries(), min_size=1, max_size=4), st.data())
def test_a_record_is_found_by_the_id_of_any_of_its_rows(made: list[Entry], data: st.DataObject) -> None:
    content = encoded(made)
    entry = data.draw(st.sampled_from(made))
    row = data.draw(st.integers(0, len(entry.ids) - 1))
    found = find(content, *parse_id(entry.ids[row]), Damage())
    assert found is not None
    assert_same(found[0], entry)
    assert found[1] == row
    assert find(content, *parse_id(IdSource().take()[0]), Damage()) is None


# The log

LAYOUT = [("cpu", FieldType.DOUBLE), ("cores", FieldType.LONG), ("zone", FieldType.STRING)]


def version(number: str = "1") -> Any:
    fields = [SimpleNamespace(name=name, type=kind) for name, kind in LAYOUT]
    outputs = [
        SimpleNamespace(name="p", type=FieldType.DOUBLE),
        SimpleNamespace(name="alarm", type=FieldType.BOOLEAN),
    ]
    manifest = SimpleNamespace(inputs=fields, outputs=outputs)
    return SimpleNamespace(
        name="tiny", version=number, manifest_sha256="0" * 64, predictor=SimpleNamespace(manifest=manifest)
    )


OPTIONS: dict[str, Any] = {
    "flush_seconds": 0.001,
    "fsync_seconds": 0.0,
    "queue_bytes": 2**20,
    "spool_bytes": 2**30,
    "segment_seconds": 3600.0,
}


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[PredictionLog]:
    log = PredictionLog(folder, **{**OPTIONS, **options})
    log.start()
    try:
        yield log
    finally:
        log.stop()


def record_one(log: PredictionLog, rows: int = 1, **given: Any) -> PredictionIds:
    ids = log.ids(rows)
    log.record(
        given.pop("version", None) or version(),
        "production",
        ids,
        np.full((rows, 3), 0.5),
        {"p": np.full(rows, 0.25), "alarm": np.full(rows, True)},
        seconds=0.001,
        transport="rest",
        texts={"zone": ["a"] * rows},
        **given,
    )
    return ids


def in_spool(folder: Path) -> list[Record]:
    return [
        record
        for stream in streams(folder.parent)
        for segment in stream.segments
        for record in decode(segment.path.read_bytes(), Damage())
    ]


def test_what_is_recorded_is_in_the_spool_soon_and_in_a_closed_segment_after_stop(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    at = datetime(2026, 11, 21, tzinfo=UTC)
    with running(tmp_path / "replica") as log:
        first = record_one(log, 2, entities=["m1", "m2"], at=at, request_id="r")
        wait_until(lambda: log.counts.written == 2)
        (record,) = in_spool(tmp_path / "replica")
        second = record_one(log, version=version("2"))
    assert list(record.ids) == list(first)
    assert (record.entities, record.at, record.request_id, record.layout.version) == (
        ["m1", "m2"],
        at,
        "r",
        "1",
    )
    assert record.features[:, :2].tolist() == [[0.5, 0.5]] * 2
    assert record.texts["inputs"] == {"zone": ["a", "a"]}
    assert record.outputs.tolist() == [[0.25, 1.0]] * 2
    (stream,) = streams(tmp_path)
    assert not stream.alive
    assert [segment.rows for segment in stream.segments] == [3]
    assert [each.ids[0] for each in in_spool(tmp_path / "replica")] == [first[0], second[0]]


def test_a_full_queue_drops_and_counts_and_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "replica", flush_seconds=0.3, queue_bytes=10_000) as log:
        for _ in range(100):
            record_one(log)
        dropped = log.counts.dropped_queue
        assert 0 < dropped < 100
        assert log.queued_bytes <= 10_000
    assert log.counts.written == 100 - dropped
    assert len(in_spool(tmp_path / "replica")) == 100 - dropped


def test_a_disk_that_fails_for_a_while_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr("serving.prediction_log.log._RETRY_SECONDS", 0.01)
    full, write = [True], os.write

    def sometimes(file: int, content: Any) -> int:
        if full[0] and len(content) > len(MAGIC):
            write(file, content[:50])  # a part goes through before the disk is full
            raise OSError(28, "No space left on device")
        return write(file, content)

    with running(tmp_path / "replica") as log:
        ids = [record_one(log)[0]]
        wait_until(lambda: log.counts.written == 1)
        monkeypatch.setattr(os, "write", sometimes)
        ids += [record_one(log)[0] for _ in range(5)]
        wait_until(lambda: log.counts.write_errors > 2)
        full[0] = False
        wait_until(lambda: log.counts.written == 6)
    assert [record.ids[0] for record in in_spool(tmp_path / "replica")] == ids


def test_what_the_disk_does_not_take_to_the_end_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, content: Any) -> int:
        raise OSError(28, "No space left on device")

    with running(tmp_path / "replica", flush_seconds=0.3) as log:
        record_one(log, 3)
        monkeypatch.setattr(os, "write", full)
    assert (log.counts.written, log.counts.dropped_queue) == (0, 3)
    assert in_spool(tmp_path / "replica") == []


def test_a_full_spool_loses_the_oldest_closed_segments_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr("serving.prediction_log.log._SEGMENT_BYTES", 1)
    with running(tmp_path / "replica", spool_bytes=2500) as log:
        ids = []
        for n in range(20):
            ids.append(record_one(log)[0])
            wait_until(lambda n=n: log.counts.written == n + 1)
    kept = [record.ids[0] for record in in_spool(tmp_path / "replica")]
    assert 0 < len(kept) < 20
    assert kept == ids[-len(kept) :]
    assert log.counts.dropped_spool == 20 - len(kept)


def test_an_answer_that_does_not_fit_is_counted_and_the_others_are_written(tmp_path: Path) -> None:
    with running(tmp_path / "replica") as log:
        log.record(version(), "", log.ids(2), np.zeros((1, 3)), {}, seconds=0, transport="rest")
        good = record_one(log)
    assert log.counts.dropped_invalid == 2
    assert [record.ids[0] for record in in_spool(tmp_path / "replica")] == [good[0]]


def test_a_segment_is_closed_by_age_also_when_no_requests_come(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    with running(tmp_path / "replica", segment_seconds=0.05) as log:
        record_one(log)
        wait_until(lambda: [s.rows for stream in streams(tmp_path) for s in stream.segments] == [1])
        (stream,) = streams(tmp_path)
        assert stream.alive


def test_without_a_log_ids_are_given_and_nothing_is_written(tmp_path: Path) -> None:
    with running(tmp_path / "replica", enabled=False) as log:
        assert record_one(log)[0]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said_at_the_start_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "replica").write_text("a file is in the way")
    with pytest.raises(ProcessError, match="HEADRACE_PREDICTION_LOG_FOLDER"):
        PredictionLog(tmp_path / "replica", **OPTIONS).start()


def test_prometheus_sees_what_became_of_the_rows(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with running(tmp_path / "replica") as log:
        registry.register(log.metrics())
        record_one(log, 3)
    text = generate_latest(registry).decode()
    assert "headrace_prediction_log_rows_total 3.0" in text
    assert 'headrace_prediction_log_dropped_rows_total{reason="queue"} 0.0' in text
    assert "headrace_prediction_log_spool_segments 1.0" in text


def test_a_write_that_fails_leaves_the_segment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = OpenSegment(tmp_path, 1)
    before = (tmp_path / "00000001.open").read_bytes()
    write = os.write

    def half(file: int, content: Any) -> int:
        write(file, content[:3])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="Input/output"):
        segment.write(b"0123456789", 1)
    assert (tmp_path / "00000001.open").read_bytes() == before
