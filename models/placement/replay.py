"""Replay of a stream of requests on a cluster: what a way of placing costs in hosts, and an audit.

Machines come, are placed by a policy among the hosts that no constraint forbids, and go. Time is in
hours. A machine that runs already when the replay begins is placed at its beginning, in the order of
creation, by the same policy. A request that no host may take is refused and counted.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from models.placement.choice import Candidates, Prices, broken, cheapest, host_cost
from models.placement.lifetimes import Lifetimes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Hours ahead at which hosts' chances to be empty are kept; finer where most machines go.
_AHEAD = np.array([0.15, 0.4, 0.75, 1.25, 2.0, 3.5, 6.0, 9.0, 13.0, 18.0, 26.0, 40.0, 70.0, 130.0])
_BORDERS = np.concatenate([[0.0], (_AHEAD[1:] + _AHEAD[:-1]) / 2, [180.0]])
_WIDTHS = np.diff(_BORDERS)
_AT_ONCE = 2_000  # machines whose distributions are evaluated together
_REPREDICT_HOURS = 0.25


@dataclass(frozen=True)
class Requests:
    """Machines in the order in which they are asked for; arrays of shape (n,).

    Attributes:
        created: Hours, rising.
        lifetime: Hours.
        zones, labels: Bits of the zones that will do (0: any), and of the labels that the host must have.
        group: Number of the group that (anti-)affinity speaks of; -1: none.
        group_limit: Anti-affinity: machines of the group that one host may run; NaN: any number.
        joins_group: Affinity: must share its host with one of its group, if one of it runs.
        room_cores, room_memory_gib: What the host of the group's first must have free, so that the
            others find room beside it.
    """

    created: Floats
    lifetime: Floats
    cores: Floats
    memory_gib: Floats
    zones: Ints
    labels: Ints
    group: Ints
    group_limit: Floats
    joins_group: Bools
    room_cores: Floats
    room_memory_gib: Floats

    @classmethod
    def unconstrained(cls, created: Floats, lifetime: Floats, cores: Floats, memory_gib: Floats) -> Requests:
        """Requests that want cores and memory and nothing else."""
        count = len(created)
        none = np.zeros(count, dtype=np.int64)
        return cls(
            created,
            lifetime,
            cores,
            memory_gib,
            zones=none,
            labels=none,
            group=none - 1,
            group_limit=np.full(count, np.nan),
            joins_group=none.astype(bool),
            room_cores=cores,
            room_memory_gib=memory_gib,
        )

    def __len__(self) -> int:
        return len(self.created)

    def rows(self, chosen: NDArray) -> Requests:
        return Requests(*(getattr(self, each.name)[chosen] for each in fields(self)))

    @property
    def deleted(self) -> Floats:
        return self.created + self.lifetime


@dataclass(frozen=True)
class Cluster:
    """Equal hosts in zones, with labels. ``zone`` and ``labels`` hold bits, shape (hosts,)."""

    cores: float
    memory_gib: float
    zone: Ints
    labels: Ints

    @classmethod
    def plain(cls, hosts: int, cores: float, memory_gib: float) -> Cluster:
        """Hosts of one zone without labels."""
        return cls(cores, memory_gib, np.ones(hosts, dtype=np.int64), np.zeros(hosts, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.zone)


class State:
    """What runs where, as the replay keeps it; arrays of shape (hosts,)."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.free_cores = np.full(len(cluster), cluster.cores)
        self.free_memory_gib = np.full(len(cluster), cluster.memory_gib)
        self.vms = np.zeros(len(cluster), dtype=np.int64)
        self.running: list[list[int]] = [[] for _ in range(len(cluster))]
        self._host_of: dict[int, int] = {}
        self.groups: dict[int, Floats] = {}

    def candidates(self, requests: Requests, index: int) -> Candidates:
        zones, labels = int(requests.zones[index]), int(requests.labels[index])
        group = self.groups.get(int(requests.group[index]))
        runs = group is not None and bool(group.any())
        needs = (requests.cores, requests.memory_gib)
        if requests.joins_group[index] and not runs:
            needs = (requests.room_cores, requests.room_memory_gib)
        return Candidates(
            cores=float(needs[0][index]),
            memory_gib=float(needs[1][index]),
            free_cores=self.free_cores,
            free_memory_gib=self.free_memory_gib,
            zone_allowed=(self.cluster.zone & zones) != 0 if zones else True,
            compliant=(self.cluster.labels & labels) == labels if labels else True,
            group_vms=0.0 if group is None else group,
            group_limit=float(requests.group_limit[index]),
            # The first of a group has nobody to join.
            joins_group=bool(requests.joins_group[index]) and runs,
        )

    def place(self, requests: Requests, index: int, host: int) -> None:
        self._change(requests, index, host, 1)
        self.running[host].append(index)
        self._host_of[index] = host

    def remove(self, requests: Requests, index: int) -> int:
        host = self._host_of.pop(index)
        self._change(requests, index, host, -1)
        self.running[host].remove(index)
        return host

    def _change(self, requests: Requests, index: int, host: int, sign: int) -> None:
        self.free_cores[host] -= sign * requests.cores[index]
        self.free_memory_gib[host] -= sign * requests.memory_gib[index]
        self.vms[host] += sign
        group = int(requests.group[index])
        if group >= 0:
            self.groups.setdefault(group, np.zeros(len(self.vms)))[host] += sign


