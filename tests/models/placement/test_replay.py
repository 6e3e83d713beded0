"""Replays never break a constraint, the audit finds it when one does, and hours add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.placement.lifetimes import Lifetimes
from models.placement.replay import (
    BestFit,
    ByLifetime,
    Clairvoyant,
    Cluster,
    Policy,
    RandomHost,
    Requests,
    least_host_hours,
    replay,
    violations,
)
from models.placement.scenario import cluster_for, with_constraints

EDGES = (1.0, 6.0, 24.0)


def stream(count: int, seed: int) -> Requests:
    generator = np.random.default_rng(seed)
    batch = np.sort(generator.integers(0, max(count // 3, 1), count))
    created = np.sort(generator.uniform(0, 48, count // 3 + 1))[batch]
    cores = generator.choice([1.0, 2.0, 4.0, 8.0], count)
    lifetime = generator.lognormal(1.0, 1.5, count)
    lifetime[generator.random(count) < 0.05] = np.inf
    plain = Requests.unconstrained(created, lifetime, cores, cores * generator.choice([2.0, 8.0], count))
    return with_constraints(plain, batch, seed)


def predicted(requests: Requests) -> Lifetimes:
    """Right half of the time."""
    place = np.searchsorted(EDGES, requests.lifetime)
    probability = np.full((len(requests), len(EDGES) + 1), 0.5 / (len(EDGES) + 1))
    probability[np.arange(len(requests)), place] += 0.5
    return Lifetimes.of_classes(probability, EDGES, 24.0)


def policies(requests: Requests) -> list[Policy]:
    return [
        RandomHost(1),
        RandomHost(1, occupied_first=True),
        Policy(),
        BestFit(),
        ByLifetime(predicted(requests)),
        Clairvoyant(),
    ]


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(3, 120), seed=st.integers(0, 10_000), hosts=st.integers(1, 20), start=st.floats(0, 30)
)
def test_no_policy_ever_breaks_a_constraint(count: int, seed: int, hosts: int, start: float) -> None:
    requests = stream(count, seed)
    generator = np.random.default_rng(seed)
    cluster = Cluster(16.0, 64.0, 1 << generator.integers(0, 3, hosts), generator.integers(0, 4, hosts))
    for policy in policies(requests):
        outcome = replay(requests, cluster, policy, start, 48.0)
        assert not any(violations(requests, cluster, outcome.host, start).values()), policy.name
        asked = (requests.created < 48.0) & (requests.deleted > start)
        assert outcome.placed + outcome.refused == asked.sum()
        assert (outcome.host[~asked] == -1).all()
        assert outcome.peak_hosts <= hosts
        assert outcome.stranded_core_hours >= -1e-6


def test_the_audit_finds_what_a_broken_log_holds() -> None:
    cluster = Cluster(4.0, 8.0, np.array([1, 2]), np.array([0, 1]))
    none = np.zeros(3, dtype=np.int64)
    requests = Requests(
        created=np.array([0.0, 1.0, 2.0]),
        lifetime=np.array([1.5, 9.0, 9.0]),
        cores=np.array([3.0, 3.0, 1.0]),
        memory_gib=np.array([1.0, 6.0, 6.0]),
        zones=np.array([0, 0, 2]),
        labels=np.array([1, 0, 0]),
        group=none,
        group_limit=np.array([np.nan, 1.0, np.nan]),
        joins_group=np.array([False, False, True]),
        room_cores=np.ones(3),
        room_memory_gib=np.ones(3),
    )
    assert violations(requests, cluster, np.array([0, 0, 0]), 0.0) == {
        # The second came while the first ran; the third after the first had gone.
        "cores": 1,
        "memory": 1,
        "zone": 1,
        "compliance": 1,
        "anti-affinity": 1,
        "affinity": 0,
    }
    assert violations(requests, cluster, np.array([1, 0, 1]), 0.0)["affinity"] == 1


def test_hours_add_up() -> None:
    """Two machines share a host for an hour, and one goes on alone for two."""
    requests = Requests.unconstrained(
        np.array([1.0, 2.0]), np.array([2.0, 3.0]), np.array([2.0, 2.0]), np.array([1.0, 1.0])
    )
    outcome = replay(requests, Cluster.plain(3, 4.0, 4.0), BestFit(), 0.0, 10.0)
    assert outcome.host.tolist() == [0, 0]
    assert outcome.host_hours == pytest.approx(4.0)
    assert outcome.core_hours == pytest.approx(10.0)
    assert outcome.stranded_core_hours == pytest.approx(6.0)
    assert outcome.peak_hosts == 1
    assert outcome.empty_share == pytest.approx(1 - 4 / 30)
    assert least_host_hours(requests, Cluster.plain(3, 4.0, 4.0), 0.0, 10.0) == pytest.approx(4.0)


def test_long_lived_machines_share_a_host_where_lifetimes_are_known() -> None:
    """A short one fills the fuller host by best fit, and keeps it busy; by lifetime it joins the one that stays."""
    created = np.array([0.0, 0.0, 1.0])
    lifetime = np.array([2.0, 90.0, 80.0])
    requests = Requests.unconstrained(created, lifetime, np.array([3.0, 2.0, 1.0]), np.ones(3))
    cluster = Cluster.plain(2, 4.0, 16.0)
    fit = replay(requests, cluster, BestFit(), 0.0, 100.0)
    ours = replay(requests, cluster, ByLifetime(predicted(requests)), 0.0, 100.0)
    assert fit.host[2] == fit.host[0]
    assert ours.host[2] == ours.host[1]
    assert ours.host_hours < fit.host_hours


def test_a_cluster_is_as_full_at_its_peak_as_was_asked() -> None:
    requests = stream(300, 3)
    cluster = cluster_for(requests, 0.0, 48.0, 16.0, 64.0, 0.5, seed=1)
    assert len(cluster) == pytest.approx(2 * least_peak(requests), abs=2)
    assert set(cluster.zone.tolist()) == {1, 2, 4}


def least_peak(requests: Requests) -> float:
    moments = requests.created
    runs = (requests.created[None, :] <= moments[:, None]) & (requests.deleted[None, :] > moments[:, None])
    return float(max((runs @ requests.cores).max() / 16.0, (runs @ requests.memory_gib).max() / 64.0))
