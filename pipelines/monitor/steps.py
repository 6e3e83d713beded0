"""What a check means, and whether to ask for a training: by cause, with its reason. Pure.

Broken data stop everything: nothing is learned from them. A loss of quality asks for a training, drift
alone is a diagnosis until it persists. A "no" has its reason as a "yes" has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.specs import Monitor
from pipelines.monitor.drift import Finding
from pipelines.monitor.records import Cause, Check, ColumnFinding, Request, Trigger


@dataclass(frozen=True)
class Decision:
    """What is to be done about a check.

    Attributes:
        alarm: Whether people are told.
        triggers: Why a training is asked for; empty: it is not.
        changed_at: Since when it is so: the start of the first window that shows it.
    """

    cause: Cause
    alarm: bool
    triggers: tuple[Trigger, ...]
    reason: str
    changed_at: datetime | None = None


def drift_score(findings: Sequence[Finding]) -> float | None:
    """Share of the tested columns that drifted, weighted by importance; None where none could be tested."""
    tested = [finding for finding in findings if finding.p_value is not None]
    total = sum(finding.importance for finding in tested)
    if total == 0:
        return None
    return sum(finding.importance for finding in tested if finding.drifted) / total


def important(findings: Sequence[Finding]) -> int:
    """Drifted columns that are worth at least the mean column."""
    mean = sum(finding.importance for finding in findings) / max(len(findings), 1)
    return sum(finding.drifted and finding.importance >= mean for finding in findings)


def told(findings: Sequence[Finding]) -> tuple[ColumnFinding, ...]:
    """Drifted columns for the record, the weightiest first."""
    drifted = sorted(
        (finding for finding in findings if finding.drifted), key=lambda each: (-each.importance, each.column)
    )
    return tuple(
        ColumnFinding(
            column=each.column,
            aspect=each.aspect,
            detail=each.detail,
            effect=each.effect,
            adjusted=each.adjusted if each.adjusted is not None else 1.0,
            importance=each.importance,
        )
        for each in drifted
    )


def blind(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Columns whose windows hold too little information to show a shift of one standard deviation."""
    return tuple(each.column for each in findings if each.smallest is not None and each.smallest > 1)


def cause_of(check: Check) -> Cause:
    """The worst of what was found."""
    if check.broken:
        return Cause.BROKEN_DATA
    if check.realised.below or check.realised.fallen or check.late.figures.below or check.estimated.below:
        return Cause.QUALITY_LOSS
    if check.skewed:
        return Cause.SKEW
    if check.drifted or check.outputs or check.targets:
        return Cause.DRIFT
    if check.drift_score is None and not check.realised.rows:
        return Cause.NOT_ENOUGH_DATA
    return Cause.NOTHING


def decide(check: Check, earlier: Sequence[Check], requests: Sequence[Request], monitor: Monitor) -> Decision:
    """Weigh a check with those before it.

    Args:
        earlier: Of the same version, oldest first, without this one.
        requests: Of the model, oldest first.
    """
    cause = cause_of(check)
    recent = [*earlier, check][-monitor.of :]
    if cause is Cause.BROKEN_DATA:
        return Decision(
            cause, True, (), f"broken data, so nothing is learned from them: {'; '.join(check.broken)}"
        )
    if cause is Cause.NOT_ENOUGH_DATA:
        return Decision(cause, False, (), "not enough data to say anything")
    if cause is Cause.NOTHING:
        return Decision(cause, False, (), "nothing has changed beyond what such windows do by themselves")

    wanted = _triggers(check, recent, monitor)
    noticed = [each for each in recent if cause_of(each) in {Cause.QUALITY_LOSS, Cause.SKEW, Cause.DRIFT}]
    persists = len(noticed) >= monitor.needed
    what = _what(check)
    if not persists:
        why = f"seen in {len(noticed)} of the last {len(recent)} checks, {monitor.needed} are needed"
        return Decision(cause, False, (), f"{what}; no alarm yet: {why}")
    since = noticed[0].window.start
    if not wanted:
        return Decision(cause, True, (), f"{what}; no training: {_not_wanted(check, monitor)}", since)
    if until := _cooling(check.at, requests, monitor):
        return Decision(
            cause,
            True,
            (),
            f"{what}; no training: the last one ended lately, cooldown until {until:%Y-%m-%d %H:%M}Z",
            since,
        )
    named = ", ".join(trigger.value for trigger in wanted)
    return Decision(cause, True, wanted, f"{what}; training asked for: {named}", since)


