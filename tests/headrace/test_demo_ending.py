from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from headrace.demo_ending import Ending, bar, by_day, draw, ending, score, table, with_truths
from headrace.demo_traffic import Told
from models.failure.spec import SPEC
from pipelines.adapters.lake import Lake
from pipelines.references import Layer
from pipelines.settings import Settings
from pipelines.sources.profile import load_profile

CHANGE = datetime(2026, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def answers(rows: list[tuple[datetime, str, float, float]]) -> pl.DataFrame:
    """Of time, version, probability and what came; an alarm from 0.5 on."""
    return pl.DataFrame(
        {
            "entity": [f"m{number}" for number in range(len(rows))],
            "event_time": [at for at, *_ in rows],
            "day": [(at - timedelta(microseconds=1)).date() for at, *_ in rows],
            "version": [version for _, version, *_ in rows],
            "probability": [probability for *_, probability, _ in rows],
            "alarm": [probability >= 0.5 for *_, probability, _ in rows],
            "target__event": [event for *_, event in rows],
        }
    )


def stretch(start: datetime, version: str, *, right: bool) -> pl.DataFrame:
    """Four answers of one day: the two that failed rank first, or last."""
    high, low = (1.0, 0.0) if right else (0.0, 1.0)
    told = [(1, 0.9, high), (2, 0.8, high), (3, 0.2, low), (24, 0.1, low)]
    return answers(
        [(start + hours * HOUR, version, probability, event) for hours, probability, event in told]
    )


def told(*, learned: bool) -> Ending:
    """A day before the change, one after it, and one of version 2, which has learned it or has not."""
    days = [
        stretch(CHANGE - timedelta(days=1), "1", right=True),
        stretch(CHANGE, "1", right=False),
        stretch(CHANGE + timedelta(days=1), "2", right=learned),
    ]
    instead = stretch(CHANGE + timedelta(days=1), "1", right=False)
    return ending(pl.concat(days), instead, CHANGE, SPEC, "1")


def test_a_score_is_of_the_answers_whose_outcome_is_known() -> None:
    found = score(stretch(CHANGE, "1", right=True), SPEC)

    assert (found.rows, found.positives, found.average_precision, found.recall) == (4, 2, 1.0, 1.0)
    assert found.version == "1"


def test_midnight_is_the_last_hour_of_its_day() -> None:
    scores = by_day(stretch(CHANGE, "1", right=True), SPEC)

    assert [(each.day, each.rows) for each in scores] == [(date(2026, 1, 2), 4)]


def test_quality_has_come_back_where_the_new_version_does_better_than_the_old_one_would_have() -> None:
    end = told(learned=True)

    assert [(each.day, each.version) for each in end.days] == [
        (date(2026, 1, 1), "1"),
        (date(2026, 1, 2), "1"),
        (date(2026, 1, 3), "2"),
    ]
    assert end.after is not None
    assert end.stayed is not None
    assert end.before.average_precision == end.after.average_precision == 1.0
    assert end.lost.average_precision == end.stayed.average_precision < 0.5
    assert end.recovered


def test_quality_has_not_come_back_where_the_new_version_is_no_better_or_there_is_none() -> None:
    stayed = ending(
        pl.concat([stretch(CHANGE - timedelta(days=1), "1", right=True), stretch(CHANGE, "1", right=False)]),
        None,
        CHANGE,
        SPEC,
        "1",
    )

    assert not told(learned=False).recovered
    assert stayed.after is None
    assert not stayed.recovered


def test_a_stretch_in_which_nothing_failed_has_no_figure_and_no_bar() -> None:
    found = score(answers([(CHANGE, "1", 0.9, 0.0), (CHANGE, "1", 0.1, 0.0)]), SPEC)

    assert found.average_precision != found.average_precision
    assert bar(found.average_precision) == ""


@pytest.mark.parametrize(("share", "length"), [(0.0, 0), (0.02, 1), (0.5, 10), (1.0, 20), (1.7, 20)])
def test_a_bar_is_as_long_as_its_share(share: float, length: int) -> None:
    assert len(bar(share)) == length


def test_the_table_has_a_line_per_day_with_what_happened() -> None:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table(told(learned=True), {date(2026, 1, 2): "← the world changes"}))
    lines = [line for line in captured.get().splitlines() if "2026-01" in line]

    assert len(lines) == 3
    assert "the world changes" in lines[1]
    assert lines[2].split()[:2] == ["2026-01-03", "2"]
    assert "1.00" in lines[2]


def test_the_table_is_whole_on_a_terminal_of_80_columns() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table(told(learned=True), {date(2026, 1, 1): "← version 10 answers"}))

    assert "…" not in captured.get()
    assert "← version 10 answers" in captured.get()


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "reports" / "drift.png"
    draw(told(learned=True), {CHANGE: "the world changes"}, 0.5, file)

    assert file.read_bytes().startswith(b"\x89PNG")


def test_outcomes_are_read_from_the_events_as_far_as_they_are_known(settings: Settings) -> None:
    profile = load_profile("simulated")
    failed = CHANGE + timedelta(hours=30)
    events = pl.DataFrame(
        {
            "machine_id": ["m1"],
            "event_time": [failed],
            "kind": ["failure"],
            "code": ["disk"],
            "slice_start": [failed],
            "day": [failed.date()],
        },
        schema_overrides={name: pl.Datetime("us", "UTC") for name in ("event_time", "slice_start")},
    )
    Lake.of(settings).append(
        profile.table(Layer.CLEAN, "events"), events, work=["events"], partition_by="day"
    )
    asked = [
        Told(machine, CHANGE + timedelta(hours=hours), "1", 0.5, alarm=True)
        for machine in ("m1", "m2")
        for hours in (1, 10, 40)
    ]

    known = with_truths(asked, SPEC, profile, CHANGE + timedelta(hours=48), settings)

    found = {(row["entity"], (row["event_time"] - CHANGE) // HOUR): row["target__event"] for row in known.to_dicts()}  # fmt: skip
    assert found == {("m1", 1): 0.0, ("m1", 10): 1.0, ("m2", 1): 0.0, ("m2", 10): 0.0}
    assert set(known["day"]) == {date(2026, 1, 2)}
