"""Autoscalers replayed on series of load: a reactive one beside the policy of ``scaling``.

Replicas start late, by the same time for everyone and with the same capacity, and both autoscalers decide
each minute (each 5 minutes where there is no finer load) and read the load of that minute. The reactive
one follows the Kubernetes horizontal pod autoscaler: it asks for load over capacity and target
utilisation, with its tolerance of 10 % and the largest request of the last 5 minutes for scaling in. It is
run for all targets from 0.50 to 1.00, so that ours is never compared with a badly chosen one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations
from models.manifest import InputField
from models.scaling.policy import Outlook, ScalingPolicy, Situation, desired_replicas
from models.specs import ModelSpec
from models.targets import ValuesAhead

REPLICAS_AT_PEAK = 30
#: Minutes from asking for a replica to its first request: a virtual machine, and one that has caches to fill.
STARTUPS = (10, 25)
FORECAST_EVERY = np.timedelta64(5, "m")
STABILISATION_MINUTES = 5
TOLERANCE = 0.1
REACTIVE_TARGETS = tuple(np.arange(50, 101) / 100)
HEADROOMS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
USUAL_TARGET = 0.7


@dataclass(frozen=True)
class Series:
    """One series: its rows with features and targets, and its load at the finest step there is.

    Attributes:
        rows: One per grid time and step ahead.
        at: Ends of the spans of ``load``, shape (m,).
        load: Shape (m,), in the unit of the features.
        step_minutes: Spacing of ``at``.
    """

    name: str
    rows: Observations
    inputs: tuple[InputField, ...]
    spec: ModelSpec
    at: NDArray[np.datetime64]
    load: Array
    step_minutes: int


@dataclass(frozen=True)
class Tested:
    """Answers on a stretch of time, and what the policy was told in it.

    Attributes:
        outlooks: By step that was asked for; one entry per time.
        outlook_times: Shape (m,), rising.
    """

    rows: Observations
    answers: Answers
    outlooks: Mapping[int, Outlook]
    outlook_times: NDArray[np.datetime64]
    seconds: float


@dataclass(frozen=True)
class Provision:
    """What an autoscaler did to a series.

    Attributes:
        short_minutes: Minutes in which the load exceeded the capacity of the replicas that had started.
        replica_minutes: Of all replicas, starting ones included.
    """

    short_minutes: float
    replica_minutes: float


def steps_of(spec: ModelSpec) -> int:
    assert isinstance(spec.target, ValuesAhead)
    return spec.target.steps


def step_for(startup: int, spec: ModelSpec) -> int:
    """The nearest step by which replicas have started and the next forecast has been made."""
    step_minutes = spec.target.horizon.total_seconds() / 60 / steps_of(spec)
    minutes = startup + FORECAST_EVERY / np.timedelta64(1, "m")
    return min(steps_of(spec), int(np.ceil(minutes / step_minutes)))


def reactive(
    series: Series, targets: tuple[float, ...], capacity: float, first: int, last: int
) -> list[Array]:
    """Replicas asked for in each span of ``first … last - 1``, one array per target utilisation."""
    target = np.asarray(targets)
    asked = np.full(len(targets), _start(series, capacity, first))
    hold = max(1, STABILISATION_MINUTES // series.step_minutes)
    recent = np.tile(asked, (hold, 1))
    history = []
    for place in range(first, last):
        history.append(asked)
        load = series.load[place]
        if np.isnan(load):
            continue
        use = load / capacity / asked
        wanted = np.where(
            np.abs(use / target - 1) <= TOLERANCE, asked, np.ceil(load / capacity / target).clip(1)
        )
        recent = np.vstack([recent[1:], wanted])
        asked = np.where(wanted > asked, wanted, np.minimum(asked, recent.max(axis=0)))
    return list(np.stack(history).T)


def predictive(
    series: Series, tested: Tested, policy: ScalingPolicy, startup: int, first: int, last: int
) -> list[Array]:
    """The same of the policy, one array per headroom of ``HEADROOMS``."""
    count, headroom = len(HEADROOMS), np.asarray(HEADROOMS)
    # One call for all: the headroom goes into the upper end instead of the policy.
    planned = policy.model_copy(update={"headroom": 1.0})
    outlook = tested.outlooks[step_for(startup, series.spec)]
    newest = np.searchsorted(tested.outlook_times, series.at[first:last], side="right") - 1
    asked = np.full(count, _start(series, policy.capacity_per_replica, first))
    idle, unsaid = np.full(count, np.inf), np.full(count, np.nan)
    history = []
    for place, row in enumerate(newest, start=first):
        history.append(asked)
        idle = idle + series.step_minutes
        stale = row < 0 or series.at[place] - tested.outlook_times[row] >= FORECAST_EVERY
        now = series.load[place]
        if stale or np.isnan(now):
            continue
        forecast, upper = outlook.forecast[row], outlook.upper[row]
        seen = Outlook(
            np.full(count, now),
            np.full(count, forecast),
            np.full(count, outlook.lower[row]),
            forecast + headroom * (upper - forecast),
            outlook.coverage,
        )
        wanted = desired_replicas(planned, seen, Situation(asked, idle, unsaid, unsaid, unsaid))
        idle = np.where(wanted != asked, 0.0, idle)
        asked = wanted.astype(np.float64)
    return list(np.stack(history).T)


def _start(series: Series, capacity: float, first: int) -> float:
    """Replicas that everyone begins with: what the load before the first span needs at the usual target."""
    return max(1.0, float(np.ceil(np.nan_to_num(series.load[first - 1]) / capacity / USUAL_TARGET)))


def provision(series: Series, asked: Array, capacity: float, startup: int, first: int) -> Provision:
    """What it came to: replicas serve when they have started, and cost from when they are asked for."""
    late = startup // series.step_minutes
    padded = np.concatenate([np.full(late, asked[0]), asked])
    ready = np.lib.stride_tricks.sliding_window_view(padded, late + 1).min(axis=1)
    load = series.load[first : first + len(asked)]
    short = float(np.sum(load > ready * capacity)) * series.step_minutes
    return Provision(short, float(np.sum(asked)) * series.step_minutes)


@dataclass(frozen=True)
class Replays:
    """Both curves over the tested stretch; the capacity is the same for both.

    Attributes:
        needed: Replica-minutes of an oracle that has just the fraction of replicas that the load fills.
        hours: Length of the stretch.
    """

    startup: int
    reactive: dict[float, Provision]
    ours: dict[float, Provision]
    needed: float
    hours: float
    policy: ScalingPolicy
    seconds: float


def replayed(series: Series, tested: Tested, startup: int) -> Replays:
    begin = time.perf_counter()
    first = int(np.searchsorted(series.at, tested.outlook_times[0])) + 1
    last = int(np.searchsorted(series.at, tested.outlook_times[-1])) + 1
    load = series.load[first:last]
    capacity = float(np.nanquantile(load, 0.99)) / REPLICAS_AT_PEAK
    policy = ScalingPolicy(capacity_per_replica=capacity, max_replicas=100 * REPLICAS_AT_PEAK)

    def provisions(names: tuple[float, ...], asked: list[Array]) -> dict[float, Provision]:
        return {
            name: provision(series, each, capacity, startup, first)
            for name, each in zip(names, asked, strict=True)
        }

    return Replays(
        reactive=provisions(REACTIVE_TARGETS, reactive(series, REACTIVE_TARGETS, capacity, first, last)),
        ours=provisions(HEADROOMS, predictive(series, tested, policy, startup, first, last)),
        startup=startup,
        needed=float(np.nansum(load)) / capacity * series.step_minutes,
        hours=len(load) * series.step_minutes / 60,
        policy=policy,
        seconds=time.perf_counter() - begin,
    )
