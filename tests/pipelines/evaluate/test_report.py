"""The report: what it says first, that it stands alone, and that nothing of it runs or breaks out."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluate.checks import Check, CheckKind
from pipelines.evaluate.report import Link, html, markdown
from pipelines.evaluate.report.evidence import number, signed
from pipelines.evaluate.report.forest import LINE, WIDTH, row
from pipelines.evaluate.report.markdown import MAX_CHARACTERS
from pipelines.evaluate.report.page import groups
from pipelines.references import Outcome
from tests.pipelines.evaluate.verdicts import CANDIDATE, a_check, all_kinds, some_evidence

VOID = {"meta", "img", "source", "br", "rect", "line", "circle"}


class Page(HTMLParser):
    """Tags in the order of the page, with what loads something from elsewhere, and visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.words, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        self.addresses += [named[name] for name in ("src", "srcset") if name in named]
        assert not [name for name in named if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def a_figure():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "o-", color="#0072B2", label="ours")
    axes.fill_between([0, 1], [0, 0], [1, 2], color="#D55E00", alpha=0.2)
    axes.bar([0.5], [0.3], color="#666666")
    axes.legend(frameon=False)
    return figure


def test_the_verdict_comes_first_and_says_what_decided():
    page = Page(html(some_evidence()))

    heading = page.text.index("failure version 7 is refused, as 1 of 14 checks failed: zone eu-west-1")
    assert heading < page.text.index("What stands against it") < page.text.index("The evidence")
    assert page.tags.count("h1") == 1


@pytest.mark.parametrize(
    ("checks", "wanted"),
    [
        ([a_check(figure=0.4)], "failure version 7 is proved: all 1 checks passed."),
        (
            [a_check(CheckKind.CHAMPION, name="gain over version 3", figure=0.1, interval=(0.05, 0.2))],
            "failure version 7 is proved: all 1 checks passed; its gain over version 3 is 0.1 "
            "(95 % interval 0.05 to 0.2).",
        ),
        (
            [a_check(outcome=Outcome.INSUFFICIENT, figure=None), a_check()],
            "failure version 7 is not proved, as 1 of 2 checks lacks evidence: average precision is without a figure, "
            "wanted at least 0.3.",
        ),
        ([], "failure version 7 is not proved: nothing was checked."),
        ([a_check(blocking=False)], "failure version 7 is not proved: nothing was checked."),
    ],
)
def test_the_verdict_in_one_sentence(checks, wanted):
    assert some_evidence(checks).sentence() == wanted


def test_the_page_needs_nothing_else_and_has_plots_for_light_and_dark():
    text = html(some_evidence(plots={"candidate": {"calibration": a_figure()}}))
    page = Page(text)

    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert page.addresses[0] != page.addresses[1]
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert page.open == []


def test_candidate_and_champion_are_drawn_side_by_side():
    drawn = {model: {"calibration": a_figure(), "scores": a_figure()} for model in ("candidate", "version 3")}
    page = Page(html(some_evidence(plots=drawn)))
    assert len(page.addresses) == 8, "two figures of two models, for light and dark"
    assert page.text.count("version 3, serving now") == 2
    assert "Candidate and champion on the holdout" in page.text


def test_it_counts_what_decides():
    assert (
        some_evidence().counts()
        == "14 decide: 12 passed, 1 failed, 1 without enough evidence; 1 more for information"
    )
    assert some_evidence(checks=()).counts() == "0 decide"


def test_it_tells_data_code_and_links():
    page = Page(html(some_evidence(links=(Link("DAG run in Airflow", "http://127.0.0.1:8080/dags/x"),))))

    for told in (
        CANDIDATE.snapshot.sha256,
        "features/simulated/telemetry_windows@1",
        "commit 70379216c20f",
        "82" * 32,
        "learning_rate = 0.08",
        "20260101",
        "train_failure, scheduled__2026-11-20T03:00:00+00:00",
        "DAG run in Airflow",
        "Coverage: it has no interval.",
        "+0.0042",
    ):
        assert told in page.text, told


def test_without_lineage_champion_or_figures_it_says_so():
    page = Page(
        html(some_evidence(training=None, champion=None, figures={"candidate": {"mae": float("nan")}}))
    )

    assert "nothing: this would be the first" in page.text
    assert "Not recorded" in page.text
    assert "difference" not in page.text.partition("Side by side")[2].partition("Where it comes")[0]


def test_every_kind_of_check_has_its_question():
    checks = tuple(a_check(kind) for kind in CheckKind)
    assert sum(len(group.checks) for group in groups(checks)) == len(CheckKind)
    assert len({group.title for group in groups(checks)}) == len(CheckKind)


