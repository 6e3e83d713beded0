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
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.table import Row
from models.base import Answers, Array, Observations
from models.manifest import InputField
from models.plots import BLUE, GREY
from models.scaling.policy import Outlook, ScalingPolicy, Situation, desired_replicas
from models.specs import ModelSpec
from models.targets import ValuesAhead

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPLICAS_AT_PEAK = 30
#: Minutes from asking for a replica to its first request: a virtual machine, and one that has caches to fill.
STARTUPS = (10, 25)
FORECAST_EVERY = np.timedelta64(5, "m")
STABILISATION_MINUTES = 5
TOLERANCE = 0.1
REACTIVE_TARGETS = tuple(np.arange(50, 101) / 100)
HEADROOMS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
USUAL_TARGET = 0.7
_TENTHS = (0.5, 0.6, 0.7, 0.8, 0.9)


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


def policy_rows(series: Series, replays: Replays) -> list[Row]:
    """The policy as it is by default, beside the reactive targets nearest to it from either side."""
    ours = replays.ours[replays.policy.headroom]
    # No cheaper than ours: of these the cheapest. Ours has to have fewer short minutes as well.
    dearer = {t: each for t, each in replays.reactive.items() if each.replica_minutes >= ours.replica_minutes}
    matched = min(dearer, key=lambda target: dearer[target].replica_minutes, default=None)
    safer = {t: each for t, each in replays.reactive.items() if each.short_minutes <= ours.short_minutes}
    safe = min(safer, key=lambda target: safer[target].replica_minutes, default=None)
    what = f"{series.name}, replay of {replays.hours:.0f} h, replicas start after {replays.startup} min"
    beaten = [
        target
        for target in _TENTHS
        if any(_beats(each, replays.reactive[target]) for each in replays.ours.values())
    ]
    curve = f"of the reactive targets {_TENTHS[0]:g} to {_TENTHS[-1]:g} a headroom of ours is below both in {len(beaten)} of {len(_TENTHS)}"
    rows: list[Row] = []
    if matched is not None:
        other = replays.reactive[matched]
        rows.append(
            Row(
                model="scaling",
                data=what,
                metric="under-provisioned minutes",
                baseline=other.short_minutes,
                ours=ours.short_minutes,
                target="minutes and cost below reactive's",
                reached=_beats(ours, other),
                seconds=replays.seconds,
                note=f"reactive target {matched:.2f}, the cheapest that costs as much or more: "
                f"{other.replica_minutes / replays.needed:.3f} of the replica-minutes filled by the load, "
                f"ours {ours.replica_minutes / replays.needed:.3f}; {curve}",
            )
        )
    if safe is not None:
        rows.append(
            Row(
                model="scaling",
                data=what,
                metric="replica-minutes over those that the load fills",
                baseline=replays.reactive[safe].replica_minutes / replays.needed,
                ours=ours.replica_minutes / replays.needed,
                seconds=replays.seconds,
                note=f"reactive target {safe:.2f}, the cheapest that is short no longer than ours "
                f"({replays.reactive[safe].short_minutes:.0f} min, ours {ours.short_minutes:.0f})",
            )
        )
    return rows


def _beats(ours: Provision, other: Provision) -> bool:
    """Both below, or none short at all and ours cheaper."""
    cheaper = ours.replica_minutes < other.replica_minutes
    return cheaper and (
        ours.short_minutes < other.short_minutes or ours.short_minutes == other.short_minutes == 0
    )


def plot_curves(axis: Axes, replays: Replays) -> None:
    for label, colour, curve in (
        (f"reactive: target {REACTIVE_TARGETS[-1]:g} … {REACTIVE_TARGETS[0]:g}", GREY, replays.reactive),
        (f"ours: headroom {HEADROOMS[0]:g} … {HEADROOMS[-1]:g}", BLUE, replays.ours),
    ):
        points = sorted(curve.values(), key=lambda each: each.replica_minutes)
        axis.plot(
            [each.replica_minutes / replays.needed for each in points],
            [each.short_minutes / replays.hours for each in points],
            marker=".",
            color=colour,
            label=label,
        )
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("replica-minutes over those that the load fills")
    axis.set_ylabel("under-provisioned minutes an hour")
    axis.set_title(f"replicas start after {replays.startup} min")
    axis.legend(fontsize="small")
