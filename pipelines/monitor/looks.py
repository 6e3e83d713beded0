"""Single looks of a check: windows of columns, realised and estimated quality. Reads, and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipelines.adapters.lake import Lake
from pipelines.errors import LakeError
from pipelines.monitor.champion import Champion, inputs_of
from pipelines.monitor.records import Check, Figures, Late, Scored
from pipelines.references import Window

if TYPE_CHECKING:
    from models.base import Answers, Observations
    from models.specs import ModelSpec
    from pipelines.monitor import band
    from pipelines.monitor.drift import Finding
    from pipelines.monitor.observe import Observed
    from pipelines.monitor.reference import Kept
    from pipelines.monitor.served import Labelled
    from pipelines.settings import Settings


def windowed(
    champion: Champion, kept: Kept, part: str, columns: Mapping[str, Any], times: Any, end: datetime, length: timedelta
) -> list[Finding]:  # fmt: skip
    import numpy as np

    from pipelines.monitor import drift
    from pipelines.monitor.observe import hours_since
    from pipelines.monitor.reference import window_of

    window = Window(start=end - length, end=end)
    hours = int(length // timedelta(hours=1))
    first = np.datetime64(window.start.replace(tzinfo=None), "us")
    hour = hours_since(np.asarray(times, dtype="datetime64[us]"), first)
    reference = getattr(kept, part)
    binned = window_of(reference, columns, hour // kept.bin_hours, hours // kept.bin_hours)
    importance = kept.importance if part == "features" else {}
    return drift.check(reference, binned, kept.phase(window), champion.spec.monitor.drift, importance)


def labelled(
    champion: Champion, kept: Kept, end: datetime, settings: Settings
) -> tuple[list[Finding], Figures]:
    """Targets that are known by now, of a window as long as the longest before the label horizon, and realised quality."""
    import numpy as np
    import polars as pl

    from models.base import Observations, builder_of
    from models.targets import PREFIX
    from pipelines.monitor import band
    from pipelines.monitor.observe import observe, truths
    from pipelines.monitor.quality import broken_floors

    spec, longest = champion.spec, max(champion.spec.monitor.drift.windows)
    lag = label_lag(spec)
    window = Window(start=end - lag - longest, end=end - lag)
    observed = observe(spec, champion.profile, window, settings)
    if not observed.rows.height:
        return [], Figures()
    known = truths(spec, champion.profile, observed, Window(start=window.start, end=end), settings)
    targets = {
        name: known[name].cast(pl.Float64).to_numpy() for name in known.columns if name.startswith(PREFIX)
    }
    times = known["event_time"].dt.replace_time_zone(None).to_numpy()
    findings = windowed(champion, kept, "targets", targets, times, window.end, longest)
    columns = inputs_of(champion, known)
    labelled = (
        np.all([np.isfinite(values) for values in targets.values()], axis=0) if targets else np.zeros(0, bool)
    )
    if columns is None or labelled.sum() < spec.monitor.min_labels:
        return findings, Figures(rows=int(labelled.sum()))
    part = Observations(
        columns,
        {name.removeprefix(PREFIX): values for name, values in targets.items()},
        np.ones(known.height),
        known[observed.entity].to_numpy(),
        times,
    ).rows(labelled)
    task, answers = builder_of(spec).task(spec), champion.predictor.predict(part.columns)
    values = task.metrics(part, answers)
    positives = task.positives(part)
    if positives is not None and positives < spec.gate.min_positives:
        return findings, Figures(values=values, rows=int(labelled.sum()))
    floors = spec.monitor.floors or spec.gate.bounds
    now = band.strays(task, part, answers, floors, settings.random_seed)
    return findings, Figures(
        values=values,
        errors={name: each.error for name, each in now.items()},
        rows=int(labelled.sum()),
        below=broken_floors(values, floors),
        fallen=band.fallen(_usual(champion, settings), now, floors),
    )


def _usual(champion: Champion, settings: Settings) -> dict[str, band.Stray]:
    """The champion's quality on its own holdout; worked out once per version, and kept beside its reference."""
    import json
    from dataclasses import asdict

    from models.base import builder_of
    from pipelines.monitor import band

    lake, path = (
        Lake.of(settings),
        f"monitor/references/{champion.name}/{champion.version.version}/usual-1.json",
    )
    try:
        told = json.loads(lake.read_object(lake.address(path)))
        return {name: band.Stray(**each) for name, each in told.items()}
    except LakeError:
        pass  # the version's first check
    spec, part = champion.spec, _holdout(champion, settings)
    floors = spec.monitor.floors or spec.gate.bounds
    answers = champion.predictor.predict(part.columns)
    usual = band.strays(builder_of(spec).task(spec), part, answers, floors, settings.random_seed)
    lake.write_object(path, json.dumps({name: asdict(each) for name, each in usual.items()}).encode())
    return usual


def _holdout(champion: Champion, settings: Settings) -> Observations:
    """Rows that the version was judged by, with the inputs that it takes."""
    from pipelines.snapshot.job import load
    from pipelines.snapshot.parts import observations

    rows, manifest = load(champion.training.snapshot, settings)
    return observations(rows, "holdout", manifest.entity, manifest.inputs)


