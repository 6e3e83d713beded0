"""What befalls the machines: decay that ends in failure or does not, sudden failures, maintenance.

Each machine's life is cut into blocks of 8 days, with borders of its own. A block holds at most
one incident, which begins and is over within it, so a block can be drawn without knowing any
other. A failure's way is: signs grow over 36 to 96 hours; the machine fails; it is silent while
it is repaired; a maintenance event ends it, and the worn part's error counter starts from zero.

What keeps a model from being perfect: some failures come without a sign, signs differ in
strength, some decay heals by itself, and harmless trouble looks like decay in one metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pipelines.sources.simulated.fleet import DAY, LIFE_YEARS, Fleet
from pipelines.sources.simulated.randomness import Bools, Floats, Ints, Randomness
from pipelines.sources.simulated.regimes import FailureRate, HiddenSigns, Regime

HOUR = 3_600
BLOCK = 8 * DAY
FAILURES_PER_BLOCK = 0.44  # one failure per machine in 18 days
WITHOUT_SIGN = 0.08  # share of failures
HEALS_PER_BLOCK = 0.04
HARMLESS_PER_BLOCK = 0.14

MAINTENANCE_BLOCK = 28 * DAY
RENEWED_EVERY = 3  # at each third planned maintenance, disks and memory are replaced
PERIOD = 28 * DAY  # calendars are drawn and kept for such a stretch
# A renewal is at most three maintenance blocks back, and put off by an incident or two.
LOOK_BACK = RENEWED_EVERY * MAINTENANCE_BLOCK + 7 * BLOCK


class Cause(IntEnum):
    DISK = 0
    MEMORY = 1
    THERMAL = 2
    NETWORK = 3


CODES = ("disk", "memory", "thermal", "network")


class Course(IntEnum):
    FAILS = 0  # after signs
    FAILS_SUDDENLY = 1
    HEALS = 2  # signs as before a failure, then relief
    HARMLESS = 3  # one metric looks like decay


@dataclass(frozen=True)
class Incidents:
    """Arrays of shape (incidents,), ordered by machine, then time; times are seconds since 1970."""

    machine: Ints  # place in the fleet
    cause: Ints
    course: Ints
    start: Ints
    peak: Ints  # of a failure: the moment of it
    end: Ints  # of a failure: the machine is back
    strength: Floats  # of the signs at the peak; 1 is typical
    turn_hours: Floats  # before the peak, slow wear turns into fast decay
    errors_counted: Floats  # that the worn part's counter gains until the peak

    def __len__(self) -> int:
        return len(self.machine)

    @property
    def fails(self) -> Bools:
        return self.course <= Course.FAILS_SUDDENLY

    def where(self, chosen: Bools) -> Incidents:
        return Incidents(**{name: values[chosen] for name, values in vars(self).items()})

    def progress(self, index: int, times: Ints) -> Floats:
        """How far the signs have grown at these times: 0 before, 1 from the peak on."""
        start, peak = self.start[index], self.peak[index]
        share = np.clip((times - start) / (peak - start), 0.0, 1.0)
        left = np.maximum(peak - times, 0) / HOUR
        # Slow wear first; what is left of the part then goes within about a day.
        last_day = np.sqrt(share) / (1.0 + np.exp((left - self.turn_hours[index]) / 3.0))
        return np.asarray(0.3 * share + 0.7 * last_day)

    def counted(self, index: int, times: Ints) -> Ints:
        """How many errors the worn part has counted by these times; they come in clusters."""
        progress = self.progress(index, times)
        clusters = 2.0 * np.pi * 6.0
        clustered = progress + np.sin(clusters * progress) / clusters
        return np.asarray(np.floor(self.errors_counted[index] * clustered).astype(np.int64))

    def signs(self, index: int, times: Ints) -> Floats:
        """Strength of the signs at these times: growing to the peak, then fading if nothing failed."""
        if self.course[index] == Course.FAILS_SUDDENLY:
            return np.zeros(len(times))
        grown = self.strength[index] * self.progress(index, times)
        after = times - self.peak[index]
        if self.course[index] == Course.FAILS:
            return np.asarray(np.where(after >= 0, 0.0, grown))
        fading = np.exp(-np.maximum(after, 0) / (1.5 * HOUR))
        return np.asarray(np.where(times < self.end[index], grown * fading, 0.0))


@dataclass(frozen=True)
class Maintenance:
    """Planned work, arrays of shape (works,): a machine is drained, silent for a reboot, and back."""

    machine: Ints
    start: Ints
    down: Ints
    up: Ints
    renews: Bools  # disks and memory are replaced


@dataclass(frozen=True)
class Calendar:
    """All that befalls a fleet in one period, and as far back as it matters there."""

    begin: int  # of what is known
    incidents: Incidents
    maintenance: Maintenance


class Schedule:
    """Draws calendars, and keeps the two last used."""

    def __init__(self, fleet: Fleet, randomness: Randomness, regimes: tuple[Regime, ...]) -> None:
        self._fleet = fleet
        self._randomness = randomness
        self._rates = [regime for regime in regimes if isinstance(regime, FailureRate)]
        self._hiding = [regime for regime in regimes if isinstance(regime, HiddenSigns)]
        self._calendars: dict[int, Calendar] = {}

    def around(self, day: int) -> Calendar:
        """The calendar of the period that holds a day (counted since 1970)."""
        period = day * DAY // PERIOD
        if period not in self._calendars:
            if len(self._calendars) >= 2:
                del self._calendars[next(iter(self._calendars))]
            self._calendars[period] = self._draw(period)
        return self._calendars[period]

    def _draw(self, period: int) -> Calendar:
        begin = period * PERIOD - LOOK_BACK
        # Work may be put off by incidents that begin before the period's end; none lasts longer.
        end = (period + 1) * PERIOD + 2 * BLOCK
        incidents = self._incidents(begin - 2 * BLOCK, end)
        return Calendar(begin, incidents, self._maintenance(begin, end, incidents))

    def _incidents(self, begin: int, end: int) -> Incidents:
        fleet, random = self._fleet, self._randomness
        number = fleet.number[:, None]
        border = (random.uniform("incident/border", number) * BLOCK).astype(np.int64)
        block = np.arange(begin // BLOCK - 1, end // BLOCK + 1)[None, :]

        def draw(name: str, low: float, high: float) -> Floats:
            return random.between(low, high, f"incident/{name}", number, block)

        start = block * BLOCK + border + (draw("start", 0.0, 3.3) * DAY).astype(np.int64)
        peak = start + (draw("growth", 36.0, 96.0) * HOUR).astype(np.int64)
        fate = draw("fate", 0.0, 1.0)
        fails = fate < self._failure_chance(start)
        calm = 1.0 - HEALS_PER_BLOCK - HARMLESS_PER_BLOCK
        course = np.select(
            [
                fails & (draw("sign", 0.0, 1.0) < WITHOUT_SIGN),
                fails,
                fate > 1.0 - HEALS_PER_BLOCK,
                fate > calm,
            ],
            [Course.FAILS_SUDDENLY, Course.FAILS, Course.HEALS, Course.HARMLESS],
            default=-1,
        )
        # Decay that heals does so before it would have come to a failure.
        peak = np.where(
            course == Course.HEALS,
            start + ((peak - start) * draw("relief", 0.5, 0.95)).astype(np.int64),
            peak,
        )
        repair = np.where(course <= Course.FAILS_SUDDENLY, draw("repair", 3.0, 10.0), 8.0)
        cause = np.searchsorted([0.32, 0.60, 0.80], draw("cause", 0.0, 1.0))
        counted = np.select(
            [cause == Cause.DISK, cause == Cause.MEMORY],
            [
                25.0 * np.exp(0.6 * draw("counted", -1.0, 1.0)),
                220.0 * np.exp(0.9 * draw("counted", -1.0, 1.0)),
            ],
            default=0.0,
        )
        counted = np.where(course == Course.HARMLESS, counted * (draw("counts", 0.0, 1.0) < 0.3), counted)
        counted = np.where(course == Course.FAILS_SUDDENLY, 0.0, counted)
        counted = np.where(course == Course.HARMLESS, counted, counted * (1.0 - self.hidden_share(start)))
        strength = np.exp(0.25 * random.normal("incident/strength", number, block))
        turn = draw("turn", 21.0, 30.0)

        there = course >= 0
        if fleet.start is not None:
            there &= start >= fleet.start
        machine = np.broadcast_to(np.arange(len(fleet))[:, None], there.shape)
        return Incidents(
            machine=machine[there],
            cause=cause[there],
            course=course[there],
            start=start[there],
            peak=peak[there],
            end=(peak + (repair * HOUR).astype(np.int64))[there],
            strength=strength[there],
            turn_hours=turn[there],
            errors_counted=counted[there],
        )

    def _failure_chance(self, start: Ints) -> Floats:
        """Per block, by hardware, age and the regime in force when the incident would begin."""
        fleet = self._fleet
        by_model = np.array([0.8, 1.0, 1.35, 0.85])[fleet.model][:, None]
        age = ((start - fleet.built[:, None]) / (365.25 * DAY)) % LIFE_YEARS
        chance = FAILURES_PER_BLOCK * by_model * (0.7 + 0.6 * age / LIFE_YEARS)
        for regime in self._rates:
            concerned = regime.concerns(fleet)[:, None] & regime.during(start)
            chance = np.where(concerned, chance * regime.factor, chance)
        return np.minimum(chance, 0.97)

    def hidden_share(self, times: Ints) -> Floats:
        """Of the signs of decay at these times, by the regimes in force; shape (machines, times)."""
        share = np.zeros((len(self._fleet), times.shape[-1]))
        for regime in self._hiding:
            concerned = regime.concerns(self._fleet)[:, None] & regime.during(times)
            share = np.where(concerned, np.maximum(share, regime.share), share)
        return share

    def _maintenance(self, begin: int, end: int, incidents: Incidents) -> Maintenance:
        fleet, random = self._fleet, self._randomness
        number = fleet.number[:, None]
        border = (random.uniform("maintenance/border", number) * MAINTENANCE_BLOCK).astype(np.int64)
        block = np.arange(begin // MAINTENANCE_BLOCK - 1, end // MAINTENANCE_BLOCK + 1)[None, :]
        drawn = block * MAINTENANCE_BLOCK + border
        drawn = drawn + (random.between(1.0, 27.0, "maintenance/day", number, block) * DAY).astype(np.int64)
        # At night, on the quarter of an hour.
        night = drawn // DAY * DAY + HOUR + 900 * random.choice(16, "maintenance/hour", number, block)
        start = self._put_off(night, incidents)
        down = start + 20 * 60
        up = down + 60 * (10 + random.choice(20, "maintenance/reboot", number, block))
        renews = np.broadcast_to((block + fleet.number[:, None]) % RENEWED_EVERY == 0, start.shape)
        there = start >= (begin if fleet.start is None else max(begin, fleet.start))
        machine = np.broadcast_to(np.arange(len(fleet))[:, None], start.shape)
        return Maintenance(machine[there], start[there], down[there], up[there], renews[there])

    def _put_off(self, planned: Ints, incidents: Incidents) -> Ints:
        """Nobody takes down a machine in trouble for planned work: it waits until an hour after."""
        moved = planned.copy()
        first = np.searchsorted(incidents.machine, np.arange(len(self._fleet) + 1))
        for row in range(len(self._fleet)):
            own = slice(first[row], first[row + 1])
            for start, end in zip(incidents.start[own], incidents.end[own], strict=True):
                # In order of time, so that one put off into the next incident is put off again.
                inside = (moved[row] >= start) & (moved[row] < end)
                moved[row] = np.where(inside, end + HOUR, moved[row])
        return moved
