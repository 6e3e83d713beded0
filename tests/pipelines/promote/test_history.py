"""The history says how long each version served, and is shown without loading anything."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.promote.history import entries, spoken
from pipelines.promote.history_page import render
from pipelines.promote.records import Action, LedgerLine, State

START = datetime(2026, 1, 1, tzinfo=UTC)


def line(hours, number, start, end, action=Action.PROMOTE, state=State.MOVED, **more):
    at = START + timedelta(hours=hours)
    values = {"actor": "ada", "reason": "better"} | more
    return LedgerLine(
        at=at,
        registered_name="failure",
        sequence=number,
        state=state,
        action=action,
        from_version=start,
        to_version=end,
        **values,
    )


ROWS = [
    line(0, 1, None, "1", state=State.INTENDED),
    line(0, 1, None, "1", verdict="pass", evidence_url="http://mlflow/report"),
    line(5, 0, "1", "2", Action.REFUSE, State.DECIDED),
    line(10, 2, "1", "2", Action.OVERRIDE, reason="<b>now</b>", approved_by="bob", approved_at=START),
    line(10.1, 2, "1", "2", Action.OVERRIDE, State.ANSWERED, reason="the server answers"),
    line(11, 3, "2", "3", state=State.ABANDONED),
    line(12, 4, "2", "1", Action.ROLLBACK),
    line(13, 5, "1", None, Action.MOVED_OUTSIDE),
]


def test_each_move_has_the_time_that_its_version_served():
    found = entries(ROWS, START + timedelta(hours=20))
    assert [(entry.line.action, entry.served) for entry in found] == [
        (Action.PROMOTE, timedelta(hours=10)),
        (Action.REFUSE, None),
        (Action.OVERRIDE, timedelta(hours=2)),
        (Action.PROMOTE, None),
        (Action.ROLLBACK, timedelta(hours=1)),
        (Action.MOVED_OUTSIDE, None),
    ]
    assert found[2].proof is not None
    assert found[2].to_json()["answered"] is True
    assert found[0].to_json()["served_seconds"] == 36_000


@given(st.lists(st.sampled_from(["1", "2", "3", None]), max_size=8))
def test_what_served_adds_up_to_the_whole_time(versions):
    rows, last = [], None
    for number, version in enumerate(versions, start=1):
        rows.append(line(number, number, last, version))
        last = version
    now = START + timedelta(hours=len(versions) + 3)
    found = entries(rows, now)
    serving = sum((entry.served for entry in found if entry.served is not None), timedelta())
    nothing = sum(
        ((entry.until or now) - entry.line.at for entry in found if entry.line.to_version is None),
        timedelta(),
    )
    assert serving + nothing == (now - rows[0].at if rows else timedelta())


def test_the_page_shows_all_of_it_and_takes_no_markup_from_a_reason():
    page = render("failure", entries(ROWS, START + timedelta(hours=20)), START, "http://mlflow")
    assert "Nothing is in production" in page
    assert "<b>now</b>" not in page
    assert "&lt;b&gt;now&lt;/b&gt;" in page
    for wanted in (
        "override",
        "approved by bob",
        "the server answers",
        "http://mlflow/report",
        "not carried out",
    ):
        assert wanted in page
    assert "<script" not in page
    assert "src=" not in page


def test_the_page_of_a_model_that_never_served():
    assert "Nothing was ever in production" in render("failure", (), START, "http://mlflow")


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=61), "1 min 1 s"),
        (timedelta(days=3, hours=2, minutes=5), "3 d 2 h"),
    ],
)
def test_spans_are_said_in_two_units(span, said):
    assert spoken(span) == said
