"""monitor: look at the version in production, write down what was seen, and ask for a training where it is due.

A check is named by version and window: run again, it finds itself and adds nothing. The check is kept
before a training is asked for, and asking names the check, so a run that is killed in between asks when it
is run again, once.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapters.lake import Lake
from pipelines.errors import BrokenDataError, MonitorError
from pipelines.monitor import checks, label_door, page, requests
from pipelines.monitor.champion import Champion, answers_of, loaded
from pipelines.monitor.looks import estimated as estimate
from pipelines.monitor.looks import label_lag, labelled, late, scored, served, windowed
from pipelines.monitor.records import Cause, Check
from pipelines.monitor.retrain import unripe
from pipelines.references import Reference, Window

if TYPE_CHECKING:
    from models.base import Answers
    from models.specs import ModelSpec
    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.monitor.drift import Finding
    from pipelines.monitor.observe import Observed
    from pipelines.monitor.reference import Kept
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

log = logging.getLogger(__name__)


class CheckRef(Reference):
    """What a run of monitor found.

    Attributes:
        request: Number of the open request to train, whoever made it; None: there is none, or it waits until what
            changed can be learned.
    """

    registered_name: str
    version: str
    window: Window
    cause: Cause
    alarm: bool
    drift_score: float | None
    reason: str
    request: int | None
    report_url: str | None = None


def run(model: str, end: datetime, settings: Settings, source: str | None = None) -> CheckRef:
    """Check the version that is in production, over the windows that end at ``end``.

    Args:
        end: Whole hour, UTC; "now" to everything in here.
        source: Profile; None: the configured one.

    Raises:
        MonitorError: there is no version in production, or it has no lineage to compare with.
        BrokenDataError: data are broken. The check is written down; no training is asked for.
    """
    from models.catalogue import find
    from pipelines.adapters.registry import Registry
    from pipelines.sources.profile import load_profile, registered_name

    profile = load_profile(source or settings.source)
    spec = profile.spec_of(find(model))
    name = registered_name(spec, profile, settings.source)
    lake = Lake.of(settings)
    label_door.ship(settings)
    took = label_door.take_files(name, spec.target.names, end, settings)
    if took.taken or took.refused:
        log.info("labels: %d rows from %d files; %d files refused", took.rows, took.taken, took.refused)
    with Registry(settings.tracking) as registry:
        version = registry.alias_version(name, "production")
        if version is None:
            raise MonitorError(f"{name} has no version in production to watch: train and promote one first")
        known: Check | None = next(
            (each for each in checks.read(lake, name, version.version) if each.window.end == end), None
        )
        if known is not None and not known.broken:
            return _told(known, lake, spec, settings)
        # Broken data may be mended by now; as long as they are not, the first look stands.
        check = _look(version, spec, profile, end, settings, registry)
        if known is not None:
            check = check.model_copy(update={"attempt": known.attempt + 1})
        if known is None or not check.broken:
            check = checks.keep(lake, check)
    return _told(check, lake, spec, settings)


def _told(check: Check, lake: Lake, spec: ModelSpec, settings: Settings) -> CheckRef:
    """Act on a check, and write the page that tells of it, whatever it found."""
    try:
        return _act(check, lake, spec.target.horizon)
    finally:
        page.write(check.registered_name, settings)


def _act(check: Check, lake: Lake, horizon: timedelta) -> CheckRef:
    """Ask for a training where the check says so, once, and tell."""
    if check.triggers:
        requests.ask(
            lake,
            check.registered_name,
            work=check.work,
            triggers=check.triggers,
            reason=check.reason,
            evidence=check.report_url or check.work,
            at=check.at,
            changed_at=check.changed_at,
        )
    pending = requests.open_one(lake, check.registered_name)
    waits = unripe(pending, horizon, check.at) if pending is not None else None
    if check.broken:
        raise BrokenDataError(
            f"{check.registered_name}, {check.window}: {len(check.broken)} findings. "
            + "; ".join(check.broken)
        )
    return CheckRef(
        registered_name=check.registered_name,
        version=check.version,
        window=check.window,
        cause=check.cause,
        alarm=check.alarm,
        drift_score=check.drift_score,
        reason=check.reason if waits is None else f"{check.reason}; {waits}",
        request=pending.number if pending and pending.state == "pending" and waits is None else None,
        report_url=check.report_url,
    )


def _look(
    version: ModelVersion,
    spec: ModelSpec,
    profile: SourceProfile,
    end: datetime,
    settings: Settings,
    registry: Registry,
) -> Check:
    from pipelines.lineage import record as lineage
    from pipelines.monitor import drift, steps
    from pipelines.monitor.evidence import history, publish

    lake, monitor = Lake.of(settings), spec.monitor
    training = lineage.find(lake, version.name, version.version).training
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        predictor = loaded(registry, version, Path(folder), settings)
        champion = Champion(version.name, version, predictor, training, spec, profile)
        kept = _kept(champion, settings)
        longest = Window(start=end - max(monitor.drift.windows), end=end)
        observed, answers = _asked(champion, longest, settings)
        found = {
            part: drift.together(
                [
                    _tested(champion, kept, part, columns, observed, end, length)
                    for length in monitor.drift.windows
                ],
                monitor.drift,
            )
            for part, columns in (("features", observed.columns()), ("outputs", answers))
        }
        earlier = [each for each in checks.read(lake, version.name, version.version) if each.window.end < end]
        found["targets"], realised = labelled(champion, kept, end, settings)
        caught_up = scored(realised, earlier, end - label_lag(spec))
        realised, skewed = served(champion, realised, observed.entity, longest, settings)
        came_late = late(champion, earlier, longest, settings)
        estimated = estimate(champion, observed, answers, settings)
    latest = observed.rows["event_time"].max() if observed.rows.height else None
    newest = latest if isinstance(latest, datetime) else None
    check = Check(
        registered_name=version.name,
        model=spec.name,
        version=version.version,
        window=Window(start=end - min(monitor.drift.windows), end=end),
        at=end,
        cause=Cause.NOTHING,
        drift_score=steps.drift_score(found["features"]),
        important=steps.important(found["features"]),
        tested=sum(each.p_value is not None for each in found["features"]),
        drifted=steps.told(found["features"]),
        outputs=steps.told(found["outputs"]),
        targets=steps.told(found["targets"]),
        broken=tuple(_broken(champion, kept, newest, end, settings)),
        realised=realised,
        estimated=estimated,
        scored=caught_up,
        late=came_late,
        rows=observed.rows.height,
        skewed=skewed,
        blind=steps.blind(found["features"]),
        newest_row=newest,
    )
    decision = steps.decide(check, earlier, requests.read(lake, version.name), monitor)
    check = check.model_copy(
        update={
            "cause": decision.cause,
            "alarm": decision.alarm,
            "triggers": decision.triggers,
            "reason": decision.reason,
            "changed_at": decision.changed_at,
        }
    )
    report = publish(check, found, kept, observed, training, settings)
    history([*earlier, check], monitor.retrain.drift_score, training.run_id, settings)
    return check.model_copy(update={"report_url": report})


def _kept(champion: Champion, settings: Settings) -> Kept:
    """The version's reference, made at its first check."""
    from pipelines.monitor import reference

    version = champion.version.version
    found = reference.load(Lake.of(settings), champion.name, version)
    if found is not None:
        return found
    return reference.build(
        champion.name,
        version,
        champion.spec,
        champion.profile,
        champion.training,
        settings,
        _importance(champion.training.run_id, settings),
        lambda observed: answers_of(champion, observed),
    )


