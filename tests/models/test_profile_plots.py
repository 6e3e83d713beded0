"""Plots are drawn of whatever a run brings: missing values, words, a single value, nothing known."""

import numpy as np
import pytest

from models.base import Observations
from models.plots import coverage, score_over_time
from models.profile_plots import data_profile, drift_over_time, explanation

pytestmark = pytest.mark.integration  # draws: seconds

ROWS = 40
DAYS = np.datetime64("2026-01-01", "us") + np.arange(ROWS) * np.timedelta64(1, "h")


def part():
    label = (np.arange(ROWS) > 30).astype(np.float64)
    return Observations({}, {"event": label}, np.ones(ROWS), np.full(ROWS, "m1", dtype=object), DAYS)


def drawn(figure):
    figure.canvas.draw()
    return figure


def test_a_profile_shows_numbers_words_and_what_is_missing():
    columns = {
        "load": np.linspace(0, 1, ROWS),
        "constant": np.ones(ROWS),
        "never": np.full(ROWS, np.nan),
        "model": np.array(["a", "b", None, "c"] * 10, dtype=object),
    }
    figure = drawn(data_profile({"train": columns, "holdout": columns}, list(columns)))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:4] == ["load", "constant", "never\nmissing 100.0%, 100.0%", "model\nmissing 25.0%, 25.0%"]


def test_an_explanation_puts_the_weightiest_on_top_and_greys_what_is_no_number():
    shares = {"weak": np.full(ROWS, 0.1), "strong": np.linspace(-3, 3, ROWS)}
    values = {"weak": np.full(ROWS, np.nan), "strong": np.arange(ROWS, dtype=np.float64)}
    figure = drawn(explanation(shares, values, "the answer"))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["weak", "strong"]


def test_scores_and_coverage_and_drift_are_drawn_over_time():
    observed = part()
    figure = drawn(
        score_over_time(observed, observed.targets["event"], np.linspace(0, 1, ROWS), np.arange(ROWS) > 35)
    )
    assert figure.axes[0].get_title(loc="left") == "Score of m1"
    drawn(coverage(observed, np.arange(ROWS) % 5 > 0, 0.8))
    scores = np.where(np.arange(ROWS) % 9 == 0, np.nan, 0.1)
    drawn(drift_over_time(DAYS, scores, scores > 1, 0.3))
    drawn(drift_over_time(DAYS, np.full(ROWS, np.nan), np.zeros(ROWS, dtype=bool), None))
