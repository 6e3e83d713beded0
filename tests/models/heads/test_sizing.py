"""The sizing head: distributions, risks, and answers that hold together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.heads.sizing import CHEAPEST, NONE_WITHIN, UNKNOWN, Amount, Demand, SizingHead
from models.rightsizing.choice import load_prices

CLASSES = ("idle", "bursty", "steady")
LEVELS = (-4.0, -2.0, -1.0, 0.0, 0.5, 2.0)
CPU = Demand(
    reference=Amount(column="cpu_percent__max_7d", factor=0.01, of="cpu_cores", largest=100.0),
    floor=0.01,
    capacity=Amount(column="cpu_cores"),
    first=3,
    levels=LEVELS,
)
MEMORY = Demand(
    reference=Amount(column="mem_kb__max_7d", factor=2.0**-20),
    floor=0.02,
    capacity=Amount(column="memory_gib"),
    first=9,
    levels=LEVELS,
)
HEAD = SizingHead(classes=CLASSES, cpu=CPU, memory=MEMORY, prices=load_prices())
ROWS = 4
VOTES = arrays(np.float64, (ROWS, 15), elements=st.floats(-0.1, 1.1))


def columns(cpu=50.0, cores=8.0, kb=2.0 * 2**20, gib=16.0) -> dict[str, np.ndarray]:
    return {
        "cpu_percent__max_7d": np.full(ROWS, cpu),
        "cpu_cores": np.full(ROWS, cores),
        "mem_kb__max_7d": np.full(ROWS, kb),
        "memory_gib": np.full(ROWS, gib),
    }


def votes(*cpu_levels: float) -> np.ndarray:
    row = [0.2, 0.1, 0.7, *cpu_levels, 0.0, 0.2, 0.5, 0.9, 1.0, 1.0]
    return np.tile(row, (ROWS, 1))


@given(told=VOTES)
def test_risk_never_rises_with_either_resource(told):
    prices = HEAD.prices
    risk = HEAD.risk(columns(), told)
    for place in range(len(prices.sizes)):
        larger = (prices.vcpu >= prices.vcpu[place]) & (prices.memory_gib >= prices.memory_gib[place])
        assert np.all(risk[:, larger] <= risk[:, [place]] + 1e-12)


@given(told=VOTES, cpu=st.floats(0, 130), gib=st.sampled_from([1.0, 16.0, 39.0]))
def test_answers_hold_together(told, cpu, gib):
    asked = columns(cpu=cpu, gib=gib)
    answers = HEAD.answer(asked, {"forest": told})
    assert tuple(answers) == tuple(field.name for field in HEAD.outputs())
    for values in answers.values():
        assert values.shape == (ROWS,)
        assert values.dtype.kind != "f" or np.isfinite(values).all()
    assert np.all(answers["cpu_demand_lower"] <= answers["cpu_demand"])
    assert np.all(answers["cpu_demand"] <= answers["cpu_demand_upper"])
    assert np.all(answers["cpu_demand_upper"] <= asked["cpu_cores"] + 1e-9)
    assert np.all(answers["risk"][answers["within_bound"]] <= HEAD.prices.max_risk)
    assert np.all(answers["smaller_cost_usd_month"] <= answers["cost_usd_month"])
    assert np.all(answers["larger_risk"] <= answers["risk"] + 1e-12)
    total = sum(answers[f"probability_{name}"] for name in CLASSES)
    np.testing.assert_allclose(total, 1.0)


def test_what_holds_the_present_capacity_is_without_risk():
    risk = HEAD.risk(columns(), votes(0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    holds = (HEAD.prices.vcpu >= 8.0) & (HEAD.prices.memory_gib >= 16.0)
    assert np.all(risk[:, holds] == 0.0)


def test_a_quantile_is_read_off_the_distribution():
    # 50 % of 8 cores were used at most; half of the distribution lies below twice that ** -1.
    told = votes(0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    assert CPU.quantile(told, columns(), 0.5)[0] == pytest.approx(4.0 * 2**-1.0)
    assert CPU.quantile(told, columns(), 0.625)[0] == pytest.approx(4.0 * 2**-0.5)
    assert CPU.exceedance(told, columns(), np.array([4.0]))[0, 0] == pytest.approx(0.25)


def test_the_reasons_are_told_apart():
    told = votes(0.0, 0.0, 0.0, 0.5, 1.0, 1.0)
    strict = HEAD.model_copy(update={"prices": HEAD.prices.model_copy(update={"max_risk": 1e-9})})
    huge = columns(cores=512.0)
    assert set(HEAD.answer(columns(), {"forest": told})["reason"]) == {CHEAPEST}
    assert set(strict.answer(huge, {"forest": told})["reason"]) == {NONE_WITHIN}
    unknown = HEAD.answer(columns(cpu=np.nan), {"forest": told})
    assert set(unknown["reason"]) == {UNKNOWN}
    assert set(unknown["size"]) == {"8x16"}
    assert not unknown["within_bound"].any()


def test_a_machine_at_its_limit_is_marked():
    told = votes(0.0, 0.0, 0.0, 0.5, 1.0, 1.0)
    assert HEAD.answer(columns(cpu=99.0), {"forest": told})["saturated"].all()
    assert not HEAD.answer(columns(cpu=60.0), {"forest": told})["saturated"].any()


def test_the_head_is_the_same_after_a_round_trip_through_json():
    assert SizingHead.model_validate_json(HEAD.model_dump_json()) == HEAD


def test_a_machine_that_was_off_all_week_is_not_known():
    told = votes(0.0, 0.0, 0.0, 0.5, 1.0, 1.0)
    assert set(HEAD.answer(columns(cores=0.0), {"forest": told})["reason"]) == {UNKNOWN}
