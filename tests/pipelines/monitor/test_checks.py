"""Checks are kept once; of a window that was looked at again the last look counts."""

from datetime import UTC, datetime, timedelta

import pytest

from pipelines.adapters.lake import Lake
from pipelines.monitor import checks
from pipelines.monitor.records import Cause, Check
from pipelines.references import Window

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def check(day=0, **what):
    end = NOW + timedelta(days=day)
    return Check(
        registered_name="m", model="m", version="3", window=Window(start=end - timedelta(days=1), end=end), at=end,
        cause=Cause.NOTHING, drift_score=0.0, **what,
    )  # fmt: skip


@pytest.mark.integration
def test_a_window_is_kept_once_and_a_mended_one_replaces_the_broken_one(tmp_path):
    lake = Lake(str(tmp_path))
    first = checks.keep(lake, check(reason="first"))
    assert checks.keep(lake, check(reason="second")) == first
    checks.keep(lake, check(1, broken=("heat: a sensor is stuck",)))
    mended = checks.keep(lake, check(1, attempt=1))
    assert checks.read(lake, "m") == [first, mended]
    assert checks.read(lake, "m", "4") == []
