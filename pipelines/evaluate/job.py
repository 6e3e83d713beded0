"""evaluate: load candidate and champion as the server does, judge both on the same rows, record it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import EvaluationError
from pipelines.references import CandidateRef, VerdictRef

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.base import Answers, Observations
    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.adapters.runtimes.base import Predictor
    from pipelines.evaluate.checks import Verdict
    from pipelines.settings import Settings

REPORT = "gate/report.md"


def run(candidate: CandidateRef, settings: Settings) -> VerdictRef:
    """Judge a candidate against its bounds, the baselines and the champion now serving.

    Raises:
        EvaluationError: the champion takes inputs that this snapshot does not have, so that the two
            cannot be compared on the same rows.
        ArtifactError: a stored model does not reproduce its own sample.
    """
    from models.base import builder_of
    from pipelines.adapters.registry import Registry
    from pipelines.evaluate import steps
    from pipelines.evaluate.steps import Answered
    from pipelines.snapshot.job import load
    from pipelines.snapshot.parts import observations

    registry = Registry(settings.tracking)
    rows, manifest = load(candidate.snapshot, settings)
    parts = {
        part: observations(rows, part, manifest.entity, manifest.inputs) for part in ("train", "holdout")
    }
    holdout, spec = parts["holdout"], manifest.spec
    task = builder_of(spec).task(spec)

    version = registry.version(candidate.registered_name, candidate.version)
    if version is None:
        raise EvaluationError(
            f"{candidate.registered_name} has no version {candidate.version}: was it deleted? Train again"
        )
    predictor = _load(registry, version)
    answered = Answered("candidate", _answers(predictor, holdout, "candidate"))
    naive = task.baselines(parts["train"], holdout, manifest.inputs)
    baselines = tuple(Answered(name, answers) for name, answers in naive.items())
    champion = registry.alias_version(candidate.registered_name, "production")
    if champion is not None and champion.version == candidate.version:
        champion = None  # judged again after its own promotion: it is not its own rival
    rival = None
    if champion is not None:
        name = f"version {champion.version}"
        rival = Answered(name, _answers(_load(registry, champion), holdout, name))

    verdict = steps.evaluate(task, holdout, answered, baselines, rival, spec.gate, manifest.seed)
    judged = [answered, *([rival] if rival else []), *baselines]
    figures = {model.name: task.metrics(holdout, model.answers) for model in judged}
    plots = task.plots(holdout, answered.answers)
    report = _record(candidate, champion, verdict, figures, plots, registry, settings)
    return VerdictRef(
        candidate=candidate,
        champion=champion.version if champion else None,
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        report_url=report,
    )


def _load(registry: Registry, version: ModelVersion) -> Predictor:
    """The version's export, checked as the server checks it."""
    from pipelines.adapters import exports

    digest = version.tags.get(exports.MANIFEST_TAG)
    if digest is None:
        raise EvaluationError(
            f"{version.name} version {version.version} has no tag {exports.MANIFEST_TAG}, so its files cannot be "
            "verified: train it again"
        )
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        registry.download(version, Path(folder))
        return exports.load_export(exports.find_export(Path(folder)), digest)


def _answers(predictor: Predictor, holdout: Observations, name: str) -> Answers:
    missing = [
        field.name
        for field in predictor.manifest.inputs
        if field.required and field.name not in holdout.columns
    ]
    if missing:
        raise EvaluationError(
            f"{name} takes {len(missing)} inputs that this snapshot does not have, such as {missing[:3]}: it was made "
            "for another source or feature set, and cannot be compared on the same rows. To start anew, promote a "
            "version by hand: headrace promote MODEL VERSION --reason …"
        )
    return predictor.predict(holdout.columns)


def _record(
    candidate: CandidateRef,
    champion: ModelVersion | None,
    verdict: Verdict,
    figures: dict[str, dict[str, float]],
    plots: dict[str, Figure],
    registry: Registry,
    settings: Settings,
) -> str:
    """Put the evidence on the run and the verdict on the version; returns the report's address."""
    import mlflow

    from pipelines.adapters import tracking
    from pipelines.evaluate import report

    text = report.markdown(candidate, champion.version if champion else None, verdict, figures)
    with tracking.resumed(settings, candidate.run_id):
        mlflow.log_metrics({f"holdout_{name}": value for name, value in figures["candidate"].items()})
        mlflow.log_dict(verdict.model_dump(mode="json") | {"figures": figures}, "gate/verdict.json")
        mlflow.log_text(text, REPORT)
        for name, figure in plots.items():
            mlflow.log_figure(figure, f"gate/holdout_{name}.png")
        mlflow.set_tag("mlflow.note.content", text)
    registry.set_version_tag(
        candidate.registered_name, candidate.version, "headrace.verdict", verdict.outcome.value
    )
    registry.set_version_description(candidate.registered_name, candidate.version, text)
    experiment = mlflow.get_run(candidate.run_id).info.experiment_id
    return f"{settings.tracking}/#/experiments/{experiment}/runs/{candidate.run_id}/artifacts/{REPORT}"
