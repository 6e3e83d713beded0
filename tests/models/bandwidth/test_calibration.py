"""Intervals of machines that are often silent: calibrated to what is wanted, and not to all there is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.bandwidth.build import TREES, with_offsets
from models.base import Observations
from models.conformal import calibrated
from models.heads.interval import Encoding, IntervalHead, Level, Member

HEAD = IntervalHead(
    forecast=(Member(estimator=TREES, output=1),),
    lower=(Member(estimator=TREES, output=0),),
    upper=(Member(estimator=TREES, output=2),),
    encoding=Encoding(transform="log1p", base=Level(columns=("now",))),
    coverage=0.8,
)


def machines(silent: float, width: float, rows: int = 2000) -> tuple[Observations, dict[str, NDArray]]:
    """Rows of which a share is followed by silence, and quantiles so far from the middle."""
    random = np.random.default_rng(3)
    truth = np.where(random.random(rows) < silent, 0.0, 4 * random.lognormal(0, 1, rows))
    part = Observations({"now": np.full(rows, 4.0)}, {"traffic": truth}, np.ones(rows), np.full(rows, "a"))
    return part, {TREES: np.tile([-width, 0.0, width], (rows, 1))}


def covered(head: IntervalHead, part: Observations, raw: dict[str, NDArray]) -> float:
    answer, truth = head.answer(part.columns, raw), part.targets["traffic"]
    return float(np.mean((answer["lower"] <= truth) & (truth <= answer["upper"])))


def test_where_truths_gather_at_zero_the_interval_covers_no_more_than_it_promises() -> None:
    part, raw = machines(silent=0.5, width=2.5)

    both_ends = calibrated(HEAD, part.columns, raw, part.targets["traffic"])

    assert covered(both_ends, part, raw) > 0.9, "this is what it is for: the zeros come in as one"
    assert covered(with_offsets(HEAD, part, raw, "traffic"), part, raw) == pytest.approx(0.8, abs=0.002)


def test_an_interval_that_is_too_narrow_grows_at_both_ends() -> None:
    part, raw = machines(silent=0.0, width=0.1)

    head = with_offsets(HEAD, part, raw, "traffic")

    assert head.offsets[0].lower == head.offsets[0].upper > 0
    assert covered(head, part, raw) == pytest.approx(0.8, abs=0.002)


@given(silent=st.floats(0, 1), width=st.floats(0, 5))
def test_it_always_covers_what_it_promises_of_the_rows_it_learned_of(silent: float, width: float) -> None:
    part, raw = machines(silent, width, rows=200)

    assert covered(with_offsets(HEAD, part, raw, "traffic"), part, raw) >= 0.8
