"""Scripted changes of the simulated fleet: they do what they say, and nothing before they begin."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.errors import SourceError
from pipelines.references import Window
from pipelines.sources.simulated.regimes import append_regime, load_regimes, parse_regime
from pipelines.sources.simulated.source import SimulatedSource
from pipelines.sources.simulated.telemetry import METRICS
from tests.pipelines.sources.simulation import (
    DAY,
    HOUR,
    NAMES,
    PROFILE,
    START,
    as_numbers,
    as_text,
    read,
    sound,
    source,
    span,
)


def write(path: Path, *regimes: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"regimes": list(regimes)}), encoding="utf-8")
    return path


def moment(hours: int) -> str:
    return (START + hours * HOUR).isoformat()


KINDS = st.one_of(
    st.builds(lambda f: {"kind": "load_scale", "factor": f}, st.floats(0, 5)),
    st.builds(
        lambda c, a, m: {"kind": "metric_shift", "column": c, "add": a, "multiply": m},
        st.sampled_from(METRICS),
        st.floats(-20, 20),
        st.floats(0, 3),
    ),
    st.builds(lambda f: {"kind": "noise", "factor": f}, st.floats(0, 5)),
    st.builds(lambda f: {"kind": "failure_rate", "factor": f}, st.floats(0, 50)),
    st.builds(lambda s: {"kind": "hidden_signs", "share": s}, st.floats(0.01, 1)),
    st.builds(
        lambda c, f: {"kind": "unit_change", "column": c, "factor": f},
        st.sampled_from(METRICS),
        st.floats(0.001, 1024),
    ),
    st.builds(lambda c: {"kind": "stuck_sensor", "column": c}, st.sampled_from(METRICS)),
    st.builds(lambda n: {"kind": "new_machines", "count": n}, st.integers(1, 4)),
    st.builds(
        lambda c, s: {"kind": "missing_column", "column": c, "share": s},
        st.sampled_from(METRICS),
        st.floats(0.01, 1),
    ),
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(NAMES),
    changes=st.lists(
        st.tuples(KINDS, st.integers(-200, 60), st.none() | st.integers(1, 300)), min_size=1, max_size=3
    ),
    machines=st.integers(2, 6),
    seed=st.integers(0, 10_000),
)
def test_before_a_regime_all_rows_are_as_without_it(
    tmp_path: Path,
    name: str,
    changes: list[tuple[dict[str, Any], int, int | None]],
    machines: int,
    seed: int,
) -> None:
    first = min(at for _, at, _ in changes)
    script = write(
        tmp_path / "script.yaml",
        *(
            kind | {"from": moment(at)} | ({"until": moment(at + length)} if length else {})
            for kind, at, length in changes
        ),
    )
    # From some days before the first regime to some days after it.
    window = span(START + (first - 60) * HOUR, 84 * HOUR)
    with_it, without = (
        as_text(read(fleet, name, window).filter(pl.col("event_time") < START + first * HOUR))
        for fleet in (source(machines, seed, script), source(machines, seed))
    )
    assert_frame_equal(with_it, without)


def test_slices_agree_under_regimes_too(tmp_path: Path) -> None:
    script = write(
        tmp_path / "script.yaml",
        {"kind": "new_machines", "from": moment(17), "until": moment(41), "count": 3},
        {"kind": "stuck_sensor", "from": moment(2), "column": "temperature_c"},
        {"kind": "load_scale", "from": moment(20), "factor": 2.0},
    )
    for name in NAMES:
        whole = as_text(read(source(script=script), name, span(START, 3 * DAY)))
        parts = [
            as_text(read(source(script=script), name, span(START + low * HOUR, (high - low) * HOUR)))
            for low, high in pairwise((0, 7, 30, 72))
        ]
        assert_frame_equal(pl.concat(parts), whole)


def medians(tmp_path: Path, column: str, *regimes: dict[str, Any], machines: int = 12) -> tuple[float, float]:
    """Median of a metric over the day after a regime began, without and with it."""
    window = span(START, DAY)
    values = []
    for fleet in (source(machines), source(machines, script=write(tmp_path / "script.yaml", *regimes))):
        dataset = PROFILE.dataset("telemetry")
        values.append(sound(fleet.read(dataset, window), dataset, window)[column].median())
    return values[0], values[1]  # type: ignore[return-value]


def test_load_scale_takes_cpu_and_bills_along(tmp_path: Path) -> None:
    change = {"kind": "load_scale", "from": moment(0), "factor": 2.0}
    for column, low, high in (("requests_per_second", 1.9, 2.1), ("cpu_percent", 1.3, 2.0)):
        without, with_it = medians(tmp_path, column, change)
        assert low < with_it / without < high
    script = write(tmp_path / "script.yaml", change)
    cheap, dear = (
        as_numbers(read(fleet, "billing", span(START + DAY, DAY)), PROFILE.dataset("billing"))[
            "cost_usd"
        ].sum()
        for fleet in (source(12), source(12, script=script))
    )
    assert dear > 1.2 * cheap


def test_metric_shift_and_unit_change(tmp_path: Path) -> None:
    without, with_it = medians(
        tmp_path,
        "temperature_c",
        {"kind": "metric_shift", "from": moment(0), "column": "temperature_c", "add": 6.0},
    )
    assert with_it - without == pytest.approx(6.0, abs=0.3)
    without, with_it = medians(
        tmp_path,
        "network_in_mbps",
        {"kind": "unit_change", "from": moment(0), "column": "network_in_mbps", "factor": 0.001},
    )
    assert with_it / without == pytest.approx(0.001, rel=0.05)


def test_stuck_sensor_repeats_its_first_value(tmp_path: Path) -> None:
    change = {"kind": "stuck_sensor", "from": moment(6), "column": "cpu_percent", "machines": ["m0002"]}
    window = span(START, 2 * DAY)
    dataset = PROFILE.dataset("telemetry")
    rows = sound(source(script=write(tmp_path / "s.yaml", change)).read(dataset, window), dataset, window)
    spread = (
        rows.filter(pl.col("event_time") >= START + 6 * HOUR)
        .group_by("machine_id")
        .agg(
            pl.col("cpu_percent").mode().count().alias("modes"),
            pl.col("cpu_percent").n_unique().alias("values"),
        )
    )
    # The stuck one shows its value, or nothing, or a second row that differs by mistake.
    assert spread.filter(pl.col("machine_id") == "m0002")["values"].item() <= 4
    assert spread.filter(pl.col("machine_id") != "m0002")["values"].min() > 100  # type: ignore[operator]


def test_new_machines_join_with_inventory_events_and_other_behaviour(tmp_path: Path) -> None:
    change = {"kind": "new_machines", "from": moment(30), "count": 4, "zones": ["b"], "services": ["api"]}
    fleet = source(script=write(tmp_path / "s.yaml", change))
    window = span(START, 4 * DAY)
    mine = pl.col("machine_id").str.starts_with("n1-")
    telemetry = read(fleet, "telemetry", window).filter(mine)
    assert telemetry["machine_id"].n_unique() == 4
    assert telemetry["event_time"].min() == START + 30 * HOUR
    inventory = read(fleet, "machines", window).filter(mine)
    assert set(inventory["zone"]) == {"b"}
    assert inventory["event_time"].min() == START + 30 * HOUR


def test_missing_column_and_noise(tmp_path: Path) -> None:
    dataset, window = PROFILE.dataset("telemetry"), span(START, DAY)
    change = {"kind": "missing_column", "from": moment(0), "column": "disk_percent", "share": 0.4}
    rows = source(12, script=write(tmp_path / "s.yaml", change)).read(dataset, window)
    rows = rows.filter(pl.col("event_time") >= START)
    assert 0.37 < rows["disk_percent"].null_count() / len(rows) < 0.43

    change = {"kind": "noise", "from": moment(0), "factor": 3.0}
    steps = [
        sound(fleet.read(dataset, window), dataset, window)
        .sort("machine_id", "event_time")
        .select(pl.col("memory_percent").diff().over("machine_id").abs().median())
        .item()
        for fleet in (source(12), source(12, script=write(tmp_path / "s.yaml", change)))
    ]
    assert 2.0 < steps[1] / steps[0] < 3.5


def test_failure_rate_changes_the_number_of_failures(tmp_path: Path) -> None:
    window = span(START + 8 * DAY, 40 * DAY)
    counts = []
    for factor in (0.0, 1.0, 2.0):
        script = write(tmp_path / "s.yaml", {"kind": "failure_rate", "from": moment(0), "factor": factor})
        events = read(source(30, script=script), "events", window)
        counts.append(len(events.filter(pl.col("kind") == "failure").unique()))
    assert counts[0] == 0
    assert counts[2] > 1.5 * counts[1] > 0


def test_hidden_signs_leave_the_failures_and_change_what_is_seen_before_them(tmp_path: Path) -> None:
    window = span(START + 8 * DAY, 24 * DAY)
    change = {"kind": "hidden_signs", "from": moment(0), "share": 1.0}
    failures, shown = before_failures(source(30), window)
    with_it, hidden = before_failures(source(30, script=write(tmp_path / "s.yaml", change)), window)
    assert failures.equals(with_it)
    assert hidden["requests_per_second"] < 0.9 * shown["requests_per_second"]
    assert hidden["temperature_c"] < shown["temperature_c"] - 5.0
    assert hidden["disk_latency_ms"] < 0.8 * shown["disk_latency_ms"]
    assert hidden["memory_percent"] < shown["memory_percent"]


def before_failures(fleet: SimulatedSource, window: Window) -> tuple[pl.DataFrame, dict[str, float]]:
    """Failures, and the means of metrics in the six hours before them."""
    events, telemetry = (
        sound(fleet.read(PROFILE.dataset(name), window), PROFILE.dataset(name), window)
        for name in ("events", "telemetry")
    )
    failures = events.filter(pl.col("kind") == "failure").select("machine_id", "event_time").sort(pl.all())
    near = telemetry.sort("event_time").join_asof(
        failures.sort("event_time").with_columns(failure=pl.col("event_time")),
        on="event_time",
        by="machine_id",
        strategy="forward",
        tolerance="6h",
        check_sortedness=False,  # it cannot be checked by machine
    )
    means = near.filter(pl.col("failure").is_not_null()).mean()
    return failures, {name: means[name].item() for name in METRICS}


@pytest.mark.parametrize(
    ("regime", "said"),
    [
        ({"kind": "load_scale", "from": "2026-01-01", "factor": 2, "speed": 1}, "speed"),
        ({"kind": "earthquake", "from": "2026-01-01"}, "earthquake"),
        ({"kind": "load_scale", "factor": 2}, "from"),
        ({"kind": "load_scale", "from": "2026-01-02", "until": "2026-01-01", "factor": 2}, "until"),
        ({"kind": "stuck_sensor", "from": "2026-01-01", "column": "fan_rpm"}, "cpu_percent"),
        ({"kind": "load_scale", "from": "2026-01-01", "factor": 2, "zones": ["z"]}, "zones"),
        ({"kind": "new_machines", "from": "2026-01-01", "count": 2, "machines": ["m0001"]}, "machines"),
        ({"kind": "noise", "from": "2026-01-01", "factor": 2, "machines": ["m0009"]}, "m0009"),
    ],
)
def test_a_wrong_script_is_refused_with_the_reason(tmp_path: Path, regime: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        source(script=write(tmp_path / "s.yaml", regime))


@pytest.mark.parametrize("text", ["", "- 1", "regimes: [", "regimes: {}", "others: []"])
def test_a_script_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"s\.yaml"):
        load_regimes(path)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        source(script=tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "# ours\nregimes:\n  - {kind: noise, from: 2026-01-01, factor: 2}  # louder\n",
        "# ours\nregimes:\n- kind: noise\n  from: 2026-01-01\n  factor: 2\n",
        "regimes: [{kind: noise, from: 2026-01-01, factor: 2}]\n",
        "regimes: []\n",
        None,
    ],
)
def test_a_regime_is_appended_and_comments_stay(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "new" / "s.yaml"
    before = ()
    if text is not None:
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        before = load_regimes(path)
    added = parse_regime(
        {"kind": "load_scale", "from": "2026-02-01T06:00:00+02:00", "factor": 1.5, "zones": ["a"]}
    )
    append_regime(path, added)
    assert load_regimes(path) == (*before, added)
    assert added.start == datetime(2026, 2, 1, 4, tzinfo=UTC)
    assert ("# ours" in path.read_text("utf-8")) == (text is not None and "# ours" in text)
    assert [file.name for file in path.parent.iterdir()] == ["s.yaml"]


def test_a_refused_script_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("regimes: [{kind: nonsense}]", encoding="utf-8")
    with pytest.raises(SourceError, match="nonsense"):
        append_regime(path, parse_regime({"kind": "noise", "from": "2026-02-01", "factor": 1.5}))
    assert path.read_text("utf-8") == "regimes: [{kind: nonsense}]"


def test_a_data_set_or_column_that_is_not_simulated_is_named() -> None:
    telemetry = PROFILE.dataset("telemetry")
    with pytest.raises(SourceError, match="traffic"):
        source().read(telemetry.model_copy(update={"name": "traffic"}), span(START, DAY))
    fan = telemetry.columns[2].model_copy(update={"name": "fan_rpm"})
    with pytest.raises(SourceError, match="fan_rpm"):
        source().read(telemetry.model_copy(update={"columns": (*telemetry.columns, fan)}), span(START, DAY))
