"""The head of point forecasts with intervals: order, finiteness, encodings, calibration."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.conformal import calibrated, conformal_quantile, equal_bins
from models.heads.interval import Bins, Encoding, IntervalHead, Level, Member, Offset

NOW = Level(columns=("now",))
UNIT = Level(columns=("now", "hour"), combine="mean", floor=0.5)

number = st.floats(-1e6, 1e6, allow_nan=False)
reading = st.one_of(st.floats(0, 1e6), st.just(math.nan))
offset = st.builds(Offset, lower=st.floats(-1e3, 1e3), upper=st.floats(-1e3, 1e3))
encodings = st.builds(
    Encoding,
    transform=st.sampled_from(["identity", "log1p"]),
    base=st.sampled_from([None, NOW]),
    scale=st.sampled_from([None, UNIT]),
)


@st.composite
def heads(draw: st.DrawFn) -> IntervalHead:
    quantiles = draw(st.booleans())
    bounds = draw(st.sampled_from([(0.0, None), (None, None), (0.0, 100.0)]))
    edges = draw(st.sampled_from([(), (1.0, 50.0)]))
    return IntervalHead(
        forecast=(
            Member(estimator="trees", weight=draw(st.floats(0, 1))),
            Member(estimator="network", output=1, weight=draw(st.floats(0, 1)), encoding=draw(encodings)),
            Member(level=NOW, weight=draw(st.floats(0, 1))),
        ),
        lower=(Member(estimator="low"),) if quantiles else (),
        upper=(Member(estimator="high"),) if quantiles else (),
        encoding=draw(encodings),
        bins=Bins(by=UNIT, edges=edges),
        offsets=tuple(draw(offset) for _ in range(len(edges) + 1)),
        minimum=bounds[0],
        maximum=bounds[1],
    )


@given(head=heads(), rows=st.lists(st.tuples(reading, reading, *[number] * 4), min_size=1, max_size=5))
def test_any_finite_answers_of_the_estimators_become_finite_numbers_in_order(
    head: IntervalHead, rows: list[tuple[float, ...]]
) -> None:
    now, hour, trees, network, low, high = (np.array(part) for part in zip(*rows, strict=True))
    raw = {"trees": trees, "network": np.stack([low, network], axis=1), "low": low, "high": high}
    answer = head.answer({"now": now, "hour": hour}, raw)
    assert all(np.isfinite(values).all() and values.shape == now.shape for values in answer.values())
    assert (answer["lower"] <= answer["forecast"]).all()
    assert (answer["forecast"] <= answer["upper"]).all()
    if head.minimum is not None:
        assert (answer["lower"] >= head.minimum).all()
    if head.maximum is not None:
        assert (answer["upper"] <= head.maximum).all()


@given(encoding=encodings, target=st.floats(0, 1e6), now=st.floats(0, 1e6), hour=reading)
def test_decoding_undoes_encoding(encoding: Encoding, target: float, now: float, hour: float) -> None:
    columns = {"now": np.array([now]), "hour": np.array([hour])}
    raw = encoding.encode(np.array([target]), columns)
    assert encoding.decode(raw, columns)[0] == pytest.approx(target, rel=1e-6, abs=1e-6 * (1 + now))


def test_a_correction_is_added_to_the_base_in_units_of_the_scale() -> None:
    head = IntervalHead(
        forecast=(Member(estimator="trees"),),
        encoding=Encoding(base=NOW, scale=UNIT),
        offsets=(Offset(lower=0.5, upper=1.0),),
    )
    answer = head.answer({"now": np.array([10.0]), "hour": np.array([30.0])}, {"trees": np.array([0.1])})
    assert {name: values[0] for name, values in answer.items()} == pytest.approx(
        {"forecast": 12.0, "lower": 2.0, "upper": 32.0}
    )


def test_a_row_without_any_reading_has_the_floor() -> None:
    columns = {"now": np.array([math.nan, 4.0]), "hour": np.array([math.nan, math.nan])}
    assert UNIT.of(columns).tolist() == [0.5, 4.0]


def test_a_row_takes_the_offset_of_its_bin() -> None:
    head = IntervalHead(
        forecast=(Member(level=NOW),),
        bins=Bins(by=NOW, edges=(10.0,)),
        offsets=(Offset(lower=1.0, upper=1.0), Offset(lower=5.0, upper=5.0)),
    )
    answer = head.answer({"now": np.array([9.0, 10.0])}, {})
    assert (answer["upper"] - answer["forecast"]).tolist() == [1.0, 5.0]


def test_the_head_survives_json() -> None:
    head = IntervalHead(
        forecast=(Member(estimator="trees", weight=0.3), Member(level=NOW, weight=0.7)),
        encoding=Encoding(transform="log1p", base=NOW, scale=UNIT),
        bins=Bins(by=UNIT, edges=(1 / 3,)),
        offsets=(Offset(lower=0.1, upper=0.2), Offset(lower=-0.1, upper=1 / 7)),
    )
    assert IntervalHead.model_validate_json(head.model_dump_json()) == head


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoding": {"scale": {"columns": ("now",), "floor": 0.0}}},
        {"bins": {"by": {"columns": ("now",)}, "edges": (1.0,)}},
        {"forecast": ({"estimator": "trees", "level": {"columns": ("now",)}},)},
        {"minimum": 1.0, "maximum": 0.0},
    ],
)
def test_a_head_that_contradicts_itself_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        IntervalHead.model_validate({"forecast": ({"estimator": "trees"},), **wrong})


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("quantiles", [True, False])
def test_calibrated_intervals_cover_what_they_promise_in_every_bin(symmetric: bool, quantiles: bool) -> None:
    rng = np.random.default_rng(7)
    now = rng.lognormal(2, 1, 40_000)
    truth = now * rng.lognormal(0, 0.3, now.size) + (now > 8) * rng.exponential(20, now.size)
    columns = {"now": now, "hour": now}
    raw = {"trees": np.zeros(now.size), "low": np.full(now.size, -0.05), "high": np.full(now.size, 0.05)}
    ends = {"lower": (Member(estimator="low"),), "upper": (Member(estimator="high"),)} if quantiles else {}
    head = IntervalHead(
        forecast=(Member(estimator="trees"),),
        encoding=Encoding(base=NOW, scale=UNIT),
        bins=equal_bins(NOW, columns, 3),
        offsets=(Offset(lower=0.0, upper=0.0),) * 3,
        **ends,
    )
    half = slice(0, 20_000)
    head = calibrated(head, part(columns, half), part(raw, half), truth[half], symmetric=symmetric)
    rest = slice(20_000, None)
    answer = head.answer(part(columns, rest), part(raw, rest))
    covered = (answer["lower"] <= truth[rest]) & (truth[rest] <= answer["upper"])
    assert head.bins is not None
    for number in range(3):
        assert covered[head.bins.of(part(columns, rest)) == number].mean() == pytest.approx(0.8, abs=0.02)


def part(arrays: dict[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in arrays.items()}


def test_the_conformal_quantile_counts_the_row_to_come() -> None:
    # 9 scores and the new one: 8 of 10 must lie within, so the 8th of the 9.
    assert conformal_quantile(np.arange(1.0, 10.0), 0.8) == 8.0
    with pytest.raises(ValueError, match="too few"):
        conformal_quantile(np.arange(3.0), 0.8)


def test_rows_whose_truth_is_missing_do_not_calibrate() -> None:
    truth = np.concatenate([np.arange(100.0), np.full(900, np.nan)])
    columns = {"now": np.zeros(1000)}
    head = calibrated(IntervalHead(forecast=(Member(level=NOW),)), columns, {}, truth)
    assert head.offsets[0].upper == 80.0


@pytest.mark.parametrize("symmetric", [True, False])
def test_offsets_are_those_of_the_conformal_library(symmetric: bool) -> None:
    regression = pytest.importorskip("mapie.regression")
    from sklearn.base import BaseEstimator, RegressorMixin

    class Column(RegressorMixin, BaseEstimator):
        def __init__(self, place: int = 0) -> None:
            self.place = place

        def fit(self, rows: np.ndarray, truth: np.ndarray) -> "Column":
            self.fitted_ = True
            return self

        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, self.place]

    rng = np.random.default_rng(3)
    middle = rng.normal(10, 3, 3000)
    raw = {"low": middle - rng.random(3000), "high": middle + rng.random(3000), "middle": middle}
    truth = middle + rng.normal(0, 1.5, 3000)
    head = IntervalHead(
        forecast=(Member(estimator="middle"),),
        lower=(Member(estimator="low"),),
        upper=(Member(estimator="high"),),
        minimum=None,
    )
    rows = np.stack(list(raw.values()), axis=1)
    first, rest = slice(0, 2000), slice(2000, None)
    library = regression.ConformalizedQuantileRegressor(
        estimator=[Column(place).fit(rows, truth) for place in range(3)], confidence_level=0.8, prefit=True
    ).conformalize(rows[first], truth[first])
    _, expected = library.predict_interval(rows[rest], symmetric_correction=symmetric)
    answer = calibrated(head, {}, part(raw, first), truth[first], symmetric=symmetric).answer(
        {}, part(raw, rest)
    )
    np.testing.assert_allclose(answer["lower"], expected[:, 0, 0])
    np.testing.assert_allclose(answer["upper"], expected[:, 1, 0])
