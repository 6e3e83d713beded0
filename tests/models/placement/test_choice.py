"""The choice among hosts: no constraint is ever outweighed, and the order of rows never matters."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.placement.choice import (
    Candidates,
    Constraint,
    Prices,
    broken,
    cheapest,
    choose,
    host_cost,
    labels_within,
    zone_within,
)


def candidates(**changed: object) -> Candidates:
    """One host that is allowed, but for what is changed."""
    fields: dict[str, object] = {
        "cores": 4.0,
        "memory_gib": 8.0,
        "free_cores": np.array([4.0]),
        "free_memory_gib": np.array([8.0]),
        "zone_allowed": True,
        "compliant": True,
        "group_vms": 0.0,
        "group_limit": np.nan,
        "joins_group": False,
    }
    return Candidates(**(fields | changed))  # type: ignore[arg-type]


def test_a_host_that_fits_to_the_last_core_is_allowed() -> None:
    assert broken(candidates()).tolist() == [0]


def test_each_constraint_has_its_bit() -> None:
    for changed, constraint in (
        ({"free_cores": np.array([3.999])}, Constraint.CORES),
        ({"free_memory_gib": np.array([0.0])}, Constraint.MEMORY),
        ({"zone_allowed": False}, Constraint.ZONE),
        ({"compliant": False}, Constraint.COMPLIANCE),
        ({"group_vms": 2.0, "group_limit": 2.0}, Constraint.ANTI_AFFINITY),
        ({"joins_group": True}, Constraint.AFFINITY),
    ):
        assert broken(candidates(**changed)).tolist() == [int(constraint)], changed


def test_what_is_not_known_is_not_allowed() -> None:
    nothing = np.array([np.nan])
    assert broken(candidates(free_cores=nothing)) == Constraint.CORES
    assert broken(candidates(cores=np.nan)) == Constraint.CORES
    assert broken(candidates(free_memory_gib=nothing)) == Constraint.MEMORY
    assert broken(candidates(group_vms=nothing, group_limit=3.0)) == Constraint.ANTI_AFFINITY
    assert broken(candidates(group_vms=nothing, joins_group=True)) == Constraint.AFFINITY
    # Who has no rule for its group needs no count of it.
    assert broken(candidates(group_vms=nothing)) == 0


def test_an_empty_host_is_opened_only_where_no_other_is_allowed() -> None:
    cost = host_cost(
        np.array([300.0, 0.1]), np.array([0.0, 8.0]), np.array([0.0, 8.0]), np.array([False, True]), Prices()
    )
    assert cheapest(np.array([0, 0]), cost) == 0
    assert cheapest(np.array([1, 0]), cost) == 1
    assert cheapest(np.array([1, 1]), cost) == -1


rows = st.lists(
    st.tuples(
        st.integers(0, 4),  # request
        st.integers(0, 3),  # broken constraints
        st.sampled_from([0.0, 1.0, 1.5, 7.0]),  # cost: ties are common
        st.sampled_from(["h1", "h2", "h3", None]),
    ),
    min_size=1,
    max_size=30,
)


@given(rows=rows)
def test_exactly_one_allowed_host_is_chosen_where_there_is_any(
    rows: list[tuple[int, int, float, str | None]],
) -> None:
    request, bits, cost = (np.array([row[place] for row in rows]) for place in range(3))
    chosen = choose(request, bits, cost, np.array([row[3] for row in rows], dtype=object))
    assert not (chosen & (bits != 0)).any()
    for number in set(request.tolist()):
        of_request = request == number
        allowed = of_request & (bits == 0)
        assert chosen[of_request].sum() == int(allowed.any())
        if allowed.any():
            assert cost[chosen & of_request] == cost[allowed].min()


@given(rows=rows, data=st.data())
def test_the_order_of_rows_does_not_matter(
    rows: list[tuple[int, int, float, str | None]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(rows))))

    def picked(ordered: list[tuple[int, int, float, str | None]]) -> set[tuple[int, int, float, str | None]]:
        request, bits, cost = (np.array([row[place] for row in ordered]) for place in range(3))
        chosen = choose(request, bits, cost, np.array([row[3] for row in ordered], dtype=object))
        return {row for row, marked in zip(ordered, chosen, strict=True) if marked}

    assert picked(rows) == picked([rows[place] for place in order])


def test_labels_and_zones_are_compared_as_sets() -> None:
    wanted = np.array(["pci, HIPAA", "pci", None, "", "eu"], dtype=object)
    offered = np.array(["hipaa,pci,eu", "eu", None, "pci", None], dtype=object)
    assert labels_within(wanted, offered).tolist() == [True, False, True, True, False]
    zones = np.array(["a,b", "a", None, "c", "c"], dtype=object)
    assert zone_within(zones, np.array(["B", "b", None, None, "c"], dtype=object)).tolist() == [
        True, False, True, False, True,
    ]  # fmt: skip
