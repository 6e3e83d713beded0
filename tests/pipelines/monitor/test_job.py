"""From telemetry over a version in production to checks, a request and its end, against a real MLflow."""

import json
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from typer.testing import CliRunner

from headrace.cli import app
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.errors import BrokenDataError, MonitorError
from pipelines.features import job as features
from pipelines.monitor import checks, gauges, job, requests, retrain
from pipelines.monitor.records import Cause, Outcome, Trigger
from pipelines.references import Window
from pipelines.snapshot import job as snapshot
from pipelines.train import job as train
from pipelines.tune import job as tune

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 5, tzinfo=UTC)
DAYS, UNITS = 28, 12
DAY = timedelta(days=1)
WINDOW = Window(start=START, end=START + DAYS * DAY)


def telemetry(first, last, seed, hotter=0.0, stuck=False):
    """Rows of the days from ``first`` to below ``last``. Hot units fail more often."""
    readings, log, units = [], [], []
    for unit in range(UNITS):
        random, name = np.random.default_rng([seed, unit]), f"u{unit:02}"
        units.append({"unit": name, "seen_at": START, "model": "ab"[unit % 2], "cores": 4})
        hot = np.zeros(24 * last)
        for at in random.integers(24, 24 * last, last // 4):
            hot[at - 24 : at] += 30
            moment = START + timedelta(hours=int(at), minutes=7)
            log.append({"unit": name, "seen_at": moment, "kind": "failure"})
        hours = np.arange(24 * last)
        heat = 40 + hot + 8 * np.sin(2 * np.pi * hours / 24) + random.normal(0, 4, len(hours)) + hotter
        if stuck:
            heat[24 * first :] = heat[24 * first]
        readings += [
            {"unit": name, "seen_at": START + timedelta(hours=int(hour), minutes=30), "heat": float(heat[hour]), "resets": 0}
            for hour in hours
        ]  # fmt: skip
    rows = {"readings": readings, "log": log, "units": units}
    since, until = START + first * DAY, START + last * DAY
    return {name: [row for row in each if since <= row["seen_at"] < until] for name, each in rows.items()}


@pytest.fixture
def configured(settings, start_mlflow, small_source):
    # A server of its own: what is in production matters here, and the shared one has many a "failure".
    return settings.model_copy(update={"tracking_url": start_mlflow().url, "source": small_source})


@pytest.fixture
def put(configured, small_source, put_clean):
    """``put(first, last, **what)`` ingests telemetry of those days and builds the features."""

    def add(first, last, **what):
        for dataset, rows in telemetry(first, last, **what).items():
            put_clean(configured, dataset, rows)
        window = Window(start=START, end=START + last * DAY)
        features.run(small_source, window, configured, grids=["hourly"])
        return window

    return add


def production(configured, small_source):
    """A version of ``failure`` in production; the gate is not what is tested here."""
    built = features.run(small_source, WINDOW, configured, grids=["hourly"])
    reference = snapshot.run("failure", built, configured)
    candidate = train.run(reference, tune.run(reference, configured, trials=1), configured)
    with Registry(configured.tracking) as registry:
        registry.set_alias(candidate.registered_name, "production", candidate.version)
    return candidate


def test_what_a_production_model_sees_is_watched_and_asked_for_and_ended(
    configured, put, small_source, monkeypatch
):
    put(0, DAYS, seed=1)
    with pytest.raises(MonitorError, match="no version in production"):
        job.run("failure", WINDOW.end, configured, small_source)
    candidate = production(configured, small_source)
    lake, name = Lake.of(configured), candidate.registered_name

    put(DAYS, DAYS + 7, seed=2)
    quiet = job.run("failure", WINDOW.end + 7 * DAY, configured, small_source)
    assert quiet.cause in {Cause.NOTHING, Cause.QUALITY_LOSS}, quiet  # so small a model may well be bad
    assert quiet.drift_score == 0.0
    assert quiet.request is None
    assert job.run("failure", WINDOW.end + 7 * DAY, configured, small_source) == quiet
    assert len(checks.read(lake, name)) == 1

    put(DAYS + 7, DAYS + 9, seed=3, hotter=25.0)
    once = job.run("failure", WINDOW.end + 8 * DAY, configured, small_source)
    twice = job.run("failure", WINDOW.end + 9 * DAY, configured, small_source)
    assert (once.cause, once.alarm) in {(Cause.DRIFT, False), (Cause.QUALITY_LOSS, True)}
    assert twice.alarm
    assert twice.drift_score > 0.3
    # Asked for at once; what changed can be learned once labels of a week have come.
    assert twice.request is None
    assert "request 1 waits until" in twice.reason
    seen = checks.read(lake, name)[-1]
    assert Trigger.DRIFT_SCORE in seen.triggers
    assert any(each.column.startswith("heat") and "higher by" in each.detail for each in seen.drifted)

    # What people look at.
    assert re.search(r"/artifacts/monitor/failure-.*\.html$", seen.report_url)
    assert (configured.evidently_workspace / "shown").is_dir()
    shown = (gauges.folder(configured) / f"monitor_{name}.prom").read_text("utf-8")
    assert f'headrace_monitor_alarm{{model="{name}",version="{candidate.version}"}} 1.0' in shown

    # The training that it asks for, by an event that comes twice.
    early, now = WINDOW.end + 9 * DAY, WINDOW.end + 14 * DAY
    assert retrain.take("failure", small_source, "run-0", True, False, early, configured).number is None
    taken = retrain.take("failure", small_source, "run-1", True, False, now, configured)
    assert taken.number == 1
    assert retrain.close(taken, "run-1", None, False, now, configured) is Outcome.FAILED
    assert retrain.take("failure", small_source, "run-2", True, False, now, configured).number is None
    [request] = requests.read(lake, name)
    assert request.closed.outcome is Outcome.FAILED

    # A poisoned batch is stopped and named, and not learned.
    put(DAYS + 9, DAYS + 10, seed=4, stuck=True)
    with pytest.raises(BrokenDataError, match="heat: a sensor is stuck"):
        job.run("failure", WINDOW.end + 10 * DAY, configured, small_source)
    assert checks.read(lake, name)[-1].cause is Cause.BROKEN_DATA
    with pytest.raises(BrokenDataError, match="is not trained"):
        retrain.take("failure", small_source, "run-3", False, False, now, configured)
    by_hand = retrain.take("failure", small_source, "run-4", False, True, now, configured)
    assert by_hand.number == 2
    _through_the_command(configured, name, monkeypatch)


def _through_the_command(configured, name, monkeypatch):
    for setting in ("home", "tracking_url", "signing_key", "trusted_keys", "source"):
        monkeypatch.setenv(f"HEADRACE_{setting.upper()}", str(getattr(configured, setting)))
    told = CliRunner().invoke(app, ["monitor", name, "--json"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["worth"]["alarms"] == 1
    assert found["worth"]["retrain_yield"] == 0.0
    assert [each["state"] for each in found["requests"]] == ["closed", "in training"]
    shown = CliRunner().invoke(app, ["monitor", name, "--ask", "new racks"], catch_exceptions=False)
    assert "alarm precision" in shown.stdout
    joined = [row.reason for row in requests.read(Lake.of(configured), name)[-1].rows]
    assert any(reason.endswith(": new racks") for reason in joined)
