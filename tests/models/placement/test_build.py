"""The builder learns from censored lifetimes, and what it saves answers as it does."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from models.base import Observations
from models.manifest import FieldType, InputField
from models.placement.build import BUILDER, Watched, class_weights
from models.placement.spec import SPEC
from models.placement.task import PlacementTask, log2_error, median_lifetime
from pipelines.adapters import exports

pytestmark = pytest.mark.integration  # trains: seconds

INPUTS = tuple(
    InputField(name=name, type=FieldType.DOUBLE, required=False)
    for name in ("cores__last", "memory_gib__last", "tenant_outlived_4h__last")
)
START = np.datetime64("2026-10-01T00:00:00", "us")


def observed(count: int, begin_hours: float, end_hours: float, watch_ends: float, seed: int) -> Observations:
    """Machines of two kinds of tenant: one's live for an hour, the other's for two days."""
    generator = np.random.default_rng(seed)
    created = np.sort(generator.uniform(begin_hours, end_hours, count))
    long = generator.random(count) < 0.4
    lifetime = np.where(long, 48.0, 1.0) * np.exp(generator.normal(0, 0.4, count))
    watched = np.minimum(lifetime, watch_ends - created)
    cores = generator.choice([1.0, 2.0, 4.0], count)
    return Observations(
        columns={
            "cores__last": cores,
            "memory_gib__last": cores * 4,
            "tenant_outlived_4h__last": np.where(generator.random(count) < 0.1, np.nan, long * 0.9),
        },
        targets={"hours": watched, "observed": (lifetime <= watched).astype(np.float64)},
        weight=np.ones(count),
        entity=np.array([f"v{number}" for number in range(count)], dtype=object),
        time=START + (created * 3.6e9).astype("timedelta64[us]"),
    )


@pytest.fixture(scope="module")
def parts() -> tuple[Observations, Observations, Observations]:
    return (
        observed(1500, 0, 300, 600, 1),
        observed(500, 300, 400, 600, 2),
        observed(500, 400, 500, 600, 3),
    )


@pytest.fixture(scope="module")
def fitted(parts: tuple[Observations, Observations, Observations]):  # type: ignore[no-untyped-def]
    train, valid, _ = parts
    params = BUILDER.default_params() | {"min_child_samples": 50}
    return BUILDER.fit(train, valid, INPUTS, params, 7, SPEC)


def test_it_tells_lifetimes_better_than_medians_do(parts, fitted) -> None:  # type: ignore[no-untyped-def]
    train, _, holdout = parts
    task = BUILDER.task(SPEC)
    answers = fitted.answer(holdout)
    ones = np.ones(len(holdout))
    ours = task.statistic(holdout, answers)(ones)
    for name, baseline in task.baselines(train, holdout, INPUTS).items():
        assert ours > task.statistic(holdout, baseline)(ones) + 0.5, name
    figures = task.metrics(holdout, answers)
    assert figures["log2_error"] == pytest.approx(-ours)
    assert 0.65 < figures["coverage"] < 0.95
    assert figures["violations"] == 0
    assert figures["stranded_to_random"] < 0.7
    assert sum(fitted.importance().values()) == pytest.approx(1)


def test_the_export_answers_as_the_model_does(parts, fitted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    holdout = parts[2].rows(np.arange(40))
    answers = fitted.answer(holdout)
    exports.write_export(
        tmp_path / "export",
        fitted.save,
        model="placement",
        inputs=fitted.inputs,
        sample=exports.make_sample(fitted.inputs, holdout.columns, answers),
        lineage={},
    )
    predictor = exports.load_export(tmp_path / "export")
    hosts = {
        "request_id": np.array(["r"] * 40, dtype=object),
        "host_free_cores": np.full(40, 8.0),
        "host_free_memory_gib": np.full(40, 64.0),
        "host_vms": np.full(40, 2.0),
    }
    exported = predictor.predict({**holdout.columns, **hosts})
    assert exported["lifetime_hours"] == pytest.approx(answers["lifetime_hours"])
    assert exported["chosen"].sum() == 1


def test_what_ends_after_the_cut_is_not_learned(parts) -> None:  # type: ignore[no-untyped-def]
    """Lifetimes of train that end in valid's time are censored there, so other ends there change nothing."""
    train, valid, holdout = parts
    left = (valid.time.min() - train.time) / np.timedelta64(3_600_000_000, "us")
    late = train.targets["hours"] > left
    other = Observations(
        train.columns,
        {
            "hours": np.where(late, train.targets["hours"] + 50.0, train.targets["hours"]),
            "observed": np.where(late, 0.0, train.targets["observed"]),
        },
        train.weight,
        train.entity,
        train.time,
    )
    assert late.any()
    params = BUILDER.default_params() | {"min_child_samples": 50}
    first, second = (BUILDER.fit(each, valid, INPUTS, params, 7, SPEC) for each in (train, other))
    np.testing.assert_array_equal(
        first.answer(holdout)["lifetime_hours"], second.answer(holdout)["lifetime_hours"]
    )


def test_the_censored_count_for_what_they_may_yet_become() -> None:
    edges = (1.0, 2.0, 4.0)
    watched = Watched(
        hours=np.array([0.5, 1.5, 1.5, 3.0, 9.0, 1.5]),
        seen=np.array([True, True, True, True, True, False]),
        weight=np.ones(6),
    )
    weights = class_weights(watched, edges)
    assert weights.sum(axis=1) == pytest.approx(1)
    np.testing.assert_array_equal(weights[:5].argmax(axis=1), [0, 1, 1, 2, 3])
    # Half of its own class is over, and never is it of a class below.
    assert weights[5, 0] == 0
    assert 0 < weights[5, 1] < weights[5, 2] + weights[5, 3]
    # Watched for longer than any end was seen: the last class.
    beyond = class_weights(Watched(np.array([30.0]), np.array([False]), np.ones(1)), edges, watched)
    np.testing.assert_array_equal(beyond, [[0, 0, 0, 1]])


def test_a_watch_that_ended_early_is_an_error_only_below_it() -> None:
    part = observed(3, 0, 1, 600, 5)
    judged = Observations(
        part.columns,
        {"hours": np.array([8.0, 8.0, 8.0]), "observed": np.array([1.0, 0.0, 0.0])},
        part.weight,
        part.entity,
        part.time,
    )
    error = log2_error(judged, np.array([2.0, 2.0, 90.0]))
    assert error[0] == error[1] == pytest.approx(2, abs=0.1)
    assert error[2] == 0
    assert median_lifetime(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, True])) == 3.0


def test_the_spec_waits_for_no_label() -> None:
    assert SPEC.target.horizon == timedelta(0)
    assert isinstance(BUILDER.task(SPEC), PlacementTask)