def _importance(run_id: str, settings: Settings) -> dict[str, float]:
    """Of features, as training logged it; empty: all count alike."""
    import json

    import mlflow

    from pipelines.adapters import tracking

    client = tracking.client(settings)
    if "importance.json" not in {item.path for item in client.list_artifacts(run_id)}:
        return {}
    found: dict[str, float] = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/importance.json"))
    return found


def _asked(champion: Champion, window: Window, settings: Settings) -> tuple[Observed, Answers]:
    from pipelines.monitor.observe import observe

    observed = observe(champion.spec, champion.profile, window, settings)
    return observed, answers_of(champion, observed) if observed.rows.height else {}


def _tested(
    champion: Champion,
    kept: Kept,
    part: str,
    columns: Mapping[str, Any],
    observed: Observed,
    end: datetime,
    length: timedelta,
) -> list[Finding]:
    rows = observed.rows
    times: Any = rows["event_time"].dt.replace_time_zone(None).to_numpy() if rows.height else []
    return windowed(champion, kept, part, columns, times, end, length)


def _broken(
    champion: Champion, kept: Kept, newest: datetime | None, end: datetime, settings: Settings
) -> list[str]:
    """What is broken in the telemetry of the shortest window."""
    import polars as pl

    from pipelines.monitor import data_quality
    from pipelines.monitor.data_quality import Limits
    from pipelines.monitor.observe import gauges

    spec, test = champion.spec, champion.spec.monitor.data
    window = Window(start=end - min(spec.monitor.drift.windows), end=end)
    found: list[str] = []
    for name, (dataset, rows) in gauges(spec, champion.profile, window, settings).items():
        latest = rows[dataset.event_time].max()
        found += data_quality.stale(latest if isinstance(latest, datetime) else None, end, test)
        hours = (window.end - window.start) / timedelta(hours=1)
        found += data_quality.thin(rows.height, kept.rows_per_hour.get(name, 0.0) * hours, test)
        if not rows.height:
            continue
        numbers = {column: rows[column].cast(pl.Float64).to_numpy() for column in rows.columns[2:]}
        limits = {column.name: Limits(column.minimum, column.maximum) for column in dataset.columns}
        found += data_quality.broken(
            numbers,
            rows[dataset.entity].cast(pl.String).to_numpy(),
            rows[dataset.event_time].dt.replace_time_zone(None).to_numpy(),
            {
                key.partition(".")[2]: fact
                for key, fact in kept.gauges.items()
                if key.partition(".")[0] == name
            },
            limits,
            test,
        )
    if newest is None and not found:
        found.append(
            f"features: there is no feature row up to {end:%Y-%m-%d %H:%M}Z; has the features stage run?"
        )
    return found
