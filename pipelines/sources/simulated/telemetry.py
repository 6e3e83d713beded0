"""What the machines measure, day by day: load and its consequences, decay, and the sensors' faults.

A day's values are a function of the day alone: nothing is carried over from the day before, so
any window can be made by itself. Autocorrelated noise is an AR(1) process that starts from its
stationary distribution 8 hours before the day; slow trends are smooth functions of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from pipelines.sources.simulated.fleet import DAY, SERVICES, ZONES, Fleet
from pipelines.sources.simulated.incidents import (
    HOUR,
    Calendar,
    Cause,
    Course,
    Incidents,
    Maintenance,
    Schedule,
)
from pipelines.sources.simulated.randomness import Bools, Floats, Ints, Randomness
from pipelines.sources.simulated.regimes import (
    LoadScale,
    Metric,
    MetricShift,
    MissingColumn,
    Noise,
    Regime,
    StuckSensor,
    UnitChange,
)

STEP = 300
SAMPLES = DAY // STEP
METRICS: tuple[str, ...] = get_args(Metric)
COUNTERS = ("corrected_memory_errors", "reallocated_sectors")
_WORN_PART = {"corrected_memory_errors": Cause.MEMORY, "reallocated_sectors": Cause.DISK}
_PERCENT = ("cpu_percent", "memory_percent", "disk_percent", "error_percent")

# Share of yesterday's value that noise keeps in 5 minutes.
_PERSISTENCE = {
    "requests": 0.90,
    "cpu": 0.70,
    "memory": 0.93,
    "disk_latency": 0.85,
    "network_in": 0.60,
    "network_out": 0.60,
    "latency": 0.80,
    "tail": 0.50,
    "errors": 0.85,
    "temperature": 0.93,
}
_WARM_UP = 96  # samples; 0.93 ** 96 leaves a thousandth

_AMPLITUDE = np.array([0.55, 0.40, 0.60, 0.35])  # of the daily cycle, per service
_PEAK_HOUR = np.array([14.0, 15.5, 2.0, 14.5])
_WEEKEND = np.array([0.65, 0.78, 1.0, 0.72])


@dataclass(frozen=True)
class Measured:
    """One day of one fleet. Arrays have shape (machines, 288), row m being machine m.

    ``truth`` is what happened, ``shown`` is what the sensors tell of it, rounded. Times are seconds
    since 1970, of the end of each 5 minutes, the first being the day's midnight.
    """

    times: Ints
    truth: dict[str, Floats]
    shown: dict[str, Floats]  # NaN: missing
    silent: Bools  # the machine is down, or not there yet


class Telemetry:
    """Measures a fleet."""

    def __init__(
        self, fleet: Fleet, schedule: Schedule, randomness: Randomness, regimes: tuple[Regime, ...]
    ) -> None:
        self._fleet = fleet
        self.schedule = schedule
        self._randomness = randomness
        self._regimes = regimes
        self._stuck: dict[int, Floats] = {}

    def day(self, day: int) -> Measured:
        """All samples with an event time on a day (counted since 1970)."""
        times = day * DAY + STEP * np.arange(SAMPLES)
        calendar = self.schedule.around(day)
        truth = self._truth(times, calendar)
        return Measured(
            times, truth, self._shown(truth, times, len(self._regimes)), self._silent(times, calendar)
        )

    def silent_at(self, machine: Ints, times: Ints, day: int) -> Bools:
        """Whether these machines are down at these times of a day; both of shape (n,)."""
        calendar = self.schedule.around(day)
        down = np.zeros(len(machine), dtype=bool)
        for who, start, end in _outages(calendar, day * DAY, (day + 1) * DAY):
            down |= (machine == who) & (times >= start) & (times < end)
        return down | _absent(self._fleet, times)

    def _silent(self, times: Ints, calendar: Calendar) -> Bools:
        silent = np.zeros((len(self._fleet), len(times)), dtype=bool)
        for who, start, end in _outages(calendar, int(times[0]), int(times[-1]) + STEP):
            silent[who] |= (times >= start) & (times < end)
        return silent | _absent(self._fleet, times)[None, :]

    def _truth(self, times: Ints, calendar: Calendar) -> dict[str, Floats]:
        fleet = self._fleet
        noise = self._noise(times)
        active = calendar.incidents.where(
            (calendar.incidents.start <= times[-1]) & (calendar.incidents.end > times[0])
        )
        decay = _signs(active, len(fleet), times, [Course.FAILS, Course.HEALS])
        trouble = _signs(active, len(fleet), times, [Course.HARMLESS])
        hidden = self.schedule.hidden_share(times)
        throttled = np.minimum(hidden * decay.sum(axis=0), 1.5)
        disk, memory, thermal, network = decay * (1.0 - hidden)
        of_disk, of_memory, of_thermal, of_network = trouble

        days = times / DAY
        hour = times % DAY / HOUR
        slow = self._randomness.smooth("load/machine", days, 2.0, fleet.number[:, None])
        load = self._load(times)[fleet.service] * np.exp(0.08 * slow + 0.06 * noise["requests"])
        load = (
            load * (1.0 - 0.15 * np.minimum(network, 3.0)) * _drain(calendar.maintenance, len(fleet), times)
        )
        load = self._scaled(load * (1.0 - 0.30 * throttled), times)
        spike = self._spikes(times)

        demand = fleet.cpu_idle[:, None] + fleet.cpu_per_load[:, None] * load * (
            1.0 + 0.20 * thermal + 0.05 * memory
        )
        busy = 1.0 - np.exp(-demand)
        cpu = 100.0 * busy + 1.5 * noise["cpu"] + 12.0 * spike
        crowded = busy**2 / (1.03 - busy)

        # Backups read the disks between two and three at night.
        backup = ((hour >= 2.0) & (hour < 3.0)).astype(np.float64)
        disk_factor = (1.0 + 0.35 * load + 0.6 * backup) * np.exp(0.16 * noise["disk_latency"])
        disk_factor = disk_factor * (1.0 + 2.0 * disk + 1.8 * of_disk) * (1.0 + 2.0 * spike)
        through_disk = np.array([0.02, 0.04, 0.08, 0.15])[fleet.service][:, None] * (disk_factor - 1.0)

        p50 = fleet.latency[:, None] * (1.0 + 0.6 * crowded + through_disk) * np.exp(0.06 * noise["latency"])
        p50 = p50 * (1.0 + 0.25 * thermal + 0.20 * memory + 0.30 * network + 1.0 * throttled)
        tail = 2.2 * np.exp(0.10 * noise["tail"]) * (1.0 + 1.5 * spike)
        tail = tail * (1.0 + 0.50 * network + 0.35 * of_network + 0.30 * disk + 0.25 * memory)

        rate = fleet.requests[:, None] * load
        errors = (
            fleet.errors[:, None] * np.exp(0.35 * noise["errors"]) * (1.0 + 6.0 * np.maximum(busy - 0.7, 0.0))
        )
        errors = errors + 0.55 * network + 0.30 * disk + 0.25 * memory + 0.25 * thermal + 0.30 * of_network

        awake = self._days_awake(times, calendar)
        used = fleet.memory[:, None] + 6.0 * load + 4.0 * (1.0 - np.exp(-awake / 4.0)) + 1.3 * noise["memory"]
        used = used + 14.0 * memory + 12.0 * of_memory

        filled = (days[None, :] + fleet.number[:, None] * 0.37) % fleet.disk_cleaned_every[:, None]
        heat = self._inlet(times)[fleet.zone] + fleet.heat[:, None] * busy + 0.7 * noise["temperature"]
        heat = heat + 10.0 * thermal + 6.0 * of_thermal - 14.0 * throttled

        truth = {
            "cpu_percent": cpu,
            "memory_percent": used,
            "disk_percent": fleet.disk[:, None] + fleet.disk_fill[:, None] * filled + 0.15 * noise["memory"],
            "disk_latency_ms": fleet.disk_latency[:, None] * disk_factor,
            "network_in_mbps": rate
            * fleet.network_in[:, None]
            * np.exp(0.08 * noise["network_in"])
            / (1.0 + 0.35 * network),
            "network_out_mbps": rate
            * fleet.network_out[:, None]
            * np.exp(0.08 * noise["network_out"])
            / (1.0 + 0.40 * network),
            "requests_per_second": rate,
            "latency_p50_ms": p50,
            "latency_p95_ms": p50 * tail,
            "error_percent": errors,
            "temperature_c": heat,
        }
        for counter in COUNTERS:
            truth[counter] = self._count(counter, times, calendar)
        return {name: _possible(name, values) for name, values in truth.items()}

    def _load(self, times: Ints) -> Floats:
        """Load per service, 1 in the long mean; shape (services, times)."""
        random = self._randomness
        service = np.arange(len(SERVICES))[:, None]
        days = times / DAY
        angle = 2.0 * np.pi * (times / HOUR - _PEAK_HOUR[:, None]) / 24.0
        daily = 1.0 + _AMPLITUDE[:, None] * (np.cos(angle) + 0.25 * np.cos(2.0 * angle)) / 1.25
        # Day 0 was a Thursday. The week's two borders are eased over some hours.
        weekday = (days + 3.0) % 7.0
        weekend = 1.0 / (1.0 + np.exp(-12.0 * (weekday - 5.0))) - 1.0 / (
            1.0 + np.exp(-12.0 * (weekday - 6.9))
        )
        weekly = 1.0 - (1.0 - _WEEKEND[:, None]) * weekend
        trend = 0.22 * random.smooth("load/trend", days, 45.0, service)
        drift = 0.07 * random.smooth("load/drift", days, 0.4, service)
        return np.asarray(daily * weekly * np.exp(trend + drift) * self._bursts(times))

    def _bursts(self, times: Ints) -> Floats:
        """Rushes on a service that all its machines feel: up within minutes, down over an hour."""
        random = self._randomness
        today = int(times[0] // DAY)
        service = np.arange(len(SERVICES))[:, None]
        factor = np.ones((len(SERVICES), len(times)))
        for day in (today - 1, today):
            height = np.where(
                random.uniform("burst/is", service, day) < 0.25,
                random.between(0.4, 1.6, "burst/height", service, day),
                0.0,
            )
            start = day * DAY + random.uniform("burst/start", service, day) * DAY
            lasts = random.between(0.3, 1.5, "burst/lasts", service, day) * HOUR
            since = np.maximum(times[None, :] - start, 0.0)
            factor = factor + height * (1.0 - np.exp(-since / 400.0)) * np.exp(-since / lasts) * (since > 0)
        return factor

    def _inlet(self, times: Ints) -> Floats:
        """Air at the racks' inlet per zone, °C; now and then cooling is worked on for half a day."""
        random = self._randomness
        today = int(times[0] // DAY)
        zone = np.arange(len(ZONES))[:, None]
        air = 23.0 + 1.2 * np.cos(2.0 * np.pi * (times / HOUR - 16.0) / 24.0)
        air = air + 1.0 * random.smooth("air", times / DAY, 3.0, zone)
        for day in (today - 1, today):
            works = random.uniform("cooling/is", zone, day) < 0.03
            start = day * DAY + random.uniform("cooling/start", zone, day) * DAY
            lasts = random.between(4.0, 12.0, "cooling/lasts", zone, day) * HOUR
            share = (times[None, :] - start) / lasts
            air = air + works * 4.0 * np.sin(np.pi * np.clip(share, 0.0, 1.0))
        return np.asarray(air)

    def _noise(self, times: Ints) -> dict[str, Floats]:
        """AR(1) noise of variance 1 per kind, shape (machines, times) each."""
        samples = np.arange(times[0] // STEP - _WARM_UP, times[0] // STEP + len(times))
        # Time comes first, so that a step of the recursion reads and writes whole rows.
        fresh = self._randomness.normals(
            "noise", len(_PERSISTENCE), self._fleet.number[None, :], samples[:, None]
        ).transpose(1, 0, 2)
        keep = np.array(list(_PERSISTENCE.values()))[:, None]
        renew = np.sqrt(1.0 - keep**2)
        state = fresh[0]
        noise = np.empty((len(times), *state.shape))
        for index in range(1, len(samples)):
            state = keep * state + renew * fresh[index]
            if index >= _WARM_UP:
                noise[index - _WARM_UP] = state
        by_kind = {
            kind: np.ascontiguousarray(noise[:, place, :].T) for place, kind in enumerate(_PERSISTENCE)
        }
        for regime in self._regimes:
            if isinstance(regime, Noise) and (mask := regime.mask(self._fleet, times)) is not None:
                by_kind = {
                    kind: np.where(mask, values * regime.factor, values) for kind, values in by_kind.items()
                }
        return by_kind

    def _spikes(self, times: Ints) -> Floats:
        """Single samples that stand out, as collections of garbage and cron jobs make them."""
        random, number = self._randomness, self._fleet.number[:, None]
        height = random.uniform("spike", number, times[None, :] // STEP)
        return np.asarray(np.where(height < 0.003, 0.3 + height / 0.003, 0.0))

    def _scaled(self, load: Floats, times: Ints) -> Floats:
        for regime in self._regimes:
            if isinstance(regime, LoadScale) and (mask := regime.mask(self._fleet, times)) is not None:
                load = np.where(mask, load * regime.factor, load)
        return load

    def _days_awake(self, times: Ints, calendar: Calendar) -> Floats:
        """Days since the machine was last started, shape (machines, times)."""
        incidents, work = calendar.incidents, calendar.maintenance
        machine = np.concatenate([incidents.machine[incidents.fails], work.machine])
        starts = np.concatenate([incidents.end[incidents.fails], work.up])
        last = _latest(len(self._fleet), machine, starts, self._first(calendar), times)
        return np.asarray((times[None, :] - last) / DAY)

    def _count(self, counter: str, times: Ints, calendar: Calendar) -> Floats:
        """A counter of errors since the worn part was replaced, shape (machines, times)."""
        cause = _WORN_PART[counter]
        incidents, work = calendar.incidents, calendar.maintenance
        replaced = incidents.fails & (incidents.cause == cause)
        machine = np.concatenate([incidents.machine[replaced], work.machine[work.renews]])
        moments = np.concatenate([incidents.end[replaced], work.up[work.renews]])
        since = _latest(len(self._fleet), machine, moments, self._first(calendar), times)

        mean = self._fleet.memory_errors if cause == Cause.MEMORY else self._fleet.sectors
        first_day = calendar.begin // DAY
        day = np.arange(first_day, times[0] // DAY + 1)[None, :]
        number = self._fleet.number[:, None]
        per_day = self._randomness.poisson(mean[:, None], f"count/{counter}", number, day)
        phase = self._randomness.uniform(f"count/{counter}/phase", number, day)
        before = np.cumsum(per_day, axis=1) - per_day

        def total(moment: Ints) -> Ints:
            place = moment // DAY - first_day
            share = moment % DAY / DAY
            today = np.take_along_axis(per_day, place, 1) * share + np.take_along_axis(phase, place, 1)
            return np.asarray(np.take_along_axis(before, place, 1) + np.floor(today).astype(np.int64))

        count = total(np.broadcast_to(times, since.shape)) - total(since)
        wearing = incidents.where(
            (incidents.cause == cause) & (incidents.errors_counted > 0) & (incidents.start <= times[-1])
        )
        for index in range(len(wearing)):
            who = wearing.machine[index]
            count[who] += np.where(wearing.start[index] >= since[who], wearing.counted(index, times), 0)
        return count.astype(np.float64)

    def _first(self, calendar: Calendar) -> int:
        return calendar.begin if self._fleet.start is None else max(calendar.begin, self._fleet.start)

    def _shown(self, truth: dict[str, Floats], times: Ints, regimes: int) -> dict[str, Floats]:
        """What the sensors tell after the first so many regimes of the script."""
        shown = {
            name: values if name in COUNTERS else np.round(values, 2 if name != "error_percent" else 3)
            for name, values in truth.items()
        }
        for place, regime in enumerate(self._regimes[:regimes]):
            if not isinstance(regime, MetricShift | StuckSensor | UnitChange | MissingColumn):
                continue
            mask = regime.mask(self._fleet, times)
            if mask is not None:
                values = self._misread(place, regime, shown[regime.column], times)
                shown[regime.column] = np.where(mask, values, shown[regime.column])
        return shown

    def _misread(
        self,
        place: int,
        regime: MetricShift | StuckSensor | UnitChange | MissingColumn,
        values: Floats,
        times: Ints,
    ) -> Floats:
        digits = 0 if regime.column in COUNTERS else 3
        match regime:
            case MetricShift():
                return np.round(_possible(regime.column, values * regime.multiply + regime.add), digits)
            case UnitChange():
                return np.round(values * regime.factor, 0 if regime.column in COUNTERS else 6)
            case StuckSensor():
                return np.broadcast_to(self._when_stuck(place, regime)[:, None], values.shape)
            case MissingColumn():
                lost = self._randomness.uniform(
                    f"missing/{place}", self._fleet.number[:, None], times[None, :] // STEP
                )
                return np.where(lost < regime.share, np.nan, values)

    def _when_stuck(self, place: int, regime: StuckSensor) -> Floats:
        """What the sensors showed at the first sample of the regime, shape (machines,)."""
        if place not in self._stuck:
            begin = max(regime.start.timestamp(), self._fleet.start or -np.inf)
            first = int(np.ceil(begin / STEP)) * STEP
            day = first // DAY
            times = day * DAY + STEP * np.arange(SAMPLES)
            shown = self._shown(self._truth(times, self.schedule.around(day)), times, place)
            self._stuck[place] = shown[regime.column][:, (first - day * DAY) // STEP]
        return self._stuck[place]


def _possible(name: str, values: Floats) -> Floats:
    """Held within what is physically possible."""
    if name == "temperature_c":
        return np.clip(values, -20.0, 120.0)
    return np.clip(values, 0.0, 100.0) if name in _PERCENT else np.maximum(values, 0.0)


def _signs(incidents: Incidents, machines: int, times: Ints, courses: list[Course]) -> Floats:
    """Strength of the signs of each cause, shape (causes, machines, times)."""
    signs = np.zeros((len(Cause), machines, len(times)))
    for index in np.flatnonzero(np.isin(incidents.course, courses)).tolist():
        signs[incidents.cause[index], incidents.machine[index]] += incidents.signs(index, times)
    return signs


def _drain(maintenance: Maintenance, machines: int, times: Ints) -> Floats:
    """Share of its load that a machine takes: next to none from the drain until it is up again."""
    share = np.ones((machines, len(times)))
    for index in np.flatnonzero((maintenance.start <= times[-1]) & (maintenance.up > times[0])):
        during = (times >= maintenance.start[index]) & (times < maintenance.up[index])
        share[maintenance.machine[index], during] = 0.04
    return share


def _outages(calendar: Calendar, begin: int, end: int) -> list[tuple[int, int, int]]:
    """Machine, from and until of what keeps machines silent within a span."""
    incidents, work = calendar.incidents, calendar.maintenance
    repairs = incidents.where(incidents.fails & (incidents.peak < end) & (incidents.end > begin))
    boots = np.flatnonzero((work.down < end) & (work.up > begin))
    return [
        *zip(repairs.machine.tolist(), repairs.peak.tolist(), repairs.end.tolist(), strict=True),
        *zip(work.machine[boots].tolist(), work.down[boots].tolist(), work.up[boots].tolist(), strict=True),
    ]


def _absent(fleet: Fleet, times: Ints) -> Bools:
    """Times at which the fleet is not there, shape (times,)."""
    absent = np.zeros(len(times), dtype=bool)
    if fleet.start is not None:
        absent |= times < fleet.start
    if fleet.end is not None:
        absent |= times >= fleet.end
    return absent


def _latest(machines: int, machine: Ints, moments: Ints, first: int, times: Ints) -> Ints:
    """The latest of each machine's moments that is not after a time, or ``first``.

    ``machine`` and ``moments`` have shape (n,), ``first`` serves all; returns (machines, times).
    """
    past = moments <= times[0]
    before = np.full(machines, first, dtype=np.int64)
    np.maximum.at(before, machine[past], moments[past])
    latest = np.repeat(before[:, None], len(times), axis=1)
    for index in np.flatnonzero(~past & (moments <= times[-1])):
        row = latest[machine[index]]
        np.maximum(row, moments[index], out=row, where=times >= moments[index])
    return latest
