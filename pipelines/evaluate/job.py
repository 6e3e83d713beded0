"""evaluate: load candidate and champion as the server does, judge both on the same rows, record it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import EvaluationError
from pipelines.references import CandidateRef, VerdictRef

if TYPE_CHECKING:
    from models.base import Answers, Observations, Task
    from models.specs import ModelSpec
    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.adapters.runtimes.base import Predictor
    from pipelines.evaluate.checks import Check
    from pipelines.evaluate.stability import Asked
    from pipelines.evaluate.steps import Case, Older
    from pipelines.settings import Settings
    from pipelines.snapshot.job import SnapshotManifest

EXPLAINED_ROWS = 200


def run(candidate: CandidateRef, settings: Settings) -> VerdictRef:
    """Judge a candidate against its bounds, the baselines and the champion now serving.

    Raises:
        EvaluationError: the champion takes inputs that this snapshot does not have, so that the two
            cannot be compared on the same rows.
        ArtifactError: a stored model does not reproduce its own sample.
    """
    from models.base import builder_of
    from pipelines.adapters.registry import Registry
    from pipelines.evaluate import servability
    from pipelines.evaluate.checks import CheckKind, held
    from pipelines.evaluate.report import publish
    from pipelines.evaluate.steps import judge
    from pipelines.snapshot.job import load
    from pipelines.snapshot.parts import observations

    registry = Registry(settings.tracking)
    rows, manifest = load(candidate.snapshot, settings)
    parts = {
        part: observations(rows, part, manifest.entity, manifest.inputs)
        for part in ("train", "valid", "holdout")
    }
    holdout, spec = parts["holdout"], manifest.spec
    task = builder_of(spec).task(spec)

    version = registry.version(candidate.registered_name, candidate.version)
    if version is None:
        raise EvaluationError(
            f"{candidate.registered_name} has no version {candidate.version}: was it deleted? Train again"
        )
    champion = registry.alias_version(candidate.registered_name, "production")
    if champion is not None and champion.version == candidate.version:
        champion = None  # judged again after its own promotion: it is not its own rival
    with ExitStack() as stack:
        ours = stack.enter_context(_loaded(registry, version, settings))
        theirs = stack.enter_context(_loaded(registry, champion, settings)) if champion else None
        case = _case(ours, theirs, champion, parts, task, manifest, candidate.snapshot.sha256, settings)
        verdict = judge(case)
        native = servability.native_sample(candidate.run_id, settings)
        served = held(
            CheckKind.SERVABILITY,
            "servability",
            0,
            lambda: servability.check(ours.export, version, native, spec.budgets, settings),
        )
    verdict = verdict.extended(served)
    compared = (case.candidate, *([case.champion] if case.champion else []))
    figures = {model.name: task.metrics(holdout, model.answers) for model in (*compared, *case.baselines)}
    plots = {model.name: task.plots(holdout, model.answers) for model in compared}
    serving = champion.version if champion else None
    report = publish(candidate, serving, verdict, figures, plots, registry, settings)
    return VerdictRef(
        candidate=candidate,
        champion=serving,
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        report_url=report,
    )


@dataclass(frozen=True)
class _Loaded:
    """A version's files, checked as the server checks them.

    Attributes:
        export: Folder of the export; it is there as long as the version is open.
        signature: What MLflow stores of inputs and outputs.
    """

    export: Path
    predictor: Predictor
    signature: dict[str, str] | None


@contextmanager
def _loaded(registry: Registry, version: ModelVersion, settings: Settings) -> Iterator[_Loaded]:
    from pipelines.adapters import exports
    from pipelines.adapters.signing import Trust

    digest = version.tags.get(exports.MANIFEST_TAG)
    if digest is None:
        raise EvaluationError(
            f"{version.name} version {version.version} has no tag {exports.MANIFEST_TAG}, so its files cannot be "
            "verified: train it again"
        )
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        registry.download(version, Path(folder))
        export = exports.find_export(Path(folder))
        yield _Loaded(
            export, exports.load_export(export, digest, Trust.of(settings)), _signature(Path(folder))
        )


def _signature(folder: Path) -> dict[str, str] | None:
    import yaml

    stored = sorted(folder.rglob("MLmodel"))
    content = yaml.safe_load(stored[0].read_text("utf-8")) if stored else None
    return content.get("signature") if isinstance(content, dict) else None


def _case(
    ours: _Loaded,
    theirs: _Loaded | None,
    champion: ModelVersion | None,
    parts: dict[str, Observations],
    task: Task,
    manifest: SnapshotManifest,
    sha256: str,
    settings: Settings,
) -> Case:
    """Everything that the gate asks for, answered."""
    from pipelines.evaluate import older
    from pipelines.evaluate.comparison import Answered, plan_of
    from pipelines.evaluate.leakage import Parts
    from pipelines.evaluate.steps import Case

    spec, holdout = manifest.spec, parts["holdout"]
    naive = task.baselines(parts["train"], holdout, manifest.inputs)
    rival: Answered | None = None
    before: Older | Check | None = None
    notes: tuple[str, ...] = ()
    candidate = Answered("candidate", _answers(ours.predictor, holdout, "candidate"))
    if champion is not None and theirs is not None:
        name = f"version {champion.version}"
        rival = Answered(name, _answers(theirs.predictor, holdout, name))
        before, notes = older.find(
            champion,
            (ours.predictor, theirs.predictor),
            manifest,
            sha256,
            (parts["train"], parts["valid"]),
            settings,
        )
    watched = "hours" if spec.target.kind == "until_event" else None
    return Case(
        task=task,
        gate=spec.gate,
        plan=plan_of(spec, manifest.seed),
        parts=Parts(**parts, by=spec.split.by, horizon=spec.target.horizon, watched=watched),
        inputs=manifest.inputs,
        candidate=candidate,
        baselines=tuple(Answered(name, answers) for name, answers in naive.items()),
        champion=rival,
        asked=_asked(ours.predictor, holdout, spec),
        manifest=ours.predictor.manifest,
        signature=ours.signature,
        older=before,
        notes=notes,
    )


def _asked(predictor: Predictor, holdout: Observations, spec: ModelSpec) -> Asked:
    """The export as stability asks it, with the weights of its inputs where it can account for its answers."""
    import numpy as np

    from models.targets import STEPS_AHEAD
    from pipelines.evaluate.stability import Asked

    some = holdout.rows(np.unique(np.linspace(0, len(holdout) - 1, EXPLAINED_ROWS).astype(np.intp)))
    weights: dict[str, float] = {}
    for explained in filter(None, predictor.explain(some.columns).values()):
        told = {name: float(np.mean(np.abs(share))) for name, share in explained.inputs.items()}
        total = sum(told.values()) or 1.0
        for name, weight in told.items():
            weights[name] = weights.get(name, 0.0) + weight / total
    chosen = {*spec.given, STEPS_AHEAD, *([spec.entity_input] if spec.entity_input else [])}
    return Asked(predictor.predict, predictor.manifest.inputs, frozenset(chosen), weights)


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
