"""Who is in the fleet: machines with their service, zone, hardware and lasting character.

A machine's traits depend on the seed and its number alone, so a larger fleet begins with the
same machines as a smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from pipelines.sources.simulated.randomness import Floats, Ints, Randomness
from pipelines.sources.simulated.regimes import NewMachines, Regime, Service, Zone

SERVICES: tuple[str, ...] = get_args(Service)
ZONES: tuple[str, ...] = get_args(Zone)
MODELS = ("m1", "m2", "m3", "m4")
_CORES = (16, 32, 32, 64)
_MEMORY_GIB = (64.0, 128.0, 192.0, 512.0)
_SERVICE_SHARES = (0.35, 0.65, 0.85)  # borders of the shares of web, api, batch, database

DAY = 86_400
YEAR = 365.25 * DAY
LIFE_YEARS = 6.0  # then the machine is replaced by one of the same model
_NUMBERS_PER_POPULATION = 1_000_000


@dataclass(frozen=True)
class Fleet:
    """One population. Arrays have shape (machines,); times are seconds since 1970, UTC."""

    number: Ints
    ids: tuple[str, ...]
    start: int | None  # None: the machines have always been there
    end: int | None
    service: Ints
    zone: Ints
    model: Ints
    built: Ints
    requests: Floats  # 1/s in the mean
    cpu_idle: Floats
    cpu_per_load: Floats
    memory: Floats  # percent, idle
    disk: Floats  # percent, just cleaned
    disk_fill: Floats  # percent per day
    disk_cleaned_every: Floats  # days
    disk_latency: Floats  # ms
    network_in: Floats  # Mbit per request
    network_out: Floats
    latency: Floats  # ms
    errors: Floats  # percent
    heat: Floats  # °C over the inlet at full load
    memory_errors: Floats  # corrected per day
    sectors: Floats  # reallocated per day
    event_rate: Floats  # harmless error events per day

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def service_names(self) -> list[str]:
        return [SERVICES[index] for index in self.service]

    @property
    def zone_names(self) -> list[str]:
        return [ZONES[index] for index in self.zone]

    @property
    def cores(self) -> Ints:
        return np.asarray(np.array(_CORES)[self.model])

    @property
    def memory_gib(self) -> Floats:
        return np.asarray(np.array(_MEMORY_GIB)[self.model])

    def age_years(self, at: int | Ints) -> Floats:
        return np.asarray(((at - self.built) / YEAR) % LIFE_YEARS)

    def lives(self, at: int) -> bool:
        return (self.start is None or at >= self.start) and (self.end is None or at < self.end)


def populations(machines: int, randomness: Randomness, regimes: tuple[Regime, ...]) -> list[Fleet]:
    """The fleet that was always there, then one population per ``new_machines`` regime."""
    fleets = [_population(0, machines, randomness, None)]
    arrivals = [regime for regime in regimes if isinstance(regime, NewMachines)]
    return fleets + [
        _population(place, regime.count, randomness, regime) for place, regime in enumerate(arrivals, start=1)
    ]


def _population(place: int, count: int, randomness: Randomness, regime: NewMachines | None) -> Fleet:
    number = np.arange(1, count + 1) + place * _NUMBERS_PER_POPULATION
    prefix = "m" if regime is None else f"n{place}-"

    def spread(low: float, high: float, trait: str) -> Floats:
        return randomness.between(low, high, f"trait/{trait}", number)

    service = np.searchsorted(_SERVICE_SHARES, randomness.uniform("trait/service", number))
    zone = randomness.choice(len(ZONES), "trait/zone", number)
    model = randomness.choice(len(MODELS), "trait/model", number)
    built = -(spread(0.0, LIFE_YEARS, "built") * YEAR).astype(np.int64)
    busier = fuller = cooler = faster = 1.0
    if regime is not None:
        service = _within(service, [SERVICES.index(name) for name in regime.services or SERVICES])
        zone = _within(zone, [ZONES.index(name) for name in regime.zones or ZONES])
        model = np.full(count, len(MODELS) - 1)
        built = np.full(count, int(regime.start.timestamp()) - 30 * DAY)
        busier, fuller, cooler, faster = 1.5, 1.35, 0.75, 0.6

    chronic = randomness.uniform("trait/chronic", number) < 0.08
    size = np.array(_CORES)[model] / 32.0
    # Databases answer fewer and larger requests, batch works rather than answers.
    per_service = np.array([320.0, 240.0, 40.0, 150.0])[service]
    latency = np.array([28.0, 18.0, 240.0, 9.0])[service]
    return Fleet(
        number=number,
        ids=tuple(f"{prefix}{index:04d}" for index in range(1, count + 1)),
        start=None if regime is None else int(np.ceil(regime.start.timestamp())),
        end=None if regime is None or regime.end is None else int(np.ceil(regime.end.timestamp())),
        service=service.astype(np.int64),
        zone=zone,
        model=model,
        built=built,
        requests=per_service * size * spread(0.7, 1.3, "requests") * busier,
        cpu_idle=spread(0.03, 0.10, "cpu_idle"),
        cpu_per_load=spread(0.25, 0.50, "cpu_per_load") * busier,
        memory=spread(35.0, 58.0, "memory") * fuller,
        disk=spread(25.0, 55.0, "disk"),
        disk_fill=spread(0.4, 2.2, "disk_fill"),
        disk_cleaned_every=spread(6.0, 16.0, "disk_cleaned_every"),
        disk_latency=spread(1.5, 6.0, "disk_latency") * faster,
        network_in=spread(0.1, 0.3, "network_in"),
        network_out=spread(0.3, 1.2, "network_out"),
        latency=latency * spread(0.8, 1.25, "latency") * faster,
        errors=spread(0.05, 0.30, "errors"),
        heat=spread(26.0, 38.0, "heat") * cooler,
        memory_errors=np.where(
            chronic, spread(2.0, 6.0, "memory_errors"), spread(0.05, 0.6, "memory_errors")
        ),
        sectors=np.where(
            randomness.uniform("trait/worn", number) < 0.08,
            spread(0.5, 2.0, "sectors"),
            spread(0.01, 0.12, "sectors"),
        ),
        event_rate=np.where(
            randomness.uniform("trait/noisy", number) < 0.08,
            spread(1.0, 2.5, "event_rate"),
            spread(0.1, 0.45, "event_rate"),
        ),
    )


def _within(drawn: Ints, allowed: list[int]) -> Ints:
    return np.asarray(np.array(allowed)[drawn % len(allowed)])