class Policy:
    """A way to price hosts; the cheapest allowed one is taken. The base prices all alike: first fit."""

    name = "first fit"

    def begin(self, requests: Requests, state: State, now: float) -> None:
        """Called once, before the first request."""
        self.requests, self.state = requests, state

    def cost(self, index: int, now: float) -> Floats:
        """Price of each host for a request, shape (hosts,)."""
        return np.zeros(len(self.state.vms))

    def placed(self, index: int, host: int, now: float) -> None:
        """Called after a machine was placed."""

    def removed(self, host: int, now: float) -> None:
        """Called after a machine on the host was deleted."""


class RandomHost(Policy):
    """Any allowed host of the cluster, each as likely as the next."""

    name = "random"

    def __init__(self, seed: int, occupied_first: bool = False) -> None:
        self._generator = np.random.default_rng(seed)
        self._occupied_first = occupied_first
        if occupied_first:
            self.name = "random, occupied first"

    def cost(self, index: int, now: float) -> Floats:
        drawn: Floats = self._generator.random(len(self.state.vms))
        return drawn + (self.state.vms == 0) if self._occupied_first else drawn


class BestFit(Policy):
    """The occupied host that has least left afterwards, cores and memory as shares of a host."""

    name = "best fit"

    def cost(self, index: int, now: float) -> Floats:
        state, cluster = self.state, self.state.cluster
        left = state.free_cores / cluster.cores + state.free_memory_gib / cluster.memory_gib
        return np.asarray(left + 1e3 * (state.vms == 0))


class ByLifetime(Policy):
    """Least expected extension, from predicted distributions that are conditioned on age again and again.

    Args:
        lifetimes: Of each request, as predicted at its creation.
    """

    name = "by predicted lifetime"

    def __init__(self, lifetimes: Lifetimes, prices: Prices | None = None) -> None:
        self._lifetimes = lifetimes
        self._prices = prices or Prices()

    def begin(self, requests: Requests, state: State, now: float) -> None:
        super().begin(requests, state, now)
        # Chance that a host is empty so far ahead, if nothing more is placed on it; shape (hosts, ahead).
        self._empty_by = np.ones((len(state.vms), len(_AHEAD)))
        self._busy = np.zeros(len(state.vms))
        self._predicted_at = now
        self._changed: set[int] = set()
        self._from = self._to = 0

    def cost(self, index: int, now: float) -> Floats:
        if now >= self._predicted_at + _REPREDICT_HOURS:
            self._predicted_at = now
            self._repredict(range(len(self.state.vms)), now)
        elif self._changed:
            self._repredict(self._changed, now)
        self._changed.clear()
        survival, extension = self._of(index, now)
        self._survival = survival
        state, requests = self.state, self.requests
        return host_cost(
            np.interp(self._busy, _BORDERS, extension),
            state.free_cores - requests.cores[index],
            state.free_memory_gib - requests.memory_gib[index],
            state.vms == 0,
            self._prices,
        )

    def placed(self, index: int, host: int, now: float) -> None:
        self._empty_by[host] *= 1.0 - self._survival
        self._busy[host] = (1.0 - self._empty_by[host]) @ _WIDTHS

    def removed(self, host: int, now: float) -> None:
        # Between two requests many machines may go: their hosts are looked at together.
        self._changed.add(host)

    def _of(self, index: int, now: float) -> tuple[Floats, Floats]:
        """Survival ahead, and extension beyond each of the borders, of a machine that is to be placed."""
        if not self._from <= index < self._to:
            self._from, self._to = index, min(index + _AT_ONCE, len(self.requests))
            some = self._lifetimes.rows(np.arange(self._from, self._to))
            # Only machines of before the replay have an age when they are placed.
            age = np.maximum(now - self.requests.created[self._from : self._to], 0.0)
            self._ahead = some.survival(age, _AHEAD)
            self._beyond = some.extension(age, np.tile(_BORDERS, (len(some), 1)))
        return self._ahead[index - self._from], self._beyond[index - self._from]

    def _alive(self, members: Ints, now: float) -> Floats:
        age = np.maximum(now - self.requests.created[members], 0.0)
        return self._lifetimes.rows(members).survival(age, _AHEAD)

    def _repredict(self, hosts: Iterable[int], now: float) -> None:
        """Hosts anew, from what is still running there and how old it is."""
        chosen = np.array(sorted(hosts), dtype=np.int64)
        running = [self.state.running[host] for host in chosen]
        counts = np.array([len(members) for members in running])
        self._empty_by[chosen] = 1.0
        members = np.array([member for some in running for member in some], dtype=np.int64)
        if len(members):
            gone = np.log(np.maximum(1.0 - self._alive(members, now), 1e-30))
            occupied = counts > 0
            starts = (np.cumsum(counts) - counts)[occupied]
            self._empty_by[chosen[occupied]] = np.exp(np.add.reduceat(gone, starts, axis=0))
        self._busy[chosen] = (1.0 - self._empty_by[chosen]) @ _WIDTHS


