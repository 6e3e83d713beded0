"""What a detector's head promises: order, causes, and answers for whatever comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from models.heads.severity import SEVERITIES, Profile, SeverityHead, SideProfile, lag_name

METRICS = ("cpu", "disk", "network")
LAGS = 6


def side(centre: float, size: int) -> SideProfile:
    weights = tuple(tuple(float(row == column) for column in range(size)) for row in range(size))
    return SideProfile(centre=(centre,) * size, scale=(1.0,) * size, mean=(0.0,) * size, weights=weights)


def profile(centre: float, size: int = len(METRICS)) -> Profile:
    signals = (
        "static_distance",
        "trailing_distance",
        "static_structure",
        "trailing_structure",
        "spread",
        "movement",
    )
    ones, zeros = (1.0,) * size, (0.0,) * size
    return Profile(
        static=side(centre, size),
        trailing=side(0.0, size),
        spread_centre=zeros,
        spread_scale=ones,
        movement_centre=zeros,
        movement_scale=ones,
        units=dict.fromkeys(signals, ones),
    )


def head(**changes: object) -> SeverityHead:
    fields = {
        "metrics": METRICS,
        "lags": LAGS,
        "level_steps": 3,
        "reference": "mean_8h",
        "resolution": (1.0,) * len(METRICS),
        "key": "server",
        "keys": ("a", "b"),
        "profiles": (profile(10.0), profile(50.0)),
        "fleet": profile(30.0),
        "weights": {"distance": 1.0, "structure": 1.0, "spread": 0.5, "movement": 0.5},
        "strongest": 2,
        "levels": (0.5, 1.0, 2.0, 4.0),
    }
    return SeverityHead.model_validate(fields | changes)


def columns(
    values: NDArray[np.float64], reference: NDArray[np.float64], server: list[str | None]
) -> dict[str, NDArray]:
    """Rows whose lags all hold one value a metric; shapes (n, 3)."""
    told: dict[str, NDArray] = {"server": np.array(server, dtype=object)}
    for place, metric in enumerate(METRICS):
        told[f"{metric}__mean_8h"] = reference[:, place]
        told |= {lag_name(metric, step): values[:, place].copy() for step in range(LAGS)}
    return told


def rows(*values: float, server: str | None = "a", reference: float = 10.0) -> dict[str, NDArray]:
    """Rows of which the disk takes the values and the others stay at the reference."""
    matrix = np.full((len(values), len(METRICS)), reference)
    matrix[:, 1] = values
    return columns(matrix, np.full_like(matrix, reference), [server] * len(values))


def test_the_score_rises_with_the_distance_and_severities_follow_it() -> None:
    answers = head().answer(rows(10, 11, 12, 14, 20, 60), {})

    assert np.all(np.diff(answers["score"]) > 0)
    grades = [SEVERITIES.index(text) for text in answers["severity"]]
    assert grades == sorted(grades)
    assert grades[0] == 0
    assert grades[-1] == len(SEVERITIES) - 1


def test_half_is_the_alarm_level_and_medium_is_where_abnormal_begins() -> None:
    answers = head().answer(rows(*np.linspace(10, 40, 200)), {})

    assert np.array_equal(answers["abnormal"], answers["score"] >= 0.5)
    assert np.array_equal(
        answers["abnormal"], np.isin(answers["severity"].astype(str), ["medium", "high", "critical"])
    )


def test_the_strange_metric_is_blamed_first() -> None:
    answers = head().answer(rows(30), {})

    assert answers["blame_1"][0] == "disk"
    assert answers["blame_share_1"][0] > answers["blame_share_2"][0]


def test_each_machine_is_held_against_its_own_profile_and_others_against_the_fleets() -> None:
    told = rows(*[10.0] * 4)
    told["server"][:] = ["a", "b", "unseen", None]
    for metric in METRICS:
        told[f"{metric}__mean_8h"][:] = [10, 50, 30, 30]  # none is where it was of late

    score = head().answer(told, {})["score"]

    assert score[0] < 0.5 < score[1]
    assert score[1] > score[2]
    assert score[2] == score[3]


def test_a_new_level_that_has_lasted_is_normal_again() -> None:
    lasting = head().answer(rows(60, reference=60.0), {})
    fresh = head().answer(rows(60, reference=10.0), {})

    assert not lasting["abnormal"][0]
    assert fresh["abnormal"][0]


def test_activity_alone_is_seen() -> None:
    quiet, restless = rows(10), rows(10)
    for step in range(LAGS):
        restless[lag_name("cpu", step)] = np.array([10.0 + 200 * (-1) ** step])

    answers = [head(level_steps=2).answer(each, {})["score"][0] for each in (quiet, restless)]

    assert answers[1] > answers[0]


def test_missing_values_count_as_usual() -> None:
    told = rows(10)
    for step in range(LAGS):
        told[lag_name("network", step)] = np.array([np.nan])
    del told["cpu__mean_8h"]

    answers = head().answer(told, {})

    assert not answers["abnormal"][0]
    assert np.isfinite(answers["score"][0])


def test_without_the_last_hours_the_usual_level_decides_alone() -> None:
    told = rows(10, 60)
    told = {name: values for name, values in told.items() if not name.endswith("mean_8h")}

    answers = head().answer(told, {})

    assert list(answers["abnormal"]) == [False, True]


def test_estimators_take_part_with_their_weight() -> None:
    weights = {"distance": 1.0, "structure": 1.0, "spread": 0.5, "movement": 0.5, "reconstruction": 1.0}
    units = profile(10.0).units | {"reconstruction": (1.0,) * len(METRICS)}
    own = profile(10.0).model_copy(update={"units": units})
    both = head(
        weights=weights,
        profiles=(own, own),
        fleet=own,
        autoencoder="autoencoder",
        forest="forest",
        forest_weight=0.5,
    )
    told = rows(10, 10, 10)

    answers = both.answer(
        told,
        {
            "autoencoder": np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 8.0], [0.0, 0.0, 0.0]]),
            "forest": np.array([0.1, 0.1, -9.0]),
        },
    )

    assert answers["score"][1] > answers["score"][0]
    assert answers["blame_1"][1] == "network"
    assert answers["score"][2] > answers["score"][0]


def test_fewer_metrics_than_places_leave_places_empty() -> None:
    of_one = profile(10.0, size=1)
    one = head(metrics=("cpu",), resolution=(1.0,), key=None, keys=(), profiles=(), fleet=of_one)

    answers = one.answer({lag_name("cpu", step): np.array([99.0]) for step in range(LAGS)}, {})

    assert answers["blame_1"][0] == "cpu"
    assert answers["blame_2"][0] == ""
    assert answers["blame_share_3"][0] == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"levels": (0.5, 1.5, 2.0, 4.0)}, "medium must begin at 1"),
        ({"levels": (0.5, 1.0, 1.0, 4.0)}, "rise"),
        ({"profiles": (profile(1.0),)}, "2 keys, but 1 profiles"),
        ({"weights": {"distance": 1.0}}, "weights must name"),
        ({"metrics": ("cpu",)}, "metrics, not of 1"),
        ({"keys": ("a", "a")}, "twice"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        head(**changes)


def test_the_head_is_the_same_after_a_way_through_json() -> None:
    there = head()
    back = SeverityHead.model_validate_json(there.model_dump_json())
    told = rows(*np.linspace(0, 100, 17))

    before, after = there.answer(told, {}), back.answer(told, {})

    assert all(np.array_equal(before[field.name], after[field.name]) for field in there.outputs())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-1e12, 1e12) | st.just(float("nan"))] * 6), min_size=1, max_size=5),
    st.sampled_from(["a", "b", "c", None]),
)
def test_whatever_comes_the_answers_are_numbers_in_their_range(
    given_rows: list[tuple[float, ...]], server: str | None
) -> None:
    values = np.array(given_rows)
    told = columns(values[:, :3], values[:, 3:], [server] * len(values))

    answers = head().answer(told, {})

    assert set(answers) == {field.name for field in head().outputs()}
    assert np.all((answers["score"] >= 0) & (answers["score"] <= 1))
    assert set(answers["severity"]) <= set(SEVERITIES)
    for place in (1, 2, 3):
        assert set(answers[f"blame_{place}"]) <= {*METRICS, ""}
        assert np.all((answers[f"blame_share_{place}"] >= 0) & (answers[f"blame_share_{place}"] <= 1))
