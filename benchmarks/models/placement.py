"""placement: a day and a half of real requests replayed on a cluster, by predictions learned from the days before.

The lifetimes of ``azure_vm_requests`` cover one segment of 83 hours (more, where the file has more).
The predictor learns from the first half of it, as it was known at the cut: a machine that ran then is
censored then. All machines that run after the cut are replayed: those that ran at the cut are placed
there first, in the order of their creation; then each as it comes. Every policy sees the same
requests, hosts and constraints. Where the file has several segments with lifetimes, the newest is
replayed and all before it are learned from.

Hosts have 40 cores and 256 GiB, and the cluster as many as the peak demand fills to 70 %. *Random* takes any
allowed host of the cluster with equal chance; *random, occupied first* does so among the occupied
ones and opens an empty one only where it must. Zones, labels and groups are drawn per batch
(:mod:`models.placement.scenario`), because the trace has none.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.models.prepare_azure_vm_requests import Stream, prepare
from benchmarks.models.table import Row
from feature_repo.transformations import telemetry_features
from models.base import Observations, builder_of
from models.manifest import FieldType, InputField
from models.placement.lifetimes import Lifetimes
from models.placement.replay import (
    BestFit,
    ByLifetime,
    Clairvoyant,
    Cluster,
    Outcome,
    Policy,
    RandomHost,
    Requests,
    least_host_hours,
    replay,
    violations,
)
from models.placement.scenario import cluster_for, with_constraints
from models.placement.spec import SPEC
from models.placement.task import KNOTS, LIFETIME, LOWER, SHARES, UPPER, log2_error
from models.plots import BLUE, GREY, ORANGE
from models.specs import ModelSpec
from models.targets import Table
from pipelines.snapshot.parts import observations
from pipelines.sources.profile import load_profile

SEED = 7
HOST_CORES, HOST_MEMORY_GIB = 40.0, 256.0
UTILISATION = 0.7
OTHER_UTILISATIONS = (0.5, 0.85)
LEARNED_SHARE = 0.52  # of the one segment's span
VALID_SHARE = 0.15  # of the learned span, its end
QUICK_SHARE = 0.15  # of the batches
MODEL, DATA = "placement", "azure_vm_requests"


@dataclass(frozen=True)
class Scene:
    """What is replayed, with the predictions for it, and what they were learned from."""

    requests: Requests
    lifetimes: Lifetimes
    cluster: Cluster
    start: float
    end: float
    train: Observations
    judged: Observations
    answers: Mapping[str, NDArray]
    seconds: float


def run(data: Path, folder: Path, quick: bool) -> list[Row]:
    """Rows of the table; a figure is saved in the folder. ``quick`` replays a sample of the batches."""
    stream = prepare(pl.read_parquet(data / DATA / "requests.parquet"))
    scene = scene_of(_sampled(stream) if quick else stream)
    policies: list[Policy] = [
        RandomHost(SEED),
        RandomHost(SEED, occupied_first=True),
        Policy(),
        BestFit(),
        ByLifetime(scene.lifetimes),
        Clairvoyant(),
    ]
    outcomes, seconds = {}, {}
    for policy in policies:
        begin = time.perf_counter()
        outcomes[policy.name] = replay(scene.requests, scene.cluster, policy, scene.start, scene.end)
        seconds[policy.name] = time.perf_counter() - begin
    _plot(scene, outcomes, folder / "placement_hosts.png")
    return _rows(scene, outcomes, seconds)


def scene_of(stream: Stream) -> Scene:
    """Fit on what was known at the cut, answer for all that runs after it, and draw cluster and constraints."""
    profile = load_profile(DATA)
    spec = profile.spec_of(SPEC)
    dataset = profile.dataset("vm_requests")
    begin = time.perf_counter()
    names = list(stream.ends)
    first = stream.requests["event_time"].min()
    end = stream.ends[names[-1]]
    assert isinstance(first, datetime)
    cut = first + LEARNED_SHARE * (end - first) if len(names) == 1 else stream.ends[names[-2]]

    arrived = stream.requests.with_columns(
        slice_start=pl.col("event_time").dt.truncate("1d"), ordinal=pl.int_range(pl.len())
    )
    features = telemetry_features(arrived.lazy(), dataset, profile.grid(spec.grid)).collect()
    features = stream.requests.select("vm_id").join(features, on="vm_id", maintain_order="left")
    inputs = tuple(
        InputField(name=name, type=FieldType.DOUBLE, required=False)
        for name in features.columns
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in spec.inputs)
    )
    events = {"vm_events": Table(profile.dataset("vm_events"), stream.events.lazy())}
    learned = _labelled(features.filter(pl.col("event_time") < cut), spec, events, cut, inputs)
    valid_from = np.datetime64((cut - VALID_SHARE * (cut - first)).replace(tzinfo=None))
    train, valid = learned.rows(learned.time < valid_from), learned.rows(learned.time >= valid_from)
    builder = builder_of(spec)
    fitted = builder.fit(train, valid, inputs, builder.default_params(), SEED, spec)

    everything = _labelled(features, spec, events, end, inputs)
    last = stream.segment == names[-1] if len(names) > 1 else np.ones(len(features), dtype=bool)
    asked = everything.rows(last)
    answers = fitted.answer(asked)
    told = np.stack([answers[name] for name in (LOWER, LIFETIME, UPPER)], axis=1)
    created = (asked.time - np.datetime64(first.replace(tzinfo=None))) / np.timedelta64(3600, "s")
    requests = with_constraints(
        Requests.unconstrained(
            created,
            np.where(asked.targets["observed"] > 0, asked.targets["hours"], np.inf),
            asked.columns["cores__last"],
            asked.columns["memory_gib__last"],
        ),
        stream.batch[last],
        SEED,
    )
    start, until = ((moment - first).total_seconds() / 3600 for moment in (cut, end))
    later = asked.time >= np.datetime64(cut.replace(tzinfo=None))
    return Scene(
        requests=requests,
        lifetimes=Lifetimes.of_quantiles(told, SHARES, KNOTS),
        cluster=cluster_for(requests, start, until, HOST_CORES, HOST_MEMORY_GIB, UTILISATION, SEED),
        start=start,
        end=until,
        train=learned,
        judged=asked.rows(later),
        answers={name: values[later] for name, values in answers.items()},
        seconds=time.perf_counter() - begin,
    )


def _labelled(
    features: pl.DataFrame,
    spec: ModelSpec,
    events: Mapping[str, Table],
    known_until: datetime,
    inputs: tuple[InputField, ...],
) -> Observations:
    """Features with lifetimes as they were known at a moment, in the order of the features."""
    labelled = spec.target.attach(features.select("vm_id", "event_time"), "vm_id", events, known_until)
    rows = features.join(labelled, on=["vm_id", "event_time"], maintain_order="left")
    return observations(rows.with_columns(part=pl.lit("all"), weight=1.0), "all", "vm_id", inputs)


def _sampled(stream: Stream) -> Stream:
    """A share of the batches; histories stay those of the whole stream."""
    batch = stream.batch + 10**6 * np.unique(stream.segment.astype(str), return_inverse=True)[1]
    numbers = np.unique(batch)
    kept = np.isin(batch, numbers[np.random.default_rng(SEED).random(len(numbers)) < QUICK_SHARE])
    requests = stream.requests.filter(pl.Series(kept))
    return Stream(
        requests,
        stream.events.join(requests.select("vm_id"), on="vm_id", how="semi"),
        stream.batch[kept],
        stream.segment[kept],
        stream.ends,
    )


def _rows(scene: Scene, outcomes: Mapping[str, Outcome], seconds: Mapping[str, float]) -> list[Row]:
    random, fit, ours, best = (
        outcomes[name] for name in ("random", "best fit", "by predicted lifetime", "true lifetimes")
    )
    least = least_host_hours(scene.requests, scene.cluster, scene.start, scene.end)
    broken = violations(scene.requests, scene.cluster, ours.host, scene.start)
    took = scene.seconds + seconds["by predicted lifetime"]
    where = f"{len(scene.cluster)} hosts of {HOST_CORES:g} cores and {HOST_MEMORY_GIB:g} GiB, {UTILISATION:.0%} full at the peak"

    def row(metric: str, baseline: float | None, figure: float, note: str, **more: object) -> Row:
        return Row(MODEL, DATA, metric, baseline, figure, took, note=note, **more)  # type: ignore[arg-type]

    low, high = saved_share(fit, ours)
    stranded = ours.stranded_core_hours
    rows = [
        row(
            "stranded core-hours", random.stranded_core_hours, stranded,
            f"random allowed host; {where}; hosts or stranded capacity: either reaches the target",
            target="2x less than random", reached=2 * stranded <= random.stranded_core_hours,
        ),
        row(
            "host-hours", random.host_hours, ours.host_hours, f"random allowed host; {where}",
            target="2x less than random, or the row above", reached=2 * ours.host_hours <= random.host_hours or None,
        ),
    ]  # fmt: skip
    for utilisation in OTHER_UTILISATIONS:
        cluster = cluster_for(
            scene.requests, scene.start, scene.end, HOST_CORES, HOST_MEMORY_GIB, utilisation, SEED
        )
        other = replay(scene.requests, cluster, RandomHost(SEED), scene.start, scene.end)
        mine = replay(scene.requests, cluster, ByLifetime(scene.lifetimes), scene.start, scene.end)
        note = f"random allowed host; {len(cluster)} hosts, {utilisation:.0%} full at the peak; refused {other.refused}, {mine.refused}"
        rows.append(row("host-hours", other.host_hours, mine.host_hours, note))
        rows.append(row("stranded core-hours", other.stranded_core_hours, mine.stranded_core_hours, note))
    occupied, first = outcomes["random, occupied first"], outcomes["first fit"]
    rows += [
        row("host-hours", occupied.host_hours, ours.host_hours, "random among occupied hosts first"),
        row("host-hours", first.host_hours, ours.host_hours, "first fit"),
        row(
            "host-hours", fit.host_hours, ours.host_hours,
            f"best fit without predictions; saved {1 - ours.host_hours / fit.host_hours:.2%} "
            f"({low:.2%} … {high:.2%} over blocks of 6 h)",
            target="less than best fit", reached=ours.host_hours < fit.host_hours,
        ),
        row(
            "stranded core-hours", fit.stranded_core_hours, stranded, "best fit without predictions",
            target="less than best fit", reached=stranded < fit.stranded_core_hours,
        ),
        row("peak hosts", float(fit.peak_hosts), float(ours.peak_hosts), "best fit without predictions"),
        row("mean share of empty hosts, higher is better", fit.empty_share, ours.empty_share, "best fit without predictions"),
        row(
            "regret in host-hours", fit.host_hours - best.host_hours, ours.host_hours - best.host_hours,
            f"beyond the greedy choice with true lifetimes ({best.host_hours:.0f} h); no placement needs less than {least:.0f} h",
        ),
        row(
            "constraint violations", None, float(sum(broken.values())),
            f"in {ours.placed} placements, audited from the log; {ours.refused} requests refused, "
            f"by best fit {fit.refused}, by random {random.refused}",
            target="0 in 100,000 placements", reached=not any(broken.values()) and ours.placed >= 100_000,
        ),
        _lifetime_row(scene),
    ]  # fmt: skip
    return rows


def _lifetime_row(scene: Scene) -> Row:
    builder = builder_of(SPEC)
    task, judged = builder.task(SPEC), scene.judged
    by_size = task.baselines(scene.train, judged, ())["median of the same size"]
    error = float(np.mean(log2_error(judged, scene.answers[LIFETIME])))
    seen = judged.targets["observed"] > 0
    hours = judged.targets["hours"]
    within = (hours >= scene.answers[LOWER]) & (hours <= scene.answers[UPPER])
    return Row(
        MODEL,
        DATA,
        "lifetime, mean absolute log2 error",
        float(np.mean(log2_error(judged, by_size[LIFETIME]))),
        error,
        scene.seconds,
        coverage=float(np.mean(within[seen])),
        note=f"median of the same size; {len(judged)} machines after the cut; coverage of the 80 % interval where the end was seen",
    )


def saved_share(theirs: Outcome, ours: Outcome) -> tuple[float, float]:
    """95 % interval of the share of host-hours saved, by a bootstrap of whole blocks of 6 hours."""
    grid = np.arange(theirs.times[0], theirs.times[-1], 0.25)
    used = [np.interp(grid, each.times, each.occupied) for each in (theirs, ours)]
    block = ((grid - grid[0]) // 6).astype(np.int64)
    sums = np.stack([np.bincount(block, weights=values) for values in used])
    drawn = np.random.default_rng(SEED).integers(0, sums.shape[1], (2000, sums.shape[1]))
    totals = sums[:, drawn].sum(axis=2)
    low, high = np.quantile(1 - totals[1] / totals[0], [0.025, 0.975])
    return float(low), float(high)


def _plot(scene: Scene, outcomes: Mapping[str, Outcome], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    styles = {
        "random": (GREY, ":"),
        "best fit": (ORANGE, "-"),
        "by predicted lifetime": (BLUE, "-"),
        "true lifetimes": ("#009E73", "--"),
    }
    for name, (colour, line) in styles.items():
        found = outcomes[name]
        above.plot(found.times - scene.start, found.occupied, color=colour, linestyle=line, label=name)
    above.axhline(len(scene.cluster), color=GREY, linewidth=0.7)
    above.set(
        ylabel="Hosts that run a machine", title=f"{DATA}: hosts in use, cluster of {len(scene.cluster)}"
    )
    above.legend(frameon=False, ncols=2)
    best = outcomes["true lifetimes"]
    for name in ("best fit", "by predicted lifetime"):
        found = outcomes[name]
        regret = found.occupied - np.interp(found.times, best.times, best.occupied)
        below.plot(found.times - scene.start, regret, color=styles[name][0], label=name)
    below.axhline(0, color=GREY, linewidth=0.7)
    below.set(xlabel="Hours of replay", ylabel="Hosts beyond\ntrue lifetimes")
    figure.savefig(path, dpi=120)