class Clairvoyant(Policy):
    """Knows every lifetime: least extension, then the host whose end is nearest to the machine's own.

    Greedy, so not the optimum; the best feasible choice that this repository can name.
    """

    name = "true lifetimes"
    _PER_HOUR_SHORT = 0.3  # what an hour costs by which the machine ends before its host

    def begin(self, requests: Requests, state: State, now: float) -> None:
        super().begin(requests, state, now)
        self._end = np.full(len(state.vms), now)
        # Machines without an end outlive all others by a day.
        deleted = requests.deleted
        latest = np.max(deleted[np.isfinite(deleted)], initial=now) + 24.0
        self._deleted = np.minimum(deleted, latest)

    def cost(self, index: int, now: float) -> Floats:
        beyond = self._deleted[index] - np.maximum(self._end, now)
        state = self.state
        return host_cost(
            np.maximum(beyond, 0.0) + self._PER_HOUR_SHORT * np.maximum(-beyond, 0.0),
            state.free_cores - self.requests.cores[index],
            state.free_memory_gib - self.requests.memory_gib[index],
            np.zeros(len(state.vms), dtype=bool),
            Prices(),
        )

    def placed(self, index: int, host: int, now: float) -> None:
        self._end[host] = max(self._end[host], self._deleted[index])

    def removed(self, host: int, now: float) -> None:
        members = self.state.running[host]
        self._end[host] = max((self._deleted[member] for member in members), default=now)


@dataclass(frozen=True)
class Outcome:
    """What a replay cost. Shares and hours are over the time of the replay.

    Attributes:
        host: Host of each request, shape (n,); -1: refused.
        host_hours: Hours in which hosts ran a machine, summed over the hosts.
        core_hours: That machines asked for and got.
        stranded_core_hours: Free cores of hosts that ran a machine: they can be neither switched off
            nor given away as a whole host.
        peak_hosts: Largest number of hosts that ran a machine.
        empty_share: Mean share of the cluster's hosts that ran nothing.
        placed, refused: Requests.
        times, occupied: Hosts that ran a machine, about four times an hour.
    """

    host: Ints
    host_hours: float
    core_hours: float
    stranded_core_hours: float
    peak_hosts: int
    empty_share: float
    placed: int
    refused: int
    times: Floats = field(repr=False)
    occupied: Ints = field(repr=False)


def replay(requests: Requests, cluster: Cluster, policy: Policy, start: float, end: float) -> Outcome:
    """Place all machines that run within ``[start, end)``."""
    state = State(cluster)
    deleted = requests.deleted
    asked = np.flatnonzero((requests.created < end) & (deleted > start))
    policy.begin(requests, state, start)
    host = np.full(len(requests), -1, dtype=np.int64)
    leaving: list[tuple[float, int]] = []
    meter = _Meter(start)
    for index in asked.tolist():
        now = max(float(requests.created[index]), start)
        while leaving and leaving[0][0] <= now:
            moment, gone = heapq.heappop(leaving)
            meter.until(moment)
            left = state.remove(requests, gone)
            meter.change(-float(requests.cores[gone]), -int(state.vms[left] == 0))
            policy.removed(left, moment)
        meter.until(now)
        cost = policy.cost(index, now)
        chosen = cheapest(broken(state.candidates(requests, index)), cost)
        host[index] = chosen
        if chosen < 0:
            continue
        state.place(requests, index, chosen)
        meter.change(float(requests.cores[index]), int(state.vms[chosen] == 1))
        policy.placed(index, chosen, now)
        heapq.heappush(leaving, (float(deleted[index]), index))
    while leaving and leaving[0][0] < end:
        moment, gone = heapq.heappop(leaving)
        meter.until(moment)
        left = state.remove(requests, gone)
        meter.change(-float(requests.cores[gone]), -int(state.vms[left] == 0))
    meter.until(end)
    placed = int(np.sum(host[asked] >= 0))
    return Outcome(
        host=host,
        host_hours=meter.host_hours,
        core_hours=meter.core_hours,
        stranded_core_hours=meter.host_hours * cluster.cores - meter.core_hours,
        peak_hosts=meter.peak,
        empty_share=1.0 - meter.host_hours / (len(cluster) * (end - start)),
        placed=placed,
        refused=len(asked) - placed,
        times=np.array(meter.times),
        occupied=np.array(meter.counts, dtype=np.int64),
    )


