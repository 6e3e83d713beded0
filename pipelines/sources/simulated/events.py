"""What is written down: errors, failures and maintenance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.sources.simulated.fleet import DAY, Fleet
from pipelines.sources.simulated.incidents import CODES, HOUR, Course
from pipelines.sources.simulated.randomness import Floats, Ints, Randomness
from pipelines.sources.simulated.telemetry import Telemetry

KINDS = ("error", "maintenance", "failure")
EVENT_CODES = (*CODES, "planned")
_PLANNED = len(CODES)
_SLOT = 900  # seconds in which a machine reports at most one error of each kind
_ERRORS_PER_HOUR = 0.40  # where signs of decay have strength 1


@dataclass(frozen=True)
class Events:
    """Arrays of shape (events,); kinds and codes are places in KINDS and EVENT_CODES."""

    machine: Ints
    time: Ints
    kind: Ints
    code: Ints


class EventLog:
    """The events of a fleet, day by day."""

    def __init__(self, fleet: Fleet, telemetry: Telemetry, randomness: Randomness) -> None:
        self._fleet = fleet
        self._telemetry = telemetry
        self._randomness = randomness

    def day(self, day: int) -> Events:
        """All events of a day (counted since 1970), ordered by time, then machine."""
        calendar = self._telemetry.schedule.around(day)
        incidents, work = calendar.incidents, calendar.maintenance
        failed = incidents.where(incidents.fails)
        parts = [
            self._errors(day),
            _events(failed.machine, failed.peak, KINDS.index("failure"), failed.cause),
            _events(failed.machine, failed.end, KINDS.index("maintenance"), failed.cause),
            _events(work.machine, work.up, KINDS.index("maintenance"), np.full(len(work.up), _PLANNED)),
        ]
        machine, time, kind, code = (np.concatenate(values) for values in zip(*parts, strict=True))
        there = (time >= day * DAY) & (time < (day + 1) * DAY)
        if self._fleet.start is not None:
            there &= time >= self._fleet.start
        if self._fleet.end is not None:
            there &= time < self._fleet.end
        order = np.lexsort((code, kind, machine, time))
        order = order[there[order]]
        return Events(machine[order], time[order], kind[order], code[order])

    def _errors(self, day: int) -> tuple[Ints, Ints, Ints, Ints]:
        fleet, random = self._fleet, self._randomness
        slots = np.arange(day * DAY, (day + 1) * DAY, _SLOT)
        number, slot = fleet.number[:, None], slots[None, :] // _SLOT
        per_slot = fleet.event_rate[:, None] * _SLOT / DAY
        # Background errors concern anything; those of decay concern what decays.
        machine, time = self._reported(per_slot, "harmless", number, slot, slots)
        code = random.choice(len(CODES), "error/harmless/code", fleet.number[machine], time)
        parts = [_events(machine, time, 0, code)]

        incidents = self._telemetry.schedule.around(day).incidents
        active = incidents.where(
            (incidents.start < (day + 1) * DAY)
            & (incidents.end > day * DAY)
            & np.isin(incidents.course, [Course.FAILS, Course.HEALS])
        )
        shown = 1.0 - self._telemetry.schedule.hidden_share(slots)
        for index in range(len(active)):
            row = active.machine[index]
            told = shown[row] * active.signs(index, slots)[None, :]
            rate = _ERRORS_PER_HOUR * told * _SLOT / HOUR
            _, time = self._reported(rate, "decay", number[row : row + 1], slot, slots)
            parts.append(
                _events(
                    np.full(len(time), row), time, 0, np.full(len(time), active.cause[index], dtype=np.int64)
                )
            )
        machine, time, kind, code = (np.concatenate(values) for values in zip(*parts, strict=True))
        awake = ~self._telemetry.silent_at(machine, time, day)
        return machine[awake], time[awake], kind[awake], code[awake]

    def _reported(
        self, chance: Floats, stream: str, number: Ints, slot: Ints, slots: Ints
    ) -> tuple[Ints, Ints]:
        reports = self._randomness.uniform(f"error/{stream}", number, slot) < chance
        row, column = np.nonzero(reports)
        within = self._randomness.uniform(f"error/{stream}/when", number[row, 0], slot[0, column])
        return row, slots[column] + (within * _SLOT).astype(np.int64)


def _events(machine: Ints, time: Ints, kind: int, code: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    return machine, time, np.full(len(machine), kind, dtype=np.int64), code
