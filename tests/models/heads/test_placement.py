"""The head of placement: choices and reasons from records as callers send them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.heads.placement import CANDIDATE_INPUTS, PlacementHead
from models.manifest import FieldType
from models.placement.choice import cheapest

HEAD = PlacementHead(edges_hours=(1.0, 8.0), tail_hours=48.0)
SHORT, LONG = [4.0, 0.0, 0.0], [0.0, 0.0, 4.0]
HOST: dict[str, Any] = {
    "request_id": "r1",
    "host_id": "h1",
    "cores__last": 4.0,
    "memory_gib__last": 8.0,
    "host_free_cores": 16.0,
    "host_free_memory_gib": 64.0,
    "host_vms": 3.0,
    "host_time_to_empty_hours": 5.0,
}


def answer(records: list[dict[str, Any]], scores: list[list[float]] | None = None) -> dict[str, list[Any]]:
    names = {"cores__last": FieldType.DOUBLE, "memory_gib__last": FieldType.DOUBLE} | {
        name: kind for name, (kind, _) in CANDIDATE_INPUTS.items()
    }
    columns = {
        name: np.array([record.get(name) for record in records], dtype=object)
        if kind is FieldType.STRING
        else np.array([record.get(name) for record in records], dtype=np.float64)
        for name, kind in names.items()
    }
    raw = {"lifetime": np.array(scores or [SHORT] * len(records))}
    answers = HEAD.answer(columns, raw)
    assert list(answers) == [field.name for field in HEAD.outputs()]
    return {name: values.tolist() for name, values in answers.items()}


def test_the_host_that_stays_busy_longest_costs_a_short_machine_least() -> None:
    found = answer(
        [
            HOST,
            HOST | {"host_id": "h2", "host_time_to_empty_hours": 40.0},
            HOST | {"host_id": "h3", "host_vms": 0.0},
        ]
    )
    assert found["chosen"] == [False, True, False]
    assert found["feasible"] == [True, True, True]
    assert found["reason"][1].startswith("chosen: busy 0.")
    assert "the cheapest of 3 allowed hosts" in found["reason"][1]
    assert found["reason"][0].endswith("than host h2")
    assert found["reason"][2] == "allowed, but empty, and an occupied host is allowed"
    assert found["extension_hours"][0] > found["extension_hours"][1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"host_free_cores": 3.0}, "cores: needs 4, free 3"),
        ({"host_free_cores": None}, "cores: needs 4, free unknown"),
        ({"host_free_memory_gib": 7.5}, "memory: needs 8 GiB, free 7.5"),
        ({"zones": "a,b", "host_zone": "c"}, "zone: wants a,b, is in c"),
        ({"zones": "a"}, "zone: wants a, is in an unknown one"),
        ({"labels": "pci", "host_labels": "eu"}, "compliance: wants pci, has eu"),
        (
            {"group_limit_per_host": 2.0, "host_group_vms": 2.0},
            "anti-affinity: 2 of its group run there, with this one at most 2 may",
        ),
        ({"joins_group": 1.0}, "affinity: none of its group is known to run there"),
    ],
)
def test_a_host_that_breaks_a_constraint_is_refused_with_its_reason(
    changed: dict[str, Any], said: str
) -> None:
    other = HOST | {"host_id": "h9", "host_time_to_empty_hours": 0.1}
    wants = {name: value for name, value in changed.items() if not name.startswith("host_")}
    allowed = {"host_zone": "a", "host_labels": "pci,eu", "host_group_vms": 1.0}
    found = answer([HOST | changed, other | wants | allowed])
    assert found["feasible"] == [False, True]
    assert found["chosen"] == [False, True]
    assert found["reason"][0] == said
    assert "the only allowed host" in found["reason"][1]


def test_every_broken_constraint_is_named() -> None:
    found = answer([HOST | {"host_free_cores": 0.0, "labels": "pci"}])
    assert found["reason"] == ["cores: needs 4, free 0; compliance: wants pci, has none"]
    assert found["chosen"] == [False]


def test_records_without_a_request_are_requests_by_themselves() -> None:
    alone = HOST | {"request_id": None}
    assert answer([alone, alone, HOST, HOST | {"host_id": "h0"}])["chosen"] == [True, True, False, True]


def test_a_row_without_a_host_has_a_lifetime_and_no_place() -> None:
    bare = {"cores__last": 4.0, "memory_gib__last": 8.0}
    found = answer([bare, bare | {"age_hours": 24.0}], [SHORT, SHORT])
    assert found["chosen"] == found["feasible"] == [False, False]
    assert np.isfinite(found["score"]).all()
    young, old = found["lifetime_hours"]
    assert young < 1 < old  # who is a day old is none of the short-lived
    for row in range(2):
        assert (
            found["lifetime_lower_hours"][row]
            <= found["lifetime_hours"][row]
            <= found["lifetime_upper_hours"][row]
        )


amounts = st.sampled_from([None, 0.0, 1.0, 2.0, 4.0, 8.0])
records = st.lists(
    st.fixed_dictionaries(
        {
            "request_id": st.sampled_from(["r1", "r2", None]),
            "host_id": st.sampled_from(["h1", "h2", "h3", "h4"]),
            "cores__last": amounts,
            "memory_gib__last": amounts,
            "host_free_cores": amounts,
            "host_free_memory_gib": amounts,
            "host_vms": amounts,
            "host_time_to_empty_hours": amounts,
            "host_group_vms": amounts,
            "group_limit_per_host": amounts,
            "joins_group": st.sampled_from([None, 0.0, 1.0]),
            "zones": st.sampled_from([None, "a", "a,b"]),
            "host_zone": st.sampled_from([None, "a", "b", "c"]),
            "labels": st.sampled_from([None, "pci", "pci,eu"]),
            "host_labels": st.sampled_from([None, "pci", "eu,pci"]),
        }
    ),
    min_size=1,
    max_size=12,
)


def is_allowed(record: dict[str, Any]) -> bool:
    """The constraints once more, as plainly as can be."""

    def within(needs: float | None, has: float | None) -> bool:
        return needs is not None and has is not None and needs <= has

    beside, limit = record["host_group_vms"], record["group_limit_per_host"]
    zones, labels = (set((record[name] or "").split(",")) - {""} for name in ("zones", "labels"))
    return (
        within(record["cores__last"], record["host_free_cores"])
        and within(record["memory_gib__last"], record["host_free_memory_gib"])
        and (not zones or record["host_zone"] in zones)
        and labels <= set((record["host_labels"] or "").split(","))
        and (limit is None or (beside is not None and beside + 1 <= limit))
        and (not record["joins_group"] or (beside is not None and beside >= 1))
    )


@given(records=records, data=st.data())
def test_an_infeasible_host_is_never_chosen_and_order_does_not_matter(
    records: list[dict[str, Any]], data: st.DataObject
) -> None:
    found = answer(records)
    assert found["feasible"] == [is_allowed(record) for record in records]
    requests = {record["request_id"] or place: [] for place, record in enumerate(records)}
    for place, record in enumerate(records):
        requests[record["request_id"] or place].append(place)
    for places in requests.values():
        chosen = [place for place in places if found["chosen"][place]]
        assert len(chosen) == int(any(found["feasible"][place] for place in places))
        assert all(found["feasible"][place] for place in chosen)
    for feasible, chosen, reason in zip(found["feasible"], found["chosen"], found["reason"], strict=True):
        assert reason.startswith("chosen") == chosen
        assert reason.startswith("allowed") == (feasible and not chosen)

    order = data.draw(st.permutations(range(len(records))))
    again = answer([records[place] for place in order])
    picked = sorted(str(record) for record, marked in zip(records, found["chosen"], strict=True) if marked)
    assert picked == sorted(
        str(records[place]) for place, marked in zip(order, again["chosen"], strict=True) if marked
    )


def test_the_choice_is_that_of_the_replay() -> None:
    generator = np.random.default_rng(4)
    records = [
        HOST
        | {
            "host_id": f"h{place:02d}",
            "host_free_cores": float(free),
            "host_time_to_empty_hours": float(busy),
        }
        for place, (free, busy) in enumerate(
            zip(generator.integers(0, 20, 30), generator.uniform(0, 60, 30), strict=True)
        )
    ]
    found = answer(records, [LONG] * 30)
    bits = np.where(found["feasible"], 0, 1)
    assert found["chosen"].index(True) == cheapest(bits, -np.array(found["score"]))


@pytest.mark.parametrize(
    "changed", [{"edges_hours": (2.0, 1.0)}, {"edges_hours": (0.0, 1.0)}, {"levels": (0.5, 0.5, 0.9)}]
)
def test_a_head_that_cannot_be_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PlacementHead(**({"edges_hours": (1.0, 8.0), "tail_hours": 48.0} | changed))
