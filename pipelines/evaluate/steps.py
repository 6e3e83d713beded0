"""The gate: evidence on a holdout that neither training nor tuning has seen, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from models.base import Observations, Task
from models.manifest import InputField, Manifest
from models.specs import Gate
from pipelines.evaluate.bounds import bound_checks, evidence_checks
from pipelines.evaluate.checks import Check, CheckKind, Verdict, held
from pipelines.evaluate.comparison import Answered as Answered
from pipelines.evaluate.comparison import (
    Plan,
    baseline_check,
    champion_checks,
    compare,
    older_check,
)
from pipelines.evaluate.contract import signature_check
from pipelines.evaluate.groups import parity_checks, slice_checks
from pipelines.evaluate.leakage import Parts, leakage_checks
from pipelines.evaluate.paired import cluster_weights as cluster_weights  # re-exported: benchmarks use them
from pipelines.evaluate.paired import clusters as clusters
from pipelines.evaluate.paired import paired_gain as paired_gain
from pipelines.evaluate.stability import Asked, stability_checks
from pipelines.references import Outcome


@dataclass(frozen=True)
class Older:
    """The champion's own holdout, answered by both.

    Attributes:
        learned: Rows of it that the candidate was trained on.
    """

    part: Observations
    candidate: Answered
    champion: Answered
    learned: int


@dataclass(frozen=True)
class Case:
    """All that a verdict is made from.

    Attributes:
        parts: The snapshot that the candidate was made of.
        baselines: Naive answers on the holdout; the candidate must beat each.
        champion: The version now serving, on the same rows; None only where none serves.
        asked: The candidate's serving export, to be asked again.
        signature: What MLflow stores of inputs and outputs; None where it stores nothing.
        older: None where it does not apply; a check where the comparison was not possible.
        notes: What does not apply, and why.
    """

    task: Task
    gate: Gate
    plan: Plan
    parts: Parts
    inputs: tuple[InputField, ...]
    candidate: Answered
    baselines: tuple[Answered, ...]
    champion: Answered | None
    asked: Asked
    manifest: Manifest
    signature: dict[str, str] | None
    older: Older | Check | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)


def judge(case: Case) -> Verdict:
    """Everything that is asked of a candidate before it may be promoted."""
    task, gate, plan, holdout = case.task, case.gate, case.plan, case.parts.holdout
    rows = len(holdout)
    first = (
        *held(
            CheckKind.CONTRACT,
            "signature of the registered version",
            0,
            lambda: [signature_check(case.signature, case.manifest)],
        ),
        *held(
            CheckKind.LEAKAGE,
            "leakage",
            len(case.parts.train),
            lambda: leakage_checks(case.parts, case.inputs, case.asked.chosen, gate.leakage, plan.seed),
        ),
    )
    verdict = evaluate(task, holdout, case.candidate, case.baselines, case.champion, gate, plan)
    last = held(
        CheckKind.STABILITY,
        "stability",
        rows,
        lambda: stability_checks(
            case.asked, case.parts.train, holdout, task.answer, gate.stability, plan.seed
        ),
    )
    return verdict.extended((*first, *last, *_older(case)), case.notes)


def evaluate(
    task: Task,
    holdout: Observations,
    candidate: Answered,
    baselines: tuple[Answered, ...],
    champion: Answered | None,
    gate: Gate,
    plan: Plan,
) -> Verdict:
    """What the answers on the holdout say: enough of them, good enough, better than what there is, for everyone.

    Too little evidence ends it there: figures of too few rows are no figures.
    """
    rows = len(holdout)

    def asked(kind: CheckKind, name: str, make: Callable[[], Iterable[Check]]) -> tuple[Check, ...]:
        return held(kind, name, rows, make)

    enough = asked(
        CheckKind.EVIDENCE, "evidence in the holdout", lambda: evidence_checks(task, holdout, gate, plan)
    )
    if any(check.outcome is not Outcome.PASS for check in enough):
        return Verdict(checks=enough)
    checks = [
        *enough,
        *asked(
            CheckKind.THRESHOLD,
            "bounds of metrics",
            lambda: bound_checks(task, holdout, candidate, gate, plan),
        ),
    ]
    checks += asked(
        CheckKind.BASELINE,
        "gain over the baselines",
        lambda: (
            [baseline_check(task, holdout, candidate, baseline, plan) for baseline in baselines]
            or [_nothing_beaten(rows)]
        ),
    )
    notes: tuple[str, ...] = ()
    if champion is not None:
        checks += asked(
            CheckKind.CHAMPION,
            f"gain over champion {champion.name}",
            lambda: champion_checks(task, holdout, candidate, champion, gate, plan),
        )
    else:
        notes = ("No version serves, so that there is no champion to compare with: baselines stand in.",)
    rival = champion or _strongest(task, holdout, baselines, plan)
    if gate.slices and rival is not None:
        checks += asked(
            CheckKind.SLICE,
            "guarded slices",
            lambda: slice_checks(task, holdout, candidate, rival, gate, plan),
        )
    checks += asked(
        CheckKind.BIAS,
        "differences between groups",
        lambda: parity_checks(task, holdout, candidate, gate, plan),
    )
    return Verdict(checks=tuple(checks), notes=notes)


def _older(case: Case) -> tuple[Check, ...]:
    older = case.older
    if older is None or isinstance(older, Check):
        return () if older is None else (older,)
    return held(
        CheckKind.OLDER,
        "the champion's own holdout",
        len(older.part),
        lambda: [
            older_check(
                case.task, older.part, older.candidate, older.champion, older.learned, case.gate, case.plan
            )
        ],
    )


def _nothing_beaten(rows: int) -> Check:
    return Check(
        name="gain over the baselines",
        kind=CheckKind.BASELINE,
        outcome=Outcome.INSUFFICIENT,
        figure=None,
        wanted="at least one baseline to beat",
        n=rows,
        detail="the task gave no baseline",
        remedy="Return one from the task's `baselines`",
    )


def _strongest(
    task: Task, holdout: Observations, baselines: tuple[Answered, ...], plan: Plan
) -> Answered | None:
    """The baseline that the others lose to."""
    best: Answered | None = None
    for baseline in baselines:
        if best is None or compare(task, holdout, baseline.answers, best.answers, plan)[0].figure > 0:
            best = baseline
    return best