class _Meter:
    """Adds up hosts and cores in use over time."""

    def __init__(self, start: float) -> None:
        self._now = start
        self._hosts, self._cores = 0, 0.0
        self.host_hours = self.core_hours = 0.0
        self.peak = 0
        self.times: list[float] = []
        self.counts: list[int] = []

    def until(self, moment: float) -> None:
        self.host_hours += self._hosts * (moment - self._now)
        self.core_hours += self._cores * (moment - self._now)
        self._now = moment
        if not self.times or moment >= self.times[-1] + 0.25:
            self.times.append(moment)
            self.counts.append(self._hosts)

    def change(self, cores: float, hosts: int) -> None:
        self._cores += cores
        self._hosts += hosts
        self.peak = max(self.peak, self._hosts)


def least_host_hours(requests: Requests, cluster: Cluster, start: float, end: float) -> float:
    """Host-hours that no way of placing can do without: the larger of cores and memory, at every moment.

    Machines could be cut up and moved at will; so it is a bound and not a plan.
    """
    begin, until = np.maximum(requests.created, start), np.minimum(requests.deleted, end)
    runs = until > begin
    moments = np.concatenate([begin[runs], until[runs]])
    order = np.argsort(moments, kind="stable")

    def hosts(amount: Floats, capacity: float) -> Floats:
        return np.asarray(np.cumsum(np.concatenate([amount[runs], -amount[runs]])[order]) / capacity)

    needed = np.maximum(hosts(requests.cores, cluster.cores), hosts(requests.memory_gib, cluster.memory_gib))
    # A rounding above a whole number is not another host.
    return float(np.sum(np.ceil(needed[:-1] - 1e-6) * np.diff(moments[order])))


def violations(requests: Requests, cluster: Cluster, host: Ints, start: float) -> dict[str, int]:
    """Placements that broke a constraint, counted anew from the log alone: who was where, when.

    Args:
        host: Of :class:`Outcome`.

    Returns:
        By constraint; all zero for a valid replay.
    """
    rows = np.flatnonzero(host >= 0)
    where, zone, labels = host[rows], requests.zones[rows], requests.labels[rows]
    return {
        "cores": _overbooked(requests, host, requests.cores, cluster.cores, start),
        "memory": _overbooked(requests, host, requests.memory_gib, cluster.memory_gib, start),
        "zone": int(np.sum((zone != 0) & (cluster.zone[where] & zone == 0))),
        "compliance": int(np.sum(cluster.labels[where] & labels != labels)),
        **_group_violations(requests, host, start),
    }


def _overbooked(requests: Requests, host: Ints, amount: Floats, capacity: float, start: float) -> int:
    """Placements after which a host holds more than it can."""
    rows = np.flatnonzero(host >= 0)
    if not len(rows):
        return 0
    arrival = np.maximum(requests.created[rows], start)
    moments = np.concatenate([arrival, requests.deleted[rows]])
    sign = np.repeat([1, -1], len(rows))
    place = np.tile(host[rows], 2)
    # At one moment machines leave before others come; those that come keep their order.
    order = np.lexsort((np.tile(rows, 2), sign, moments, place))
    held = np.cumsum((np.tile(amount[rows], 2) * sign)[order])
    first = np.flatnonzero(np.diff(place[order], prepend=-1))
    before = np.repeat(np.concatenate([[0.0], held[first[1:] - 1]]), np.diff(np.append(first, len(order))))
    return int(np.sum((held - before > capacity + 1e-6) & (sign[order] > 0)))


def _group_violations(requests: Requests, host: Ints, start: float) -> dict[str, int]:
    apart = together = 0
    grouped = np.flatnonzero((host >= 0) & (requests.group >= 0))
    order = grouped[np.lexsort((grouped, requests.group[grouped]))]
    for members in np.split(order, np.flatnonzero(np.diff(requests.group[order])) + 1):
        arrival = np.maximum(requests.created[members], start)
        for position, member in enumerate(members):
            earlier = members[:position]
            there = earlier[requests.deleted[earlier] > arrival[position]]
            beside = int(np.sum(host[there] == host[member]))
            limit = requests.group_limit[member]
            apart += bool(beside + 1 > limit)
            together += bool(requests.joins_group[member] and len(there) and not beside)
    return {"anti-affinity": apart, "affinity": together}
