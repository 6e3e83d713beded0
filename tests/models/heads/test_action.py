"""The head of actions: which step is answered, what the policy is told, and that it survives JSON."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from models.heads import ActionHead, Head, IntervalHead
from models.heads.interval import Encoding, Level, Member, Offset
from models.scaling.policy import ScalingPolicy

NOW = Level(columns=("load",), floor=1.0)
POLICY = ScalingPolicy(capacity_per_replica=100.0, target_utilisation=1.0, max_replicas=20)


def step(number: int, coverage: float = 0.8) -> IntervalHead:
    middle, lower, upper = (Member(estimator="boosters", output=3 * number + place) for place in range(3))
    return IntervalHead(
        forecast=(middle,),
        lower=(lower,),
        upper=(upper,),
        encoding=Encoding(base=NOW, scale=NOW),
        offsets=(Offset(lower=0.0, upper=0.0),),
        coverage=coverage,
    )


HEAD = ActionHead(steps=(step(0), step(1)), now=NOW, policy=POLICY)
#: The load doubles within the first step and is back at the second.
RISE_AND_FALL = np.array([[1.0, 0.8, 1.2, 0.0, -0.1, 0.1]])


def answered(raw: np.ndarray = RISE_AND_FALL, **columns: float) -> dict[str, np.ndarray]:
    rows = len(raw)
    given_columns = {name: np.full(rows, value) for name, value in {"load": 300.0, **columns}.items()}
    return HEAD.answer(given_columns, {"boosters": raw})


def test_the_step_that_is_asked_for_is_answered() -> None:
    first, second = answered(steps_ahead=1.0), answered(steps_ahead=2.0)
    assert [first[name][0] for name in ("lower", "forecast", "upper")] == pytest.approx([540, 600, 660])
    assert [second[name][0] for name in ("lower", "forecast", "upper")] == pytest.approx([270, 300, 330])


@pytest.mark.parametrize("columns", [{}, {"steps_ahead": np.nan}, {"steps_ahead": 9.0}])
def test_the_last_step_is_answered_where_none_is_asked_for(columns: dict[str, float]) -> None:
    assert answered(**columns)["forecast"][0] == pytest.approx(300)


def test_the_action_is_for_the_largest_load_on_the_way() -> None:
    answer = answered(steps_ahead=2.0, current_replicas=4.0)
    assert (answer["action"][0], answer["desired_replicas"][0]) == ("scale_out_fast", 7)


def test_later_steps_than_asked_for_do_not_count() -> None:
    later = np.array([[0.0, 0.0, 0.0, 3.0, 3.0, 3.0]])
    assert answered(later, steps_ahead=1.0, current_replicas=3.0)["desired_replicas"][0] == 3
    assert answered(later, steps_ahead=2.0, current_replicas=3.0)["desired_replicas"][0] == 12


def test_the_caller_s_capacity_and_bounds_hold() -> None:
    answer = answered(steps_ahead=2.0, current_replicas=4.0, capacity_per_replica=10.0, max_replicas=9.0)
    assert answer["desired_replicas"][0] == 9


@given(
    st.lists(st.lists(st.floats(-100, 100), min_size=6, max_size=6), min_size=1, max_size=4),
    st.one_of(st.just(np.nan), st.floats(0, 1e6)),
)
def test_answers_are_numbers_in_order_and_of_the_outputs_types(raw: list[list[float]], load: float) -> None:
    answer = answered(np.array(raw), load=load)
    assert list(answer) == [field.name for field in HEAD.outputs()]
    assert np.all(answer["lower"] <= answer["forecast"])
    assert np.all(answer["forecast"] <= answer["upper"])
    assert all(np.isfinite(answer[name]).all() for name in ("lower", "upper", "confidence"))
    assert answer["desired_replicas"].dtype == np.int64
    assert all(isinstance(action, str) for action in answer["action"])


def test_a_newer_reading_stands_for_the_present_load() -> None:
    calm = np.zeros((1, 6))
    assert answered(calm, current_replicas=4.0)["desired_replicas"][0] == 4
    assert answered(calm, current_replicas=4.0, current_load=900.0)["desired_replicas"][0] == 9


def test_the_head_survives_json() -> None:
    adapter: TypeAdapter[Head] = TypeAdapter(Head)
    assert adapter.validate_json(adapter.dump_json(HEAD)) == HEAD


def test_steps_of_different_coverage_are_refused() -> None:
    with pytest.raises(ValidationError, match="coverage"):
        ActionHead(steps=(step(0), step(1, coverage=0.9)), now=NOW, policy=POLICY)
