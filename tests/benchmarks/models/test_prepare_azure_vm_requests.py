"""The public stream as tables: no look ahead, no made-up ends, and the profile reads what is written."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from benchmarks.models.prepare_azure_vm_requests import ORIGIN, prepare
from pipelines.sources.profile import load_profile


@pytest.fixture
def trace() -> pl.DataFrame:
    """Two batches of the same composition, one single machine that runs on, and a segment without lifetimes."""
    rows = [
        (300, 0, 1, 1.75, None, None, None, "train"),
        (600_000, 0, 2, 3.5, 600, 600, False, "validation"),
        (600_000, 0, 2, 3.5, 7_500, 10_800, False, "validation"),
        (600_000, 1, 8, 56.0, 3_900, 7_200, True, "validation"),
        (606_000, 0, 2, 3.5, 0, 0, False, "validation"),
        (606_000, 0, 2, 3.5, 0, 0, False, "validation"),
    ]
    names = ["arrival_s", "batch", "vcpus", "memory_gib", "lifetime_min_s", "lifetime_max_s", "running_at_end", "segment"]  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")


def test_machines_that_run_at_the_end_have_no_deletion(trace: pl.DataFrame) -> None:
    stream = prepare(trace)
    assert len(stream.requests) == 5  # the segment without lifetimes is left out
    assert "v2" not in stream.events["vm_id"]
    lives = stream.events.join(stream.requests, on="vm_id", suffix="_asked").select(
        "vm_id", seconds=(pl.col("event_time") - pl.col("event_time_asked")).dt.total_seconds()
    )
    seconds = dict(lives.iter_rows())
    assert 600 <= seconds["v0"] < 900
    end = stream.ends["validation"]
    assert end == ORIGIN + timedelta(seconds=606_300)
    assert stream.events["event_time"].max() < end


def test_the_second_batch_knows_what_became_of_the_first_by_then(trace: pl.DataFrame) -> None:
    requests = prepare(trace).requests
    first, second = requests.row(0, named=True), requests.row(4, named=True)
    assert first["tenant_vms"] == 0
    assert first["tenant_outlived_1h"] is None
    assert second["tenant_vms"] == second["alike_vms"] == 2
    assert second["tenant_outlived_1h"] == 0.5
    # Nobody could have been a day old by then.
    assert second["tenant_outlived_24h"] is None
    assert second["tenant_hours_since"] == pytest.approx(6_000 / 3_600)
    assert second["batch_vms"] == 2
    assert second["batch_cores"] == 4


def test_another_segment_changes_nothing_of_the_first(trace: pl.DataFrame) -> None:
    newer = trace.filter(pl.col("segment") == "validation").with_columns(
        pl.col("arrival_s") + 300_000, segment=pl.lit("test")
    )
    alone, both = prepare(trace), prepare(pl.concat([trace, newer]))
    assert both.requests.head(5).equals(alone.requests)
    np.testing.assert_array_equal(both.segment == "test", np.repeat([False, True], 5))
    assert both.events.filter(pl.col("vm_id").is_in(alone.requests["vm_id"].implode())).equals(alone.events)


def test_a_trace_without_lifetimes_is_refused(trace: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="no segment"):
        prepare(trace.filter(pl.col("segment") == "train"))


def test_the_tables_have_the_columns_of_the_profile(
    trace: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", "/nowhere")
    profile, stream = load_profile("azure_vm_requests"), prepare(trace)
    for name, frame in (("vm_requests", stream.requests), ("vm_events", stream.events)):
        assert [column.name for column in profile.dataset(name).columns] == frame.columns
