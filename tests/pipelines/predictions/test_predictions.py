"""From the spool to the lake: each answer once, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from models.manifest import FieldType
from pipelines.adapters.lake import Lake
from pipelines.adapters.spool.ids import IdSource, PredictionIds, parse_id
from pipelines.adapters.spool.records import Encoder, Entry, Layout
from pipelines.adapters.spool.segments import Stream, streams
from pipelines.predictions import job, table
from pipelines.predictions.steps import COLUMNS
from pipelines.settings import Settings
from tests.killing import killed_at_call

IDS = IdSource()
INPUTS = (
    ("cpu", FieldType.DOUBLE),
    ("cores", FieldType.LONG),
    ("spot", FieldType.BOOLEAN),
    ("zone", FieldType.STRING),
)
OUTPUTS = (("p", FieldType.DOUBLE), ("alarm", FieldType.BOOLEAN), ("why", FieldType.STRING))
Spool = Callable[..., list[str]]
AT = datetime(2026, 11, 21, tzinfo=UTC)


def layout(model: str = "tiny", version: str = "1", inputs: Any = INPUTS) -> Layout:
    return Layout(model, version, "production", "rest", inputs, OUTPUTS)


def entry(of: Layout, ids: PredictionIds | None = None, **given: Any) -> Entry:
    import numpy as np

    ids = ids or IDS.take()
    n = len(ids)
    features = np.full((n, len(of.inputs)), np.nan)
    for position, (_, kind) in enumerate(of.inputs):
        if kind is not FieldType.STRING:
            features[:, position] = 1.0
    outputs = {"p": np.full(n, 0.5), "alarm": np.full(n, True), "why": ["because"] * n}
    texts = {name: ["a"] * n for name in of.text_inputs}
    return Entry(of, ids, features, outputs, 0.002, texts=texts, **given)


def logged(settings: Settings, model: str = "tiny") -> pl.DataFrame:
    return table.scan(Lake.of(settings), model).collect().sort("prediction_id")


def left(settings: Settings) -> list[Path]:
    return [
        path
        for path in settings.prediction_spool.rglob("*")
        if path.is_file() and path.name != "shipping.lock"
    ]


def test_a_row_per_predicted_row_with_all_that_is_known_of_it(settings: Settings, spooled: Spool) -> None:
    (first, second) = spooled(
        settings, [entry(layout(), IDS.take(2), entities=["m1", "m2"], at=AT, request_id="r")]
    )
    shipped = job.run(settings)
    assert (shipped.segments, shipped.rows, shipped.torn_bytes, shipped.damaged) == (1, 2, 0, 0)
    rows = logged(settings)
    assert rows.columns[: len(COLUMNS)] == list(COLUMNS)
    one, two = rows.to_dicts()
    answered = one.pop("answered_at")
    assert timedelta(0) <= datetime.now(UTC) - answered < timedelta(minutes=5)
    assert one.pop("day") == answered.date()
    assert one == {
        "prediction_id": first,
        "version": "1",
        "alias": "production",
        "transport": "rest",
        "replica": "replica",
        "entity": "m1",
        "event_time": AT,
        "latency_seconds": 0.002,
        "batch_rows": 2,
        "request_id": "r",
        "feature__cpu": 1.0,
        "feature__cores": 1.0,
        "feature__spot": True,
        "feature__zone": "a",
        "output__p": 0.5,
        "output__alarm": True,
        "output__why": "because",
    }
    assert (two["prediction_id"], two["entity"]) == (second, "m2")
    assert left(settings) == []


def test_a_second_run_finds_nothing_to_do(settings: Settings, spooled: Spool) -> None:
    spooled(settings, [entry(layout())])
    job.run(settings)
    assert job.run(settings).model_dump() == {
        "segments": 0,
        "rows": 0,
        "torn_bytes": 0,
        "damaged": 0,
        "tables": {},
    }
    assert logged(settings).height == 1


def test_each_model_has_its_own_table_also_those_with_odd_names(settings: Settings, spooled: Spool) -> None:
    names = ["tiny", "../up", "a/b", "with space", "ünï", "."]
    ids = {name: spooled(settings, [entry(layout(name))])[0] for name in names}
    job.run(settings)
    assert table.models(Lake.of(settings)) == sorted(names)
    for name in names:
        assert logged(settings, name)["prediction_id"].to_list() == [ids[name]]
    assert not (settings.home / "up").exists()


def test_versions_with_other_features_share_a_table(settings: Settings, spooled: Spool) -> None:
    one = layout(version="1", inputs=(("cpu", FieldType.DOUBLE), ("old", FieldType.DOUBLE)))
    two = layout(version="2", inputs=(("new", FieldType.LONG), ("cpu", FieldType.STRING)))
    spooled(settings, [entry(one)], [entry(two), entry(one)])
    job.run(settings)
    spooled(settings, [entry(two)])
    job.run(settings)
    rows = logged(settings)
    told = rows.select("version", "^feature__.*$").to_dicts()
    first = {
        "version": "1",
        "feature__cpu": 1.0,
        "feature__old": 1.0,
        "feature__new": None,
        "feature__cpu__string": None,
    }
    second = {
        "version": "2",
        "feature__cpu": None,
        "feature__old": None,
        "feature__new": 1.0,
        "feature__cpu__string": "a",
    }
    assert told == [first, second, first, second]


def test_the_open_segment_of_a_living_process_is_left_alone_and_a_dead_ones_is_taken(
    settings: Settings, write: Spool
) -> None:
    stream = Stream(settings.prediction_spool / "replica")
    closed, opened = stream.open_segment(), stream.open_segment()
    (first,) = write(closed, Encoder(), entry(layout()))
    closed.close()
    (second,) = write(opened, Encoder(), entry(layout()))
    job.run(settings)
    assert logged(settings)["prediction_id"].to_list() == [first]
    (found,) = streams(settings.prediction_spool)
    assert found.alive
    assert [segment.number for segment in found.segments] == [2]
    stream.release()
    job.run(settings)
    assert logged(settings)["prediction_id"].to_list() == [first, second]
    assert list(streams(settings.prediction_spool)) == []


def test_a_torn_tail_is_counted_and_the_rest_is_shipped(settings: Settings, write: Spool) -> None:
    stream = Stream(settings.prediction_spool / "replica")
    segment = stream.open_segment()
    encoder = Encoder()
    (whole,) = write(segment, encoder, entry(layout()))
    segment.write(encoder.encode(entry(layout()))[:-5], 1)
    stream.release()
    shipped = job.run(settings)
    assert shipped.rows == 1
    assert shipped.torn_bytes > 0
    assert logged(settings)["prediction_id"].to_list() == [whole]
    assert left(settings) == []


def test_a_damaged_segment_is_kept_for_people_and_shipped_no_second_time(
    settings: Settings, spooled: Spool
) -> None:
    ids = spooled(settings, [entry(layout()) for _ in range(3)])
    (stream,) = streams(settings.prediction_spool)
    path = stream.segments[0].path
    content = bytearray(path.read_bytes())
    content[content.index(parse_id(ids[1])[1].to_bytes(8, "little"))] ^= 1
    path.write_bytes(content)
    shipped = job.run(settings)
    assert (shipped.rows, shipped.damaged) == (2, 1)
    assert [path.suffix for path in left(settings) if path.name != "lock"] == [".damaged"]
    assert job.run(settings).segments == 0
    assert logged(settings)["prediction_id"].to_list() == [ids[0], ids[2]]


def test_many_segments_go_in_several_commits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, spooled: Spool
) -> None:
    monkeypatch.setattr(job, "_BYTES_PER_COMMIT", 2000)
    ids = spooled(settings, *([entry(layout())] for _ in range(10)))
    assert job.run(settings).rows == 10
    assert logged(settings)["prediction_id"].to_list() == sorted(ids)
    assert Lake.of(settings).version("predictions/tiny") > 1


def test_a_prediction_is_found_by_its_id(settings: Settings, spooled: Spool) -> None:
    ids = spooled(settings, [entry(layout(), IDS.take(3))], [entry(layout("other"))])
    job.run(settings)
    lake = Lake.of(settings)
    for text, model in zip(ids, ["tiny"] * 3 + ["other"], strict=True):
        found = table.find(lake, text.upper())
        assert found is not None
        assert (found[0], found[1]["prediction_id"]) == (model, text)
    assert table.find(lake, IDS.take()[0]) is None


def test_a_scan_by_time_is_half_open(settings: Settings, spooled: Spool) -> None:
    spooled(settings, [entry(layout()) for _ in range(3)])
    job.run(settings)
    times = logged(settings)["answered_at"].sort().to_list()
    between = table.scan(Lake.of(settings), "tiny", times[0], times[2]).collect()
    assert between["answered_at"].sort().to_list() == [time for time in times if times[0] <= time < times[2]]


CALLS = (
    "pipelines.adapters.lake:Lake.append",
    "pipelines.adapters.lake:Lake.done",
    "pathlib:Path.unlink",
    "pathlib:Path.rename",
    "shutil:rmtree",
)


@pytest.mark.integration
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_anywhere_and_run_again_it_neither_loses_nor_doubles(
    settings: Settings, when: Any, spooled: Spool
) -> None:
    models = [layout("one"), layout("two")]
    ids: dict[str, list[str]] = {"one": [], "two": []}
    n, killed = 1, 0
    while True:
        # More comes between the runs, so that a batch is never the one that was killed.
        entries = [[entry(each)] for each in models]
        for each, text in zip(models, spooled(settings, *entries), strict=True):
            ids[each.model].append(text)
        if not killed_at_call(n, CALLS, job.run, settings, when=when):
            break
        n, killed = n + 1, killed + 1
    assert killed > 8
    job.run(settings)
    for model, wanted in ids.items():
        assert logged(settings, model)["prediction_id"].to_list() == sorted(wanted)
    assert left(settings) == []


CHILD = """
import os, sys, time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace as Made
import numpy as np
from models.manifest import FieldType
from serving.prediction_log import PredictionLog
manifest = Made(inputs=[Made(name=f"f{i}", type=FieldType.DOUBLE) for i in range(40)],
                outputs=[Made(name="p", type=FieldType.DOUBLE)])
