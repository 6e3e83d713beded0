"""The whole chain in one process, stage by stage: what Airflow runs, without Airflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.references import PromotionRef, VerdictRef, Window

if TYPE_CHECKING:
    from datetime import datetime

    from pipelines.settings import Settings

# Called with the stage, its state (running or done) and a detail.
Report = Callable[[str, str, str], None]


def run_chain(
    model: str,
    source: str | None,
    window: Window,
    settings: Settings,
    actor: str,
    trials: int | None = None,
    report: Report = lambda stage, state, detail: None,
) -> PromotionRef:
    """Ingest, validate, build features, snapshot, tune, train, evaluate and promote one model.

    The request to train that is open is held meanwhile and closed with what came of it, as train_<model> does; where
    another run holds it, this one trains all the same, and says so.

    Args:
        source: A profile's name or path; None is the configured one.
        window: What to ingest and to train on.
        actor: Who runs this; goes to the ledger.
        report: Called as stages begin, advance and end.

    Raises:
        HeadraceError: a stage stopped; what the stages before it left behind stays, and the same
            call goes on from there.
    """
    from datetime import UTC, datetime

    from pipelines.monitor import retrain
    from pipelines.promote import job as promote
    from pipelines.sources.profile import located

    run = f"{actor}: {datetime.now(UTC).isoformat()}"
    where = located(source or settings.source)
    report("take", "running", "")
    taken = retrain.take(
        model,
        where,
        run,
        by_event=False,
        by_hand=True,
        at=datetime.now(UTC),
        settings=settings,
        alone=False,  # Airflow may be at it
        until=window.end,
    )
    held = f"request {taken.number}" if taken.number is not None else "no request is closed by this training"
    report("take", "done", f"{held}: {taken.reason}")
    verdict: VerdictRef | None = None
    promotion: PromotionRef | None = None
    try:
        verdict = _judged(model, where, window, settings, trials, report, taken.changed_at)
        report("promote", "running", "")
        promotion = promote.run(verdict, actor, settings)
        report("promote", "done", f"production: version {promotion.production}; {promotion.reason}")
    finally:
        promoted = (
            verdict is not None
            and promotion is not None
            and promotion.production == verdict.candidate.version
        )
        ended = retrain.close(taken, run, verdict, promoted, datetime.now(UTC), settings)
        if ended is not None:
            report("close", "done", f"request {taken.number}: {ended.value}")
    return promotion


def _judged(
    model: str,
    source: str,
    window: Window,
    settings: Settings,
    trials: int | None,
    report: Report,
    changed_at: datetime | None,
) -> VerdictRef:
    """All stages up to the gate's word."""
    from models.catalogue import find
    from pipelines.evaluate import job as evaluate
    from pipelines.features import job as features
    from pipelines.ingest import job as ingest
    from pipelines.snapshot import job as snapshot
    from pipelines.sources.profile import load_profile
    from pipelines.train import job as train
    from pipelines.tune import job as tune
    from pipelines.validate import job as validate

    spec = load_profile(source).spec_of(find(model))

    for dataset in spec.datasets:
        report("ingest", "running", dataset)
        ingested = ingest.run(source, dataset, window, settings)
        report("validate", "running", dataset)
        validated = validate.run(ingested, settings)
        report(
            "validate",
            "done",
            f"{dataset}: {validated.clean.rows_added} rows clean, {validated.quarantine.rows_added} in quarantine",
        )
    report("features", "running", "")
    built = features.run(source, window, settings, grids=[spec.grid])
    report("features", "done", f"{built.online_rows} entities online")
    report("snapshot", "running", "")
    training_set = snapshot.run(model, built, settings, changed_at)
    report(
        "snapshot",
        "done",
        f"{training_set.sha256[:12]}: rows {training_set.rows}"
        + (f", positives {training_set.positives}" if training_set.positives else ""),
    )
    report("tune", "running", "")
    study = tune.run(
        training_set,
        settings,
        trials,
        progress=lambda done, total, best: report(
            "tune", "running", f"trial {done} of {total}, best {best or 0:.4f}"
        ),
    )
    report("tune", "done", f"{study.trials} trials, best {study.best_value:.4f}")
    report("train", "running", "")
    candidate = train.run(training_set, study, settings)
    report("train", "done", f"{candidate.registered_name} version {candidate.version}")
    report("evaluate", "running", "")
    verdict = evaluate.run(candidate, settings)
    told = [*verdict.reasons, *([f"the report: {verdict.report_url}"] if verdict.report_url else [])]
    report("evaluate", "done", f"{verdict.outcome.value}\n  " + "\n  ".join(told))
    return verdict
