"""Where a virtual machine goes: which candidate hosts are allowed, and which of them costs least.

First the constraints, which nothing outweighs: a host that breaks one is never chosen, and what is
not known about a host counts as broken. Then the cost of each allowed host, in hours:

- the *extension*: by how long the machine is expected to keep the host busy beyond what runs there
  (as the temporal cost of NILAS in Ling et al., MLSys 2025; here the expectation over the whole
  predicted distribution instead of a bucketed difference of two point predictions);
- what the host has left afterwards, at a small price: of hosts that are alike in time, best fit;
- an empty host costs ``opening_hours`` more, so that one is opened only where no other is allowed
  (the any-fit property of dynamic bin packing; Coffman, Garey and Johnson, 1983).

Pure NumPy. The server's answers, the benchmark's replay and the gate's replay all choose here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from feature_repo.datasets import Frozen

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Bits = NDArray[np.uint8]


class Constraint(IntEnum):
    """What can forbid a host; the value is its bit."""

    CORES = 1
    MEMORY = 2
    ZONE = 4
    COMPLIANCE = 8
    ANTI_AFFINITY = 16
    AFFINITY = 32


class Prices(Frozen):
    """What the cost of a host is made of, besides the extension itself, all in hours."""

    hours_per_core_left: float = 0.05
    hours_per_gib_left: float = 0.002
    opening_hours: float = 10_000.0


@dataclass(frozen=True)
class Candidates:
    """One row per candidate host of a request; arrays broadcast to shape (n,). NaN: not known.

    Attributes:
        cores, memory_gib: What the machine needs.
        free_cores, free_memory_gib: What the host has left.
        zone_allowed, compliant: Whether the host is in a wanted zone, and has every wanted label.
        group_vms: Machines of the request's group that run on the host already.
        group_limit: Anti-affinity: how many of the group a host may run, this one included; NaN: any number.
        joins_group: Affinity: whether the machine must share its host with one of its group.
    """

    cores: Floats | float
    memory_gib: Floats | float
    free_cores: Floats
    free_memory_gib: Floats
    zone_allowed: Bools | bool
    compliant: Bools | bool
    group_vms: Floats | float
    group_limit: Floats | float
    joins_group: Bools | bool


def broken(candidates: Candidates) -> Bits:
    """Bits of the constraints that each host breaks, shape (n,); 0: it is allowed."""
    # Written so that a NaN on either side breaks the constraint.
    bits = _bit(candidates.free_cores >= candidates.cores, Constraint.CORES)
    bits = bits | _bit(candidates.free_memory_gib >= candidates.memory_gib, Constraint.MEMORY)
    bits = bits | _bit(candidates.zone_allowed, Constraint.ZONE)
    bits = bits | _bit(candidates.compliant, Constraint.COMPLIANCE)
    apart = np.isnan(candidates.group_limit) | (np.add(candidates.group_vms, 1.0) <= candidates.group_limit)
    bits = bits | _bit(apart, Constraint.ANTI_AFFINITY)
    together = np.logical_not(candidates.joins_group) | np.greater_equal(candidates.group_vms, 1.0)
    return np.asarray(bits | _bit(together, Constraint.AFFINITY))


def _bit(kept: Bools | bool, constraint: Constraint) -> Bits:
    return np.asarray(np.logical_not(kept).astype(np.uint8) * np.uint8(constraint))


def host_cost(
    extension_hours: Floats, cores_left: Floats, memory_left_gib: Floats, empty: Bools, prices: Prices
) -> Floats:
    """Cost of each host in hours, shape (n,), from what is left once the machine is there."""
    left = cores_left * prices.hours_per_core_left + memory_left_gib * prices.hours_per_gib_left
    return np.asarray(extension_hours + left + empty * prices.opening_hours)


def cheapest(bits: Bits, cost: Floats) -> int:
    """The first allowed host of least cost; -1 where none is allowed."""
    priced = np.where(bits == 0, cost, np.inf)
    place = int(np.argmin(priced))
    return place if bits[place] == 0 else -1


def choose(request: NDArray, bits: Bits, cost: Floats, name: NDArray) -> Bools:
    """Mark the chosen host of each request, shape (n,): exactly one where any is allowed.

    Of allowed hosts of equal cost the one whose name comes first is taken, so the order of the
    rows does not matter.

    Args:
        request: Which rows compete, shape (n,); whole numbers or strings.
        bits: From :func:`broken`.
        cost: From :func:`host_cost`; not NaN.
        name: Of the hosts, strings; hosts without one are taken last, in the order of the rows.
    """
    names = np.array([f"0{text}" if text is not None else "1" for text in name], dtype=np.str_)
    order = np.lexsort((names, cost, bits != 0, request))
    first = np.ones(len(order), dtype=bool)
    first[1:] = request[order][1:] != request[order][:-1]
    chosen = np.zeros(len(order), dtype=bool)
    best = order[first]
    chosen[best[bits[best] == 0]] = True
    return chosen


def labels_within(wanted: NDArray, offered: NDArray) -> Bools:
    """Whether each row's wanted labels are all offered; texts of labels parted by commas, None: none.

    Labels are compared without regard to case and to spaces around them.
    """
    known: dict[tuple[object, object], bool] = {}
    result = np.empty(len(wanted), dtype=bool)
    for place, pair in enumerate(zip(wanted, offered, strict=True)):
        if pair not in known:
            known[pair] = _labels(pair[0]) <= _labels(pair[1])
        result[place] = known[pair]
    return result


def zone_within(wanted: NDArray, zone: NDArray) -> Bools:
    """Whether each row's zone is among those wanted; None: any zone will do. An unknown zone is in none."""
    known: dict[tuple[object, object], bool] = {}
    result = np.empty(len(wanted), dtype=bool)
    for place, pair in enumerate(zip(wanted, zone, strict=True)):
        if pair not in known:
            allowed, found = _labels(pair[0]), _labels(pair[1])
            known[pair] = not allowed or bool(found and found <= allowed)
        result[place] = known[pair]
    return result


def _labels(text: object) -> frozenset[str]:
    if not isinstance(text, str):
        return frozenset()
    return frozenset(label.strip().casefold() for label in text.split(",") if label.strip())
