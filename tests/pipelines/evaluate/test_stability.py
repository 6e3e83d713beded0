"""Answers that follow noise, or hang on one sensor, are refused."""

import numpy as np
import pytest

from models.base import Observations
from models.manifest import FieldType, InputField
from models.specs import Stability
from pipelines.evaluate.stability import Asked, change, noise_of, stability_checks
from pipelines.references import Outcome

FIELDS = (
    InputField(name="heat", type=FieldType.DOUBLE, required=False, minimum=0.0),
    InputField(name="wear", type=FieldType.DOUBLE, required=False),
    InputField(name="zone", type=FieldType.STRING, required=False),
    InputField(name="steps", type=FieldType.DOUBLE, minimum=1, maximum=3),
)


def part(rows=500, seed=0):
    random = np.random.default_rng(seed)
    columns = {
        "heat": random.uniform(0, 10, rows),
        "wear": random.normal(size=rows),
        "zone": np.array(["a", "b"], dtype=object)[random.integers(0, 2, rows)],
        "steps": random.integers(1, 4, rows).astype(np.float64),
    }
    entity = np.array([f"m{number % 9}" for number in range(rows)], dtype=object)
    return Observations(columns, {}, np.ones(rows), entity)


def steady(columns):
    heat = np.nan_to_num(columns["heat"], nan=5.0)
    return {"load": heat + columns["steps"], "alarm": heat > 9}


def nervous(columns):
    return {"load": np.sin(1e4 * columns["wear"]), "alarm": np.sin(1e4 * columns["wear"]) > 0}


def spiteful(columns):
    return {"load": np.where(np.isnan(columns["heat"]), np.nan, columns["heat"])}


def checks(predict, answer, **config):
    model = Asked(predict, FIELDS, frozenset({"steps"}), {"heat": 1.0})
    return stability_checks(model, part(seed=1), part(), answer, Stability(**config), seed=0)


@pytest.mark.parametrize("answer", ["load", "alarm"])
def test_a_steady_model_passes(answer):
    noise, missing = checks(steady, answer, missing=2)
    assert noise.outcome is Outcome.PASS
    assert missing.outcome is (Outcome.PASS if answer == "load" else missing.outcome)
    assert "most where heat is missing" in missing.detail


@pytest.mark.parametrize("answer", ["load", "alarm"])
def test_a_model_that_follows_noise_is_refused(answer):
    noise = checks(nervous, answer)[0]
    assert noise.outcome is Outcome.FAIL
    assert "small noise: fail" in noise.sentence()


def test_an_answer_that_is_no_number_where_a_sensor_falls_silent_is_refused():
    missing = checks(spiteful, "load")[1]
    assert missing.outcome is Outcome.FAIL
    assert "an answer is no number" in missing.sentence()


def test_what_callers_choose_is_left_as_it_is_and_bounds_hold():
    seen = []

    def watching(columns):
        seen.append({name: values.copy() for name, values in columns.items()})
        return steady(columns)

    checks(watching, "load", noise=2.0)
    plain, noisy = seen[0], seen[1]
    assert (noisy["steps"] == plain["steps"]).all()
    assert (noisy["heat"] != plain["heat"]).any()
    assert noisy["heat"].min() >= 0.0
    assert not any(np.isnan(columns["steps"]).any() for columns in seen)


def test_inputs_are_drawn_where_their_weights_are_not_known():
    model = Asked(steady, FIELDS, frozenset(), None)
    found = stability_checks(model, part(seed=1), part(), "load", Stability(missing=3), seed=0)
    assert all(name in found[1].detail for name in ("heat", "wear", "zone"))


def test_changes_are_shares_of_what_answers_vary():
    plain = np.array([0.0, 1.0, 2.0, 3.0])
    assert change(plain, plain + 0.5) == pytest.approx(0.5)
    assert change(np.ones(4), np.ones(4)) == 0.0
    assert change(np.ones(4), np.zeros(4)) == float("inf")
    assert change(np.array(["s", "m"], dtype=object), np.array(["s", "l"], dtype=object)) == 0.5


def test_outliers_do_not_stretch_the_noise():
    values = np.append(np.linspace(0, 1, 999), 1e6)
    rest, spread = noise_of(values)
    assert np.isnan(rest)
    assert spread < 1
    assert noise_of(np.array([np.nan, np.nan]))[1] == 0.0


def test_a_counter_at_rest_is_exact_and_its_few_large_values_are_no_measure_of_noise():
    random = np.random.default_rng(3)
    counts = np.where(random.uniform(size=1000) < 0.03, random.integers(1, 50_000, 1000), 0).astype(
        np.float64
    )
    entity = np.array(["m"] * 1000, dtype=object)
    rows = Observations({"errors": counts}, {}, np.ones(1000), entity)

    def any_error(columns):
        return {"alarm": columns["errors"] > 0.5}

    fields = (InputField(name="errors", type=FieldType.DOUBLE, required=False, minimum=0.0),)
    model = Asked(any_error, fields)
    noise = stability_checks(model, rows, rows, "alarm", Stability(), seed=0)[0]
    assert noise.outcome is Outcome.PASS
    assert noise.figure == 0.0