def served(
    champion: Champion, grid: Figures, entity: str, window: Window, settings: Settings
) -> tuple[Figures, tuple[str, ...]]:
    """Realised quality of what callers were told, where enough of it is labelled, and training-serving skew.

    Args:
        grid: What to say where it is not.
    """
    from pipelines.monitor import served

    spec = champion.spec
    whole = _answered(spec, window)
    rows = served.predictions(champion.name, champion.version.version, whole, settings)
    if rows is None or not rows.height:
        return grid, ()
    skewed = served.skew(rows, spec, champion.profile, entity, settings)
    known = served.labelled(rows, champion.name, spec, champion.profile, entity, whole, settings)
    if known is None or len(known.part) < spec.monitor.min_labels:
        return grid, skewed
    return _figures(known, spec), skewed


def late(champion: Champion, earlier: Sequence[Check], window: Window, settings: Settings) -> Late:
    """Realised quality of answers that are too old for :func:`served`, whose labels came since it was last looked for.

    Labels wait until there are enough of them.

    Args:
        earlier: Checks of the same version, oldest first.
        window: The check's longest.
    """
    from pipelines.monitor import served

    spec, last = champion.spec, earlier[-1].late if earlier else Late()
    stands = last.at is not None and last.at > window.start
    before = _answered(spec, window).start
    known, newest = served.late(champion.name, champion.version.version, spec, before, last.seen, settings)
    if known is None:
        return last.model_copy(update={"seen": newest}) if stands else Late(seen=newest)
    if len(known.part) < spec.monitor.min_labels:
        return last if stands else Late(seen=last.seen)
    return Late(figures=_figures(known, spec), at=window.end, seen=newest)


def _answered(spec: ModelSpec, window: Window) -> Window:
    """When answers were given that a check's realised quality is of."""
    return Window(start=window.start - label_lag(spec), end=window.end)


def _figures(known: Labelled, spec: ModelSpec) -> Figures:
    from models.base import builder_of
    from pipelines.monitor.quality import broken_floors

    task = builder_of(spec).task(spec)
    values, positives = task.metrics(known.part, known.answers), task.positives(known.part)
    enough = positives is None or positives >= spec.gate.min_positives
    return Figures(
        values=values,
        rows=len(known.part),
        below=broken_floors(values, spec.monitor.floors or spec.gate.bounds) if enough else (),
        of="served",
        duplicates=known.duplicates,
        contradictions=known.contradictions,
    )


def label_lag(spec: ModelSpec) -> timedelta:
    """How long ago labels are whole: the horizon in whole days, so that hours stay in phase."""
    return -(-spec.target.horizon // timedelta(days=1)) * timedelta(days=1)


def scored(realised: Figures, earlier: Sequence[Check], end: datetime) -> tuple[Scored, ...]:
    """Estimates of the check whose window ended at ``end``, beside what came of the same observations.

    Args:
        realised: On the grid, of the window that ended there.
        earlier: Checks of the same version.
    """
    before = next((each for each in earlier if each.window.end == end), None)
    if before is None or not realised.values:
        return ()
    return tuple(
        Scored(
            metric=name,
            window_end=end,
            estimated=value,
            realised=realised.values[name],
            error=before.estimated.errors.get(name),
        )
        for name, value in before.estimated.values.items()
        if name in realised.values
    )


def estimated(champion: Champion, observed: Observed, answers: Answers, settings: Settings) -> Figures:
    """Quality before labels are known: CBPE of probabilities, DLE of figures."""
    import numpy as np

    from models.base import Observations, builder_of
    from models.specs import Classification, Forecast
    from pipelines.monitor import quality

    spec = champion.spec
    if not answers:
        return Figures()
    floors, count = spec.monitor.floors or spec.gate.bounds, observed.rows.height
    if isinstance(spec.task, Classification) and "probability" in answers:
        part = Observations({}, {}, np.ones(count), observed.rows[observed.entity].to_numpy())
        estimate = quality.confidence_based(
            builder_of(spec).task(spec), part, answers, spec.target.names[0], settings.random_seed
        )
    elif isinstance(spec.task, Forecast) and spec.task.output in answers:
        holdout = _holdout(champion, settings)
        names = [field.name for field in champion.predictor.manifest.inputs]
        past = {name: holdout.columns[name] for name in names}
        said = champion.predictor.predict(past)[spec.task.output]
        truth = holdout.targets[spec.task.target]
        seen = np.isfinite(truth)
        losses = quality.learn_losses(
            {name: values[seen] for name, values in past.items()},
            said[seen],
            truth[seen],
            settings.random_seed,
        )
        now = inputs_of(champion, observed.rows)
        estimate = quality.direct_loss(losses, now or {}, answers[spec.task.output])
    else:
        return Figures()
    return Figures(
        values=estimate.values,
        errors=estimate.errors,
        rows=count,
        below=quality.broken_floors(estimate.values, floors, estimate.errors),
    )
