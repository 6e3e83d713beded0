"""The model at its doors: better than naive, covering, the same after export, the same twice."""

import math

import numpy as np
import pytest

from models.bandwidth.build import BUILDER
from models.bandwidth.signals import matrix, wire
from models.bandwidth.spec import SPEC
from models.base import Observations
from models.encoding import estimator_matrix
from pipelines.adapters.runtimes.onnx import OnnxRuntime
from tests.models.bandwidth.conftest import inputs_of

pytestmark = pytest.mark.integration  # trains: seconds

SMALL = {"rounds": 40, "tree_rows": 3000, "lstm_rows": 1500, "lstm_units": 8, "lstm_epochs": 3}


@pytest.fixture(scope="module")
def fitted(parts):
    pytest.importorskip("tensorflow")
    train, valid, _ = parts
    return BUILDER.fit(train, valid, inputs_of(train), SMALL, 7, SPEC)


def test_machines_never_seen_are_forecast_better_than_by_their_last_value(fitted, parts):
    figures = BUILDER.task(SPEC).metrics(parts[2], fitted.answer(parts[2]))
    assert figures["wape_over_naive"] < 0.95
    assert figures["coverage"] == pytest.approx(0.8, abs=0.06)


def test_importance_is_shared_among_the_inputs(fitted):
    shares = fitted.importance()
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) <= {field.name for field in fitted.inputs}


def test_the_export_answers_as_the_native_model_does_gaps_included(fitted, parts, tmp_path):
    native, exported = both(fitted, with_gaps(parts[2]), tmp_path)
    for name, values in native.items():
        np.testing.assert_allclose(exported[name], values, rtol=2e-5, atol=1e-4, err_msg=name)


def both(fitted, part: Observations, folder):
    """Answers of the native model and of its export."""
    served = fitted.save(folder)
    raw = {
        estimator.name: OnnxRuntime(estimator, folder).raw(
            estimator_matrix(part.columns, fitted.inputs, estimator)
        )
        for estimator in served.estimators
    }
    return fitted.answer(part), served.head.answer(part.columns, raw)


def with_gaps(part: Observations) -> Observations:
    rng = np.random.default_rng(5)
    columns = {
        name: np.where(rng.random(len(part)) < 0.1, math.nan, values) for name, values in part.columns.items()
    }
    return Observations(columns, part.targets, part.weight, part.entity, part.time)


def test_answers_are_finite_and_in_order_whatever_is_missing(fitted, parts):
    nothing = {name: np.full(len(parts[2]), math.nan) for name in parts[2].columns}
    empty = Observations(nothing, parts[2].targets, parts[2].weight, parts[2].entity, parts[2].time)
    for part in (with_gaps(parts[2]), empty):
        answer = fitted.answer(part)
        assert all(np.isfinite(values).all() for values in answer.values())
        assert (answer["lower"] >= 0).all()
        assert (answer["lower"] <= answer["forecast"]).all()
        assert (answer["forecast"] <= answer["upper"]).all()


def test_the_same_rows_and_seed_give_the_same_answers(fitted, parts):
    train, valid, holdout = parts
    again = BUILDER.fit(train, valid, inputs_of(train), SMALL, 7, SPEC)
    for name, values in fitted.answer(holdout).items():
        np.testing.assert_array_equal(again.answer(holdout)[name], values)


def test_a_trial_needs_no_network(parts):
    train, valid, _ = parts
    trial = object()
    model = BUILDER.fit(train, valid, inputs_of(train), SMALL, 7, SPEC, trial)  # type: ignore[arg-type]
    assert not any("memory" in field.name for field in model.inputs), "memory is the network's alone"


def test_signals_do_not_hang_on_the_size_of_a_machine(parts):
    part = parts[0]
    wiring = wire(inputs_of(part), SPEC)
    larger = {
        name: values * (1024 if name.startswith("network") else 1) for name, values in part.columns.items()
    }
    seen, level = matrix(part.columns, wiring)
    scaled, scaled_level = matrix(larger, wiring)
    rows = level > wiring.unit * 2
    relative = [place for place, name in enumerate(names_of(wiring)) if name.startswith("traffic")]
    np.testing.assert_allclose(scaled[rows][:, relative], seen[rows][:, relative], rtol=1e-5)
    np.testing.assert_allclose(scaled_level[rows], level[rows] * 1024, rtol=1e-5)


def names_of(wiring):
    from models.bandwidth.signals import sources

    return list(sources(wiring))


def test_inputs_without_a_gauge_are_refused(parts):
    rest = tuple(field for field in inputs_of(parts[0]) if not field.name.startswith("memory"))
    with pytest.raises(ValueError, match="memory"):
        wire(rest, SPEC)


def test_a_source_without_disks_is_learned_from_all_the_same(parts, tmp_path):
    pytest.importorskip("tensorflow")
    train, valid, holdout = parts
    rest = tuple(field for field in inputs_of(train) if not field.name.startswith("disk"))
    native, exported = both(BUILDER.fit(train, valid, rest, SMALL, 7, SPEC), with_gaps(holdout), tmp_path)
    np.testing.assert_allclose(exported["forecast"], native["forecast"], rtol=2e-5, atol=1e-4)
