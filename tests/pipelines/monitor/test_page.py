"""The page of a model's monitoring: whole in itself, and true to what is in the lake."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

from models.specs import Bound
from pipelines.adapters.lake import Lake
from pipelines.monitor import checks, page, requests
from pipelines.monitor.records import Cause, Check, Figures, Outcome, Scored, Trigger
from pipelines.references import Window

NOW = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)
BOUNDS = {"average_precision": Bound(minimum=0.5), "recall": Bound(minimum=0.4)}


def check(days, realised=None, estimated=None, **what):
    end = NOW + days * DAY
    figures = [
        Figures(values={"average_precision": value}) if value is not None else Figures()
        for value in (realised, estimated)
    ]
    return Check(
        registered_name="failure", model="failure", version="3", window=Window(start=end - DAY, end=end), at=end,
        realised=figures[0], estimated=figures[1], **({"cause": Cause.NOTHING, "drift_score": 0.1} | what),
    )  # fmt: skip


class Tags(HTMLParser):
    """Refuses what is not closed, and gathers addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in {"src", "href", "action", "data"}]
        if tag not in {"meta", "link", "line", "polyline", "circle", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in {"line", "polyline", "circle"}:
            return
        assert self.open.pop() == tag


def test_it_is_whole_in_itself_and_says_what_was_seen():
    seen = [
        check(0, 0.7, 0.68),
        check(1, 0.4, 0.66, alarm=True, cause=Cause.QUALITY_LOSS, reason="<b>low</b> & lost", report_url="http://mlflow/report"),
        check(2, None, 0.6),
    ]  # fmt: skip
    text = page.render("failure", seen, [], BOUNDS)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.addresses == ["http://mlflow/report"]
    assert "<script" not in text
    assert "url(" not in text
    assert "&lt;b&gt;low&lt;/b&gt; &amp; lost" in text
    [realised] = re.findall(r'class="realised" points="([^"]*)"', text)
    heights = [float(point.split(",")[1]) for point in realised.split()]
    assert len(heights) == 2
    assert heights[0] < heights[1]  # the better figure stands higher
    [floor] = re.findall(r'class="floor"[^>]* y1="([0-9.]+)"', text)
    assert heights[0] < float(floor) < heights[1]
    assert "recall" not in text.lower()  # nobody ever knew it


def test_a_model_that_nobody_looked_at_has_a_page_too():
    assert "Nobody has looked at it yet" in page.render("failure", [], [], BOUNDS)


def test_one_check_or_one_value_is_no_division_by_nothing():
    for seen in ([check(0, 0.5)], [check(0, 0.5), check(1, 0.5)], [check(0)]):
        assert "failure" in page.render("failure", seen, [], BOUNDS)


def test_its_figures_are_those_of_the_lake(settings):
    lake = Lake.of(settings)
    scored = Scored(metric="average_precision", window_end=NOW, estimated=0.6, realised=0.5)
    low = Figures(values={"average_precision": 0.4}, below=("average_precision 0.4 < 0.5",))
    checks.keep(lake, check(0))
    checks.keep(
        lake,
        check(1, alarm=True, cause=Cause.DRIFT).model_copy(update={"realised": low, "scored": (scored,)}),
    )
    requests.ask(
        lake,
        "failure",
        work="check:1",
        triggers=(Trigger.QUALITY,),
        reason="low",
        evidence="",
        at=NOW,
        changed_at=NOW - DAY,
    )
    requests.take(lake, "failure", run="run", at=NOW)
    requests.close(
        lake,
        "failure",
        run="run",
        outcome=Outcome.PROMOTED,
        reason="better",
        at=NOW + timedelta(hours=6),
        version="4",
    )
    text = page.write("failure", settings).read_text("utf-8")
    for wanted in ("<b>100%</b>", "1 of 1 alarms", "<b>30.0 h</b>", "± 0.1", "promoted", "better", "21600 s"):
        assert wanted in text, wanted
    assert page.path_of(settings, "failure").parent == settings.home / "reports" / "monitor"
