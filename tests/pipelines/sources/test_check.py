"""A profile is looked at before anything is stored: its rows as validation would sift them, the models that it can train."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from pipelines.sources.check import fits, samples
from pipelines.sources.draft import draft
from pipelines.sources.profile import load_profile

START = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture
def profile(tmp_path):
    """As drafted from a file with two broken rows and one that comes twice."""
    rows = pl.DataFrame(
        {
            "host": [f"web-{place % 3}" for place in range(300)],
            "at": [START + timedelta(minutes=5 * (place // 3)) for place in range(300)],
            "cpu": [
                "n/a" if place == 4 else "250" if place == 7 else str(20.0 + place % 9)
                for place in range(300)
            ],
            "mem": [40.0 + place % 3 for place in range(300)],
            "rx_mbps": [3.0 + place % 7 for place in range(300)],
            "tx_mbps": [5.0 + place % 5 for place in range(300)],
        }
    )
    pl.concat([rows, rows.tail(1)]).write_csv(tmp_path / "fleet.csv")
    file = tmp_path / "fleet.yaml"
    file.write_text(draft(tmp_path / "fleet.csv", "fleet.csv"), "utf-8")
    return load_profile(str(file))


@pytest.mark.integration  # Great Expectations
def test_one_day_is_sifted_and_nothing_is_stored(profile, settings, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    (found,) = samples(profile, None, settings)
    assert (found.rows, found.entities, found.quarantined) == (301, 3, 3)
    assert dict(found.reasons) == {
        "cpu_percent is not a float": 1,
        "cpu_percent is above 100 percent": 1,
        "duplicate key (host, event_time)": 1,
    }
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unreadable_file_is_said_and_the_models_are_told_all_the_same(profile, settings, tmp_path):
    (tmp_path / "fleet.csv").unlink()
    (found,) = samples(profile, None, settings)
    assert "no file" in found.error
    assert not next(fit for fit in fits(profile) if fit.model == "bandwidth").lacks


def test_each_model_is_told_what_it_lacks(profile):
    lacks = {fit.model: fit.lacks for fit in fits(profile)}
    assert lacks["bandwidth"] == ()
    assert "a data set 'events'" in lacks["failure"]
    assert lacks["cost"] == ("a data set 'billing'", "a feature grid 'billing'")
    assert "a column 'requests_per_second' in telemetry" in lacks["scaling"]


def test_the_embedded_default_can_train_them_all():
    assert [fit.model for fit in fits(load_profile("simulated")) if fit.lacks] == []