def _triggers(check: Check, recent: Sequence[Check], monitor: Monitor) -> tuple[Trigger, ...]:
    rule = monitor.retrain
    found = []
    loss = _to_learn_from(check)
    if loss and rule.quality_below_floor is not None:
        held = 0
        for each in reversed(recent):
            if not _to_learn_from(each):
                break
            held += 1
        first = recent[-held]
        if check.window.end - first.window.start >= rule.quality_below_floor and held >= min(
            monitor.needed, 2
        ):
            found.append(Trigger.QUALITY)
    # Drift that persisted: the columns of this check, seen before it too.
    before = sum(bool(each.drifted) for each in recent)
    if (
        check.drifted
        and before >= monitor.needed
        and (loss or check.realised.fallen or not rule.drift_needs_loss)
    ):
        if rule.drift_score is not None and (check.drift_score or 0.0) > rule.drift_score:
            found.append(Trigger.DRIFT_SCORE)
        if rule.important_columns is not None and check.important >= rule.important_columns:
            found.append(Trigger.IMPORTANT_COLUMNS)
    return tuple(found)


def _to_learn_from(check: Check) -> bool:
    """Whether quality is lost in a way that training could mend: wrong features are not learned away."""
    by_skew = bool(check.skewed) and check.realised.of == "served"
    found = bool(check.estimated.below or check.late.figures.below)
    return found or (bool(check.realised.below) and not by_skew)


def _cooling(now: datetime, requests: Sequence[Request], monitor: Monitor) -> datetime | None:
    ends = [request.closed.at for request in requests if request.closed is not None]
    until = max(ends) + monitor.cooldown if ends else None
    return until if until is not None and now < until else None


def _what(check: Check) -> str:
    parts = []
    if check.realised.below:
        parts.append("realised quality below its floor: " + ", ".join(check.realised.below))
    if check.realised.fallen:
        parts.append("realised quality fell: " + ", ".join(check.realised.fallen))
    if check.late.figures.below:
        parts.append(
            f"older answers whose labels came late below their floor: {', '.join(check.late.figures.below)}"
        )
    if check.estimated.below:
        parts.append("estimated quality below its floor: " + ", ".join(check.estimated.below))
    if check.skewed:
        more = f" and {len(check.skewed) - 3} more" if len(check.skewed) > 3 else ""
        parts.append(f"served otherwise than trained: {'; '.join(check.skewed[:3])}{more}")
    for kind, columns in (("columns", check.drifted), ("answers", check.outputs), ("targets", check.targets)):
        if columns:
            shown = "; ".join(f"{each.column} {each.detail}" for each in columns[:3])
            more = f" and {len(columns) - 3} more" if len(columns) > 3 else ""
            parts.append(f"{len(columns)} {kind} drifted ({shown}{more})")
    return "; ".join(parts)


def _not_wanted(check: Check, monitor: Monitor) -> str:
    rule = monitor.retrain
    if check.skewed and not _to_learn_from(check):
        return "callers are answered from other features than training reads: mend the online store or its feeding"
    if check.realised.below or check.late.figures.below or check.estimated.below:
        if rule.quality_below_floor is None:
            return "a loss of quality asks for none here"
        return f"the loss has not lasted {rule.quality_below_floor / timedelta(hours=1):g} hours yet"
    if check.realised.fallen and not check.drifted:
        return "quality left its band, and not its floor"
    score = check.drift_score or 0.0
    return (
        f"drift alone is a diagnosis: score {score:.2f} (asks above {rule.drift_score}), {check.important} important "
        f"columns (asks from {rule.important_columns})"
        + (", and quality must have left its band" if rule.drift_needs_loss else "")
    )