version = Made(name="tiny", version="1", manifest_sha256="", predictor=Made(manifest=manifest))
log = PredictionLog(Path(sys.argv[1]), flush_seconds=float(sys.argv[2]), fsync_seconds=0.2, queue_bytes=2**26,
                    spool_bytes=2**30, segment_seconds=0.3)
log.start()
while True:
    ids = log.ids()
    log.record(version, "production", ids, np.random.random((1, 40)), {"p": np.array([0.5])}, seconds=0.001,
               transport="rest")
    # Told at once, as a server answers: what is told and not in the lake was lost.
    os.write(1, f"{ids[0]} {time.monotonic()}\\n".encode())
    time.sleep(0.0005)
"""


@pytest.mark.integration
def test_kill_9_of_a_server_loses_no_more_than_the_setting_states(settings: Settings, tmp_path: Path) -> None:
    flush_seconds = 0.1
    told: dict[str, float] = {}
    ended: list[tuple[float, set[str]]] = []
    for _ in range(3):
        with (tmp_path / "told").open("w+b") as file:
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(settings.prediction_spool / "replica"), str(flush_seconds)],
                stdout=file,
                cwd=Path(__file__).parents[3],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            while file.seek(0, os.SEEK_END) < 100_000:
                assert child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
            file.seek(0)
            lines = [line.split() for line in file.read().decode().splitlines() if line.count(" ") == 1]
        this = {text: float(moment) for text, moment in lines}
        told |= this
        ended.append((max(this.values()), set(this)))
    job.run(settings)
    rows = logged(settings)
    held = set(rows["prediction_id"])
    assert rows.height == len(held)
    # One answer may be in the spool that the process was killed before telling.
    assert len(held - set(told)) <= 3
    for last, texts in ended:
        lost = sorted(told[text] for text in texts - held)
        # The flush waits for its turn on a busy machine; what it had written before is never lost.
        assert not lost or last - lost[0] < flush_seconds + 0.25
        assert len(lost) < len(texts) / 2
    assert left(settings) == []
