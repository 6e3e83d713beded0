"""The bundled profiles of labelled data: what they make of the publishers' files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from models.anomaly.spec import SPEC
from models.targets import Table, Unlabelled
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.base import open_source
from pipelines.sources.profile import load_profile

EVER = Window(start=datetime(1970, 1, 1, tzinfo=UTC), end=datetime(2100, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(("source", "longest"), [("smd", 23_706), ("asd", 8_640)])
def test_the_test_part_follows_the_training_part_and_its_labels_fall_on_its_samples(
    source: str, longest: int, tmp_path: Path
) -> None:
    profile = load_profile(source)
    metrics = [column.name for column in profile.dataset("telemetry").columns if column.name.startswith("m")][
        1:
    ]
    folder = tmp_path / source
    folder.mkdir()
    values = {name: [0.5, 0.5] for name in metrics}
    pl.DataFrame({"entity": ["a", "a"], "t": [0, longest - 1], **values}).write_parquet(
        folder / "train.parquet"
    )
    pl.DataFrame({"entity": ["a", "a"], "t": [0, 1], **values, "label": [0, 1]}).write_parquet(
        folder / "test.parquet"
    )
    opened = open_source(profile, load_settings(shared_data=tmp_path))

    rows = opened.read(profile.dataset("telemetry"), EVER).sort("event_time")
    labels = opened.read(profile.dataset("labels"), EVER)

    minutes = rows["event_time"].diff().dt.total_minutes().to_list()[1:]
    assert minutes == [longest - 1, 1, 1]
    assert profile.window_start is not None
    assert profile.window_end is not None
    assert (
        rows["event_time"]
        .dt.replace_time_zone("UTC")
        .is_between(profile.window_start, profile.window_end)
        .all()
    )
    target = profile.spec_of(SPEC).target
    assert isinstance(target, Unlabelled)
    dataset = profile.dataset("labels")
    table = Table(
        dataset,
        labels.with_columns(
            pl.col("event_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            pl.col("label").cast(pl.String),
        ).lazy(),
    )
    asked = rows.select(
        "machine_id", pl.col("event_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    )
    judged = target.attach(asked, "machine_id", {"labels": table}, EVER.end)
    assert judged["target__abnormal"].to_list() == [0, 0, 0, 1]


@pytest.mark.parametrize("source", ["smd", "asd", "nab"])
def test_without_labels_to_tune_by_there_is_one_trial(source: str) -> None:
    spec = load_profile(source).spec_of(SPEC)

    assert spec.tuning.trials == 1
    assert spec.grid == "watch"


@pytest.mark.parametrize("source", ["smd", "asd", "nab"])
def test_the_window_of_the_source_is_made_of_whole_slices_and_holds_the_training_window(source: str) -> None:
    profile = load_profile(source)
    assert profile.window_start is not None
    assert profile.window_end is not None
    window = Window(start=profile.window_start, end=profile.window_end)

    for dataset in profile.datasets:
        slices = list(window.slices(dataset.slice))
        assert (slices[0].start, slices[-1].end) == (window.start, window.end)
    assert profile.spec_of(SPEC).training_window == window.end - window.start
