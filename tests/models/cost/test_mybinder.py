"""The bills of mybinder.org as the profiles read them, where this machine has them."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.base import open_source
from pipelines.sources.profile import load_profile


def read(source: str) -> pl.DataFrame:
    settings, profile = load_settings(), load_profile(source)
    if settings.shared_data is None:
        pytest.skip("HEADRACE_SHARED_DATA is not set: no real bills here")
    assert profile.window_start is not None
    assert profile.window_end is not None
    window = Window(start=profile.window_start, end=profile.window_end)
    return open_source(profile, settings).read(profile.dataset("billing"), window)


@pytest.mark.parametrize(
    ("source", "entity", "names", "rows"),
    [
        ("mybinder_billing", "project", {"binder-prod", "binder-staging"}, 1128),
        (
            "mybinder_services",
            "service",
            {"compute-engine", "cloud-storage", "cloud-sql", "com.googleapis"},
            1987,
        ),
    ],
)
def test_the_window_holds_the_whole_bill(source: str, entity: str, names: set[str], rows: int) -> None:
    bill = read(source)
    assert set(bill[entity]) == names
    assert len(bill) == rows


def test_a_day_is_known_when_it_is_over() -> None:
    bill = read("mybinder_billing").filter(pl.col("project") == "binder-prod").sort("event_time")
    first = bill.row(0, named=True)
    # The file names the first bill 2017-12-13.
    assert first["event_time"].replace(tzinfo=UTC) == datetime(2017, 12, 14, tzinfo=UTC)
    assert first["cost_usd"] == pytest.approx(19.095561, abs=1e-6)