def test_markdown_names_the_rest_where_a_description_ends():
    many = [a_check(name=f"slice {index}", figure=0.4 + index / 7919) for index in range(300)]
    failed = a_check(outcome=Outcome.FAIL, name="recall", figure=0.1)

    text = markdown(some_evidence([*many, failed]))

    assert len(text) <= MAX_CHARACTERS
    assert "| recall | **fail** | 0.1 |" in text
    left_out = int(re.search(r"and (\d+) more checks", text).group(1))
    assert left_out + text.count("| slice ") == 300


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=80)
hostile = st.sampled_from(
    ["<script>alert(1)</script>", "a|b", "</td>", "{{ 7 * 7 }}", '" onload="x', "\nx\n\n# y"]
)
floats = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def checks(draw):
    figure = draw(st.none() | floats)
    return Check(
        name=draw(names | hostile),
        kind=draw(st.sampled_from(list(CheckKind))),
        outcome=draw(st.sampled_from(list(Outcome))),
        figure=figure,
        wanted=draw(names | hostile),
        n=draw(st.integers(0, 10**9)),
        interval=draw(st.none() | st.tuples(floats, floats)),
        detail=draw(st.just("") | hostile | names),
        remedy=draw(st.just("") | hostile),
        bound=draw(st.none() | floats),
        margin=draw(st.none() | floats),
        better=draw(st.sampled_from(["higher", "lower"])),
        p_value=draw(st.none() | floats),
        blocking=draw(st.booleans()),
    )


@settings(max_examples=25)
@given(st.lists(checks(), max_size=12), names | hostile)
def test_whatever_a_verdict_holds_the_page_is_whole_and_runs_nothing(found, metric):
    evidence = some_evidence(found, figures={"candidate": {metric: 1.0}, "version 3": {metric: float("nan")}})

    page = Page(html(evidence))

    assert page.open == []
    assert not {"script", "iframe"} & set(page.tags)
    assert page.tags.count("tbody") == len(groups(tuple(found))) + 1
    assert evidence.verdict.outcome is not Outcome.PASS or "Proved" in page.text


@settings(max_examples=25)
@given(st.lists(checks(), max_size=60), names | hostile)
def test_whatever_a_verdict_holds_the_description_fits_and_keeps_its_tables(found, metric):
    text = markdown(some_evidence(found, figures={"candidate": {metric: 1.0}}))

    assert len(text) <= MAX_CHARACTERS
    assert "<" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in {7, 3}


@given(
    st.floats(-1e12, 1e12), st.floats(0, 1e9), st.floats(-1e12, 1e12), st.sampled_from(["higher", "lower"])
)
def test_right_of_the_line_is_good_and_all_of_a_row_is_visible(figure, spread, bound, better):
    interval = (figure - spread, figure + spread)
    found = row(a_check(figure=figure, interval=interval, bound=bound, better=better))

    places = (found.low, found.figure, found.high)
    assert all(0 <= place <= WIDTH for place in places)
    assert found.low <= found.figure <= found.high
    good = figure > bound if better == "higher" else figure < bound
    assert (found.figure >= LINE) if good or figure == bound else (found.figure <= LINE)


def test_a_row_without_figure_or_line_has_no_plot():
    assert row(a_check(figure=None)) is None
    assert row(a_check(bound=None)) is None
    assert row(a_check(figure=float("nan"))) is None
    assert row(a_check(interval=(float("-inf"), 1.0))) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.6985123, "0.6985"),
        (0.4, "0.4"),
        (-0.0039151, "-0.003915"),
        (123.456, "123.5"),
        (12221, "12\u202f221"),
        (99999.7, "100000"),
        (1.2345e-7, "1.23e-7"),
        (float("nan"), "not a number"),
        (float("-inf"), "minus infinite"),
        (None, "none"),
    ],
)
def test_numbers_as_people_write_them(value, text):
    assert number(value) == text


def test_a_difference_says_its_sign():
    assert (signed(0.5), signed(-0.5), signed(0.0)) == ("+0.5", "-0.5", "0")


def test_an_informing_check_stands_against_nothing():
    told = some_evidence([a_check(outcome=Outcome.FAIL, blocking=False), a_check()])

    assert told.verdict.outcome is Outcome.PASS
    assert told.deciding == ()
    assert "does not decide" in Page(html(told)).text


def test_colours_for_dark_ground_are_light():
    from pipelines.evaluate.report.pictures import for_dark

    black, blue = for_dark("black"), for_dark("#0072B2")

    assert min(black[:3]) > 0.85
    assert np.ptp(blue[:3]) > 0.3
    assert max(blue[:3]) > 0.8


def test_all_kinds_are_in_the_sample():
    assert {check.outcome for check in all_kinds()} == set(Outcome)
