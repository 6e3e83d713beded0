"""Clusters and constraints for replays, where the data at hand has none: drawn, seeded, and stated.

Public request streams say sizes and times, but neither zones nor labels nor groups. What is drawn
here gives each constraint something to forbid; it is no claim about any real cluster.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.placement.replay import Cluster, Requests

Ints = NDArray[np.int64]

ZONES = 3
LABELS = 2
LABEL_SHARES = (0.35, 0.25)  # of the hosts
LABEL_WANTED = (0.08, 0.04)  # of the batches
ZONE_WANTED = 0.3
APART_SHARE, APART_LARGEST, APART_LIMIT = 0.15, 20, 2
TOGETHER_SHARE, TOGETHER_LARGEST, TOGETHER_CORES, TOGETHER_GIB = 0.05, 4, 16.0, 64.0


def cluster_for(
    requests: Requests,
    start: float,
    end: float,
    cores: float,
    memory_gib: float,
    utilisation: float,
    seed: int,
) -> Cluster:
    """Equal hosts, as many as the peak demand fills to the given share, dealt over zones and labels.

    The demand is the larger one of cores and memory, in hosts, of what runs within ``[start, end)``.
    """
    hosts = int(np.ceil(peak_demand(requests, start, end, cores, memory_gib) / utilisation))
    generator = np.random.default_rng(seed)
    zone = 1 << (generator.permutation(hosts) % ZONES)
    labels = np.zeros(hosts, dtype=np.int64)
    for bit, share in enumerate(LABEL_SHARES):
        labels |= (generator.random(hosts) < share).astype(np.int64) << bit
    return Cluster(cores, memory_gib, zone.astype(np.int64), labels)


def peak_demand(requests: Requests, start: float, end: float, cores: float, memory_gib: float) -> float:
    """Largest demand at any moment of ``[start, end)``, in hosts of this size."""
    begin, until = np.maximum(requests.created, start), np.minimum(requests.deleted, end)
    runs = until > begin
    moments = np.concatenate([begin[runs], until[runs]])
    sign = np.repeat([1.0, -1.0], int(runs.sum()))
    order = np.lexsort((sign, moments))
    return max(
        float(np.cumsum((sign * np.tile(amount[runs], 2))[order]).max(initial=0.0)) / capacity
        for amount, capacity in ((requests.cores, cores), (requests.memory_gib, memory_gib))
    )


def with_constraints(requests: Requests, batch: Ints, seed: int) -> Requests:
    """The requests with constraints drawn per batch.

    Of the batches 30 % want one zone of three; 8 % and 4 % want the one or the other label; 15 % of
    those of 2 to 20 machines must be spread, at most two on a host; 5 % of those of 2 to 4
    machines, together at most 16 cores and 64 GiB, must share a host with one of their batch as long
    as one runs, and the first of them goes where all find room.

    Args:
        batch: Number of each request's batch, shape (n,).
    """
    generator = np.random.default_rng(seed)
    _, number, size = np.unique(batch, return_inverse=True, return_counts=True)
    batches = len(size)
    wanted_zone = 1 << generator.integers(0, ZONES, batches)
    zones = np.where(generator.random(batches) < ZONE_WANTED, wanted_zone, 0)
    labels = np.zeros(batches, dtype=np.int64)
    for bit, share in enumerate(LABEL_WANTED):
        labels |= (generator.random(batches) < share).astype(np.int64) << bit
    drawn = generator.random(batches)
    apart = (size >= 2) & (size <= APART_LARGEST) & (drawn < APART_SHARE)
    cores, memory = (
        np.bincount(number, weights=amount, minlength=batches)
        for amount in (requests.cores, requests.memory_gib)
    )
    small = (size >= 2) & (size <= TOGETHER_LARGEST) & (cores <= TOGETHER_CORES) & (memory <= TOGETHER_GIB)
    together = small & (drawn >= 1 - TOGETHER_SHARE)
    return replace(
        requests,
        zones=zones[number].astype(np.int64),
        labels=labels[number],
        group=np.where((apart | together)[number], number, -1).astype(np.int64),
        group_limit=np.where(apart[number], float(APART_LIMIT), np.nan),
        joins_group=together[number],
        room_cores=np.where(together[number], cores[number], requests.cores),
        room_memory_gib=np.where(together[number], memory[number], requests.memory_gib),
    )
