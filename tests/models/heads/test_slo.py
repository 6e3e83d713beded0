"""The service-level head: what-if answers that keep the order of loads, sizes and limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.heads.slo import Blend, Machine, SloHead

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
HEAD = SloHead(
    machine=Machine(
        cores="cpu_cores",
        memory_gib="memory_gib",
        cpu_percent="cpu",
        load="rps",
        memory_percent="memory",
        tail_latency="p95",
        median_latency="p50",
    ),
    tail_reference=Blend(columns=("p95_last", "p95"), weights=(0.4, 0.6)),
    median_reference=Blend(columns=("p50",), weights=(1.0,)),
    levels=LEVELS,
    offsets=(-0.05, -0.02, 0.0, 0.02, 0.05),
    usual=(50.0, 20.0),
    seen_utilisation=70.0,
)
ROWS = 6
TOLD = arrays(np.float64, (ROWS, 7), elements=st.floats(-2, 2))


def columns(**given_columns: float) -> dict[str, np.ndarray]:
    usual = {
        "cpu_cores": 8.0,
        "memory_gib": 32.0,
        "cpu": 30.0,
        "rps": 100.0,
        "memory": 50.0,
        "p95": 60.0,
        "p95_last": 66.0,
        "p50": 20.0,
        "load_rps": 100.0,
    }
    return {name: np.full(ROWS, value) for name, value in (usual | given_columns).items()}


@given(told=TOLD, rise=arrays(np.float64, (ROWS, 7), elements=st.floats(0, 1)), limit=st.floats(1, 500))
def test_nothing_gets_better_where_every_quantile_rises(told, rise, limit):
    asked = columns(slo_ms=limit)
    before, after = (HEAD.answer(asked, {"boosters": raw}) for raw in (told, told + rise))
    for name in ("latency_p95_ms", "lower", "upper", "latency_p50_ms", "slo_probability"):
        assert np.all(after[name] >= before[name] - 1e-9), name
    assert np.all(after["throughput_rps"] <= before["throughput_rps"] + 1e-9)


@given(told=TOLD, loads=st.tuples(st.floats(1, 1000), st.floats(1, 1000)))
def test_more_load_alone_never_makes_it_faster(told, loads):
    little, much = (HEAD.answer(columns(load_rps=load), {"boosters": told}) for load in sorted(loads))
    for name in ("latency_p95_ms", "latency_p50_ms", "slo_probability", "throughput_rps"):
        assert np.all(much[name] >= little[name] - 1e-9), name


@given(told=TOLD, cores=st.tuples(st.floats(1, 64), st.floats(1, 64)))
def test_more_cores_alone_never_make_it_slower(told, cores):
    few, many = (
        HEAD.answer(columns(candidate_cpu_cores=count), {"boosters": told}) for count in sorted(cores)
    )
    for name in ("latency_p95_ms", "latency_p50_ms", "slo_probability"):
        assert np.all(many[name] <= few[name] + 1e-9), name
    assert np.all(many["throughput_rps"] >= few["throughput_rps"] - 1e-9)


@given(told=TOLD, limits=st.tuples(st.floats(1, 500), st.floats(1, 500)))
def test_a_looser_limit_is_passed_less_often(told, limits):
    tight, loose = (HEAD.answer(columns(slo_ms=limit), {"boosters": told}) for limit in sorted(limits))
    assert np.all(loose["slo_probability"] <= tight["slo_probability"] + 1e-9)
    for answers in (tight, loose):
        assert np.all((answers["slo_probability"] >= 0) & (answers["slo_probability"] <= 1))
        assert np.all(
            (answers["lower"] <= answers["latency_p95_ms"]) & (answers["latency_p95_ms"] <= answers["upper"])
        )


def test_the_probability_at_a_quantile_is_its_level():
    told = np.tile([-0.4, -0.2, 0.0, 0.2, 0.4, 0.0, 0.0], (ROWS, 1))
    quantiles = HEAD.quantiles(told)
    for place, level in enumerate(LEVELS):
        assert HEAD.exceedance(quantiles, quantiles[:, place])[0] == pytest.approx(1 - level)
    # One scale of the tail beyond the last quantile: e times rarer.
    assert HEAD.exceedance(quantiles, quantiles[:, -1] + HEAD.tail[1])[0] == pytest.approx(0.1 / np.e)


def test_without_a_limit_it_is_relative_to_the_usual_latency():
    told = np.zeros((ROWS, 7))
    answers = HEAD.answer(columns(), {"boosters": told})
    np.testing.assert_allclose(answers["slo_ms"], 1.5 * 60.0)
    np.testing.assert_allclose(answers["latency_p95_ms"], 66.0**0.4 * 60.0**0.6)


def test_utilisation_is_in_proportion_where_it_is_low_and_never_passes_100():
    little, double, much = (
        HEAD.utilisation(columns(cpu=2.0, load_rps=load))[0] for load in (100.0, 200.0, 1e6)
    )
    assert little == pytest.approx(2.0)
    assert double == pytest.approx(4.0, rel=0.02)
    assert much == pytest.approx(100.0)


def test_beyond_the_seen_utilisation_it_says_so_and_waits_longer():
    told = np.zeros((ROWS, 7))
    loads = [100.0 * np.log(free) / np.log(0.7) for free in (0.31, 0.1)]
    seen, beyond = (HEAD.answer(columns(load_rps=load), {"boosters": told}) for load in loads)
    assert not seen["extrapolates"].any()
    assert beyond["extrapolates"].all()
    np.testing.assert_allclose(beyond["utilisation_percent"], 90.0)
    np.testing.assert_allclose(beyond["latency_p95_ms"] / seen["latency_p95_ms"], 0.3 / 0.1)


def test_no_more_is_answered_than_the_cores_can_do():
    told = np.zeros((ROWS, 7))
    at_most = 100.0 / -np.log(0.7)  # the load at which the work keeps all cores busy
    np.testing.assert_allclose(
        HEAD.answer(columns(load_rps=1e5), {"boosters": told})["throughput_rps"], at_most
    )


def test_memory_in_use_must_fit():
    told = np.zeros((ROWS, 7))
    assert HEAD.answer(columns(), {"boosters": told})["fits_memory"].all()
    assert not HEAD.answer(columns(candidate_memory_gib=16.0), {"boosters": told})["fits_memory"].any()
    assert HEAD.answer(columns(candidate_memory_gib=17.0), {"boosters": told})["fits_memory"].all()


def test_a_machine_without_a_past_is_answered_as_the_usual_one():
    told = np.zeros((ROWS, 7))
    unknown = columns(p95=np.nan, p95_last=np.nan, p50=np.nan, cpu=np.nan, rps=np.nan, memory=np.nan)
    answers = HEAD.answer(unknown, {"boosters": told})
    np.testing.assert_allclose(answers["latency_p95_ms"], 50.0)
    for values in answers.values():
        assert values.dtype.kind != "f" or np.isfinite(values).all()


def test_the_head_is_the_same_after_a_round_trip_through_json():
    assert SloHead.model_validate_json(HEAD.model_dump_json()) == HEAD


def test_a_service_without_a_size_is_answered_too():
    bare = HEAD.model_copy(update={"machine": Machine(load="rps", tail_latency="p95", median_latency="p50")})
    given_columns = {name: columns()[name] for name in ("rps", "p95", "p95_last", "p50", "load_rps")}
    answers = bare.answer(given_columns, {"boosters": np.zeros((ROWS, 7))})
    assert not answers["extrapolates"].any()
    np.testing.assert_allclose(answers["throughput_rps"], 100.0)
