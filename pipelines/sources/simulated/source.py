"""The simulated fleet as a source: rows of a data set that arrived in a window, as they came."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from feature_repo.datasets import Dataset
from pipelines.errors import SourceError
from pipelines.references import Window
from pipelines.sources.profile import SimulatedOrigin
from pipelines.sources.simulated.billing import BILLED, day_of_use, forgotten
from pipelines.sources.simulated.events import EVENT_CODES, KINDS, EventLog
from pipelines.sources.simulated.faults import (
    ARRIVAL,
    BROKEN_COLUMN,
    BROKEN_TEXT,
    DAYS_LATE,
    Fault,
    Habits,
    Table,
    collection_gaps,
    deliver,
)
from pipelines.sources.simulated.fleet import DAY, MODELS, SERVICES, ZONES, Fleet, populations
from pipelines.sources.simulated.incidents import Schedule
from pipelines.sources.simulated.randomness import Floats, Randomness
from pipelines.sources.simulated.regimes import Regime, load_regimes
from pipelines.sources.simulated.telemetry import COUNTERS, METRICS, STEP, Measured, Telemetry
from pipelines.sources.simulated.vm_requests import DELETED, VmRequests, vm_names

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TILES_KEPT = DAYS_LATE + 2  # reads of one day after the other make each day once

HABITS = {
    "telemetry": Habits(
        late=0.003,
        duplicated=0.003,
        broken=0.003,
        lost=0.001,
        incomplete=0.004,
        faults=(
            Fault("text", "cpu_percent", text="n/a"),
            Fault("text", "disk_latency_ms", text="12,5"),
            Fault("text", "corrected_memory_errors", text="overflow"),
            Fault("text", "temperature_c", text=""),
            Fault("value", "cpu_percent", 180.0),
            Fault("value", "memory_percent", -5.0),
            Fault("value", "temperature_c", 999.0),
            Fault("value", "reallocated_sectors", -1.0),
            Fault("future"),
            Fault("future"),
            Fault("no_entity"),
            Fault("no_entity"),
            Fault("conflict", "cpu_percent", 0.8),
            Fault("conflict", "requests_per_second", 1.1),
        ),
    ),
    "events": Habits(
        late=0.01,
        duplicated=0.005,
        broken=0.004,
        faults=(
            Fault("value", "kind", len(KINDS)),
            Fault("value", "code", -1),
            Fault("future"),
            Fault("no_entity"),
        ),
    ),
    "machines": Habits(
        late=0.002,
        duplicated=0.003,
        broken=0.002,
        faults=(
            Fault("value", "model", len(MODELS)),
            Fault("value", "age_years", -1.0),
            Fault("text", "memory_gib", text="128GB"),
        ),
    ),
    "billing": Habits(
        late=0.01,
        duplicated=0.005,
        broken=0.004,
        faults=(
            Fault("value", "cost_usd", -1.0),
            Fault("text", "cost_usd", text="1.204,50"),
            Fault("conflict", "cost_usd", 1.1),
        ),
    ),
    "vm_requests": Habits(
        late=0.002,
        duplicated=0.003,
        broken=0.002,
        faults=(
            Fault("value", "cores", -1.0),
            Fault("text", "memory_gib", text="16GB"),
            Fault("no_entity"),
        ),
    ),
    "vm_events": Habits(
        late=0.005,
        duplicated=0.004,
        broken=0.002,
        faults=(Fault("value", "kind", len(DELETED)), Fault("no_entity")),
    ),
}


class _Population:
    """A fleet with all that is derived from it."""

    def __init__(self, fleet: Fleet, randomness: Randomness, regimes: tuple[Regime, ...]) -> None:
        self.fleet = fleet
        self.telemetry = Telemetry(fleet, Schedule(fleet, randomness, regimes), randomness, regimes)
        self.log = EventLog(fleet, self.telemetry, randomness)

    def there_on(self, day: int) -> bool:
        fleet = self.fleet
        return (fleet.start is None or fleet.start < (day + 1) * DAY) and (
            fleet.end is None or fleet.end > day * DAY
        )


class SimulatedSource:
    """Reads the simulated fleet; see :class:`pipelines.sources.base.Source`.

    Args:
        origin: Size, seed and script of the simulation.
        folder: Folder that a relative path of the regime script is taken from.

    Raises:
        SourceError: the regime script is missing or refused.
    """

    def __init__(self, origin: SimulatedOrigin, folder: str) -> None:
        regimes = load_regimes(Path(folder) / origin.regimes) if origin.regimes else ()
        self._randomness = Randomness(origin.seed)
        fleets = populations(origin.machines, self._randomness, regimes)
        _refuse_strangers(regimes, fleets)
        self._populations = [_Population(fleet, self._randomness, regimes) for fleet in fleets]
        self._vm_requests = VmRequests(origin.machines, self._randomness)
        self._days: dict[str, Callable[[int], list[pl.DataFrame]]] = {
            "telemetry": self._telemetry,
            "events": self._events,
            "machines": self._machines,
            "billing": self._billing,
            "vm_requests": self._requested,
            "vm_events": self._deleted,
        }
        self._tiles: dict[str, dict[int, pl.DataFrame]] = {name: {} for name in self._days}
        self._costs: dict[int, Floats] = {}

    def read(self, dataset: Dataset, window: Window) -> pl.DataFrame:
        """Rows that arrived in the window, ordered by arrival.

        A numeric column of the frame is text where, and only where, one of its values is broken
        text. Times are UTC; missing values are null.

        Raises:
            SourceError: the simulator has no such data set, or not all of its columns.
        """
        if dataset.name not in self._days:
            raise SourceError(
                f"the simulator has no data set {dataset.name!r}; it has {sorted(self._days)}: "
                "correct 'datasets' in the profile"
            )
        begin, end = ((moment - _EPOCH) // timedelta(microseconds=1) for moment in (window.start, window.end))
        first, last = begin // (DAY * 1_000_000) - DAYS_LATE, (end - 1) // (DAY * 1_000_000)
        arrived = (pl.col(ARRIVAL) * 1_000_000 >= begin) & (pl.col(ARRIVAL) * 1_000_000 < end)
        frame = pl.concat([self._tile(dataset.name, day).filter(arrived) for day in range(first, last + 1)])
        frame = _with_broken_text(frame.sort(ARRIVAL, maintain_order=True))
        names = [column.name for column in dataset.columns]
        if lacking := [name for name in names if name not in frame.columns]:
            raise SourceError(
                f"the simulator's {dataset.name} has no columns {lacking}; it has "
                f"{[name for name in frame.columns if not name.startswith('_')]}: correct the profile"
            )
        return frame.select(names)

    def _tile(self, dataset: str, day: int) -> pl.DataFrame:
        """All rows about a day, whenever they arrive."""
        kept = self._tiles[dataset]
        if day not in kept:
            if len(kept) >= _TILES_KEPT:
                del kept[next(iter(kept))]
            kept[day] = pl.concat(self._days[dataset](day))
        return kept[day]

    def _telemetry(self, day: int) -> list[pl.DataFrame]:
        there = [population for population in self._populations if population.there_on(day)]
        measured = [population.telemetry.day(day) for population in there]
        self._costs[day] = _cost([each.fleet for each in there], measured)
        return [
            deliver(
                _samples(population.fleet, values, day, self._randomness),
                HABITS["telemetry"],
                "telemetry",
                self._randomness,
            )
            for population, values in zip(there, measured, strict=True)
        ]

    def _events(self, day: int) -> list[pl.DataFrame]:
        frames = []
        for population in self._populations:
            fleet, events = population.fleet, population.log.day(day)
            table = Table(
                columns={
                    "machine_id": events.machine,
                    "event_time": events.time,
                    "kind": events.kind,
                    "code": events.code,
                },
                labels={"machine_id": fleet.ids, "kind": (*KINDS, "unknown"), "code": EVENT_CODES},
                integers=(),
                entity="machine_id",
                identity=(fleet.number[events.machine], events.time, events.kind, events.code),
            )
            frames.append(deliver(table, HABITS["events"], "events", self._randomness))
        return frames

    def _machines(self, day: int) -> list[pl.DataFrame]:
        """Each machine each midnight, so that any window knows the fleet; and when it joins."""
        frames = []
        for population in self._populations:
            fleet = population.fleet
            moments = {day * DAY} | (
                {fleet.start} if fleet.start is not None and fleet.start // DAY == day else set()
            )
            for moment in sorted(moment for moment in moments if fleet.lives(moment)):
                everyone = np.arange(len(fleet))
                table = Table(
                    columns={
                        "machine_id": everyone,
                        "event_time": np.full(len(fleet), moment),
                        "model": fleet.model,
                        "zone": fleet.zone,
                        "age_years": np.round(fleet.age_years(moment), 3),
                        "cpu_cores": fleet.cores.astype(np.float64),
                        "memory_gib": fleet.memory_gib,
                    },
                    labels={"machine_id": fleet.ids, "model": (*MODELS, "m9"), "zone": ZONES},
                    integers=("cpu_cores",),
                    entity="machine_id",
                    identity=(fleet.number, np.full(len(fleet), moment)),
                )
                frames.append(deliver(table, HABITS["machines"], "machines", self._randomness))
        return frames

    def _billing(self, day: int) -> list[pl.DataFrame]:
        """Bills of the day before, which are out at midnight."""
        cost = self._cost_of(day - 1)
        project, service = np.nonzero(cost > 0)
        table = Table(
            columns={
                "project": project,
                "event_time": np.full(len(project), day * DAY),
                "service": service,
                "cost_usd": np.round(cost[project, service], 2),
            },
            labels={"project": SERVICES, "service": BILLED},
            integers=(),
            entity="project",
            identity=(project, service, np.full(len(project), day)),
        )
        return [deliver(table, HABITS["billing"], "billing", self._randomness)]

    def _requested(self, day: int) -> list[pl.DataFrame]:
        """The virtual machines asked for on a day; regimes do not touch them."""
        asked, known = self._vm_requests.described(day)
        table = Table(
            columns={
                "vm_id": np.arange(len(asked)),
                "event_time": asked.created,
                "cores": asked.cores,
                "memory_gib": asked.memory_gib,
                "batch_vms": asked.batch_vms.astype(np.float64),
                "batch_cores": asked.batch_cores,
                **known,
            },
            labels={"vm_id": vm_names(asked)},
            integers=(),
            entity="vm_id",
            identity=(asked.tenant, asked.number),
        )
        return [deliver(table, HABITS["vm_requests"], "vm_requests", self._randomness)]

    def _deleted(self, day: int) -> list[pl.DataFrame]:
        ended, at = self._vm_requests.deleted(day)
        table = Table(
            columns={
                "vm_id": np.arange(len(ended)),
                "event_time": at,
                "kind": np.zeros(len(ended), dtype=np.int64),
            },
            labels={"vm_id": vm_names(ended), "kind": (*DELETED, "unknown")},
            integers=(),
            entity="vm_id",
            identity=(ended.tenant, ended.number),
        )
        return [deliver(table, HABITS["vm_events"], "vm_events", self._randomness)]

    def _cost_of(self, day: int) -> Floats:
        if day not in self._costs:
            there = [population for population in self._populations if population.there_on(day)]
            self._costs[day] = _cost(
                [each.fleet for each in there], [each.telemetry.day(day) for each in there]
            )
        compute = np.stack([forgotten(self._randomness, day), *[np.ones(len(SERVICES))] * 2], axis=1)
        return np.asarray(self._costs[day] * compute)


def _cost(fleets: list[Fleet], measured: list[Measured]) -> Floats:
    per_fleet = [day_of_use(fleet, values) for fleet, values in zip(fleets, measured, strict=True)]
    return np.asarray(np.sum(per_fleet, axis=0))


def _samples(fleet: Fleet, measured: Measured, day: int, randomness: Randomness) -> Table:
    """The samples that were not lost on the way, machine by machine."""
    lost, delay = collection_gaps(fleet.number, day, randomness)
    machine, sample = np.nonzero(~(lost | measured.silent))
    times = measured.times[sample]
    return Table(
        columns={
            "machine_id": machine,
            "event_time": times,
            **{metric: measured.shown[metric][machine, sample] for metric in METRICS},
        },
        labels={"machine_id": fleet.ids},
        integers=COUNTERS,
        entity="machine_id",
        identity=(fleet.number[machine], times // STEP),
        delay=delay[machine, sample],
    )


def _with_broken_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Text put where it was found instead of a number; such a column becomes text as a whole."""
    broken = frame[BROKEN_COLUMN].unique().drop_nulls().sort().to_list()
    return frame.with_columns(
        pl.when(pl.col(BROKEN_COLUMN) == name)
        .then(pl.col(BROKEN_TEXT))
        .otherwise(pl.col(name).cast(pl.String))
        .alias(name)
        for name in broken
    )


def _refuse_strangers(regimes: tuple[Regime, ...], fleets: list[Fleet]) -> None:
    known = {name for fleet in fleets for name in fleet.ids}
    for place, regime in enumerate(regimes):
        if strangers := sorted(set(regime.machines or ()) - known):
            raise SourceError(
                f"regimes.{place}.machines: the fleet has no {strangers}; it has "
                f"{fleets[0].ids[0]} to {fleets[0].ids[-1]}"
                + "".join(f", {fleet.ids[0]} to {fleet.ids[-1]}" for fleet in fleets[1:])
            )
