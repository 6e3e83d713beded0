"""Requests for virtual machines: who asks, for what size, in which batch, and how long it then runs.

Each tenant has a habit (build jobs, batch work, web servers, developers' desktops, databases) that
shapes its hours of the day, its sizes, its batches and its lifetimes. A request knows the history of
its tenant and of requests like it, as the control plane knew it then (:mod:`models.placement.history`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from models.placement.history import LOOK_BACK, history, history_columns
from pipelines.sources.simulated.fleet import DAY
from pipelines.sources.simulated.randomness import Floats, Ints, Randomness

HOUR = 3_600
LOOK_BACK_DAYS = LOOK_BACK // DAY
LONGEST_DAYS = 30  # then a machine is replaced, at the latest
DELETED = ("deleted",)

_CORES = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
_MACHINES_PER_TENANT = 4
_LEAST_TENANTS = 5
_BATCHES = 24  # at most, of a tenant in a day
_IN_BATCH = 16  # machines at most
_DAYS_KEPT = LONGEST_DAYS + LOOK_BACK_DAYS + 3  # reads of one day after the other make each day once

# Per habit: build jobs, batch work, web servers, desktops, databases.
_BATCHES_A_DAY = np.array([9.0, 5.0, 6.0, 5.0, 1.2])
_LARGEST_BATCH = np.array([12, 16, 6, 2, 3])
_MEDIAN_HOURS = np.array([0.35, 2.5, 30.0, 7.0, 240.0])
_SPREAD = np.array([0.5, 0.6, 0.9, 0.35, 0.7])  # of the logarithm of a batch's lifetime
_SPREAD_WITHIN = 0.35  # of the machines of one batch
_FROM_HOUR = np.array([7.0, 20.0, 6.0, 8.0, 9.0])
_FOR_HOURS = np.array([13.0, 9.0, 16.0, 4.0, 8.0])
_AT_WEEKENDS = np.array([0.3, 1.0, 0.8, 0.1, 0.3])  # times as many batches
_SMALLEST = np.array([0, 1, 0, 1, 2])  # places in _CORES
_SIZES = np.array([3, 3, 2, 2, 3])
_GIB_PER_CORE = np.array([2.0, 4.0, 2.0, 4.0, 8.0])


@dataclass(frozen=True)
class Arrivals:
    """Machines asked for, ordered by time. Arrays of shape (machines,); times are seconds since 1970."""

    tenant: Ints
    number: Ints  # within its tenant, for ever
    created: Ints
    lifetime: Ints  # seconds
    cores: Floats
    memory_gib: Floats
    batch_vms: Ints
    batch_cores: Floats

    def __len__(self) -> int:
        return len(self.tenant)

    def where(self, chosen: Ints) -> Arrivals:
        return Arrivals(*(getattr(self, field.name)[chosen] for field in fields(self)))


class VmRequests:
    """The requests of all tenants, day by day. The first tenants of a larger fleet are those of a smaller one."""

    def __init__(self, machines: int, randomness: Randomness) -> None:
        self._randomness = randomness
        self._tenant = np.arange(_LEAST_TENANTS + machines // _MACHINES_PER_TENANT)
        habits = len(_MEDIAN_HOURS)
        # The first tenants have one habit each, so that a small fleet has them all.
        self._habit = np.where(
            self._tenant < habits, self._tenant, randomness.choice(habits, "tenant/habit", self._tenant)
        )
        self._pace = randomness.between(0.6, 1.5, "tenant/pace", self._tenant)
        self._median_hours = _MEDIAN_HOURS[self._habit] * np.exp(
            0.6 * randomness.normal("tenant/lifetime", self._tenant)
        )
        self._days: dict[int, Arrivals] = {}

    def arrivals(self, day: int) -> Arrivals:
        """The machines asked for on a day (counted since 1970)."""
        if day not in self._days:
            if len(self._days) >= _DAYS_KEPT:
                del self._days[next(iter(self._days))]
            self._days[day] = self._made(day)
        return self._days[day]

    def described(self, day: int) -> tuple[Arrivals, dict[str, Floats]]:
        """The machines asked for on a day, with what was known of requests before theirs."""
        recent = _joined([self.arrivals(each) for each in range(day - LOOK_BACK_DAYS, day + 1)])
        today = np.flatnonzero(recent.created >= day * DAY)
        # Requests of one tenant for one size are alike.
        alike = recent.tenant * len(_CORES) + np.searchsorted(_CORES, recent.cores)
        known: dict[str, Floats] = {}
        for name, group in (("tenant", recent.tenant), ("alike", alike)):
            seen = history(group, recent.created, recent.lifetime.astype(np.float64))
            for column, values in history_columns(name, seen).items():
                known[column] = np.round(values[today], 4)
        return recent.where(today), known

    def deleted(self, day: int) -> tuple[Arrivals, Ints]:
        """The machines deleted on a day, ordered by when; and when."""
        running = _joined([self.arrivals(each) for each in range(day - LONGEST_DAYS, day + 1)])
        ended = running.created + running.lifetime
        ours = np.flatnonzero((ended >= day * DAY) & (ended < (day + 1) * DAY))
        ours = ours[np.lexsort((running.number[ours], running.tenant[ours], ended[ours]))]
        return running.where(ours), ended[ours]

    def _made(self, day: int) -> Arrivals:
        random, tenant, habit = self._randomness, self._tenant, self._habit
        weekend = (day + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        mean = _BATCHES_A_DAY[habit] * self._pace * (_AT_WEEKENDS[habit] if weekend else 1.0)
        batches = np.minimum(random.poisson(mean, "vm/batches", tenant, day), _BATCHES)
        who, which = np.nonzero(np.arange(_BATCHES)[None, :] < batches[:, None])
        habit = self._habit[who]
        hour = _FROM_HOUR[habit] + _FOR_HOURS[habit] * random.uniform("vm/when", who, day, which)
        size = _SMALLEST[habit] + (random.uniform("vm/size", who, day, which) ** 2 * _SIZES[habit]).astype(
            np.int64
        )
        count = 1 + (random.uniform("vm/count", who, day, which) ** 2 * _LARGEST_BATCH[habit]).astype(
            np.int64
        )
        scale = self._median_hours[who] * np.exp(_SPREAD[habit] * random.normal("vm/batch", who, day, which))

        batch, place = np.nonzero(np.arange(_IN_BATCH)[None, :] < count[:, None])
        who, which = who[batch], which[batch]
        spread = np.exp(_SPREAD_WITHIN * random.normal("vm/lifetime", who, day, which, place))
        lifetime = np.clip(scale[batch] * spread * HOUR, 60, (LONGEST_DAYS - 1) * DAY).astype(np.int64)
        cores = _CORES[size[batch]]
        # Hours after midnight fall on the same day again: what counts is the day that was asked about.
        created = day * DAY + ((hour[batch] % 24.0) * HOUR).astype(np.int64)
        made = Arrivals(
            tenant=who,
            number=(day * _BATCHES + which) * _IN_BATCH + place,
            created=created,
            lifetime=lifetime,
            cores=cores,
            memory_gib=cores * _GIB_PER_CORE[self._habit[who]],
            batch_vms=count[batch],
            batch_cores=count[batch] * cores,
        )
        return made.where(np.lexsort((made.number, made.tenant, made.created)))


def vm_names(arrivals: Arrivals) -> tuple[str, ...]:
    """Identifiers, by tenant and number; the same machine has the same one in every table."""
    return tuple(
        f"v{tenant:03d}-{number}" for tenant, number in zip(arrivals.tenant, arrivals.number, strict=True)
    )


def _joined(parts: list[Arrivals]) -> Arrivals:
    return Arrivals(
        *(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Arrivals))
    )
