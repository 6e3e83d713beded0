"""Whether a verdict moves the pointer, and what the registry and the ledger together say happened. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipelines.errors import PromotionError
from pipelines.promote.records import ROLLBACKS, Action, ApprovalRef, LedgerLine, State, Story
from pipelines.references import Outcome, VerdictRef

OUTSIDE = "MLflow UI or API"  # the registry does not tell who
_NUMBERED = 12  # characters of a digest that messages show


@dataclass(frozen=True)
class Decision:
    """Move the pointer or not, and why."""

    promote: bool
    reason: str


def decide(
    verdict: VerdictRef,
    serving: str | None,
    blocked: str | None,
    *,
    approval_needed: bool = False,
    approval: ApprovalRef | None = None,
) -> Decision:
    """Weigh a verdict against what serves at this moment.

    Args:
        serving: The version that the alias production names now.
        blocked: From :func:`rolled_back_evidence`.
        approval_needed: Whether the model asks for a person's word besides the verdict.
        approval: That word, where it was given.

    Raises:
        PromotionError: another version serves than the one that the verdict compared with, so that
            the evidence says nothing about the move.
    """
    candidate = verdict.candidate
    by_hand = f"headrace promote {candidate.registered_name} {candidate.version} --reason …"
    if verdict.outcome is not Outcome.PASS:
        return Decision(False, f"{verdict.outcome.value}: " + "; ".join(verdict.reasons))
    if blocked is not None:
        return Decision(False, f"{blocked}. New evidence is a newer snapshot; a person's word is {by_hand}")
    if approval_needed and (approval is None or not approval.approved):
        answer = approval.told() if approval else f"nobody was asked: approve in Airflow, or {by_hand}"
        return Decision(False, f"{candidate.model} is promoted with a person's approval only; {answer}")
    if serving not in {candidate.version, verdict.champion}:
        raise PromotionError(
            f"{candidate.registered_name}: the verdict compared version {candidate.version} with champion "
            f"{verdict.champion}, but {serving} serves now: evaluate again (clear the task 'evaluate'), so that the "
            "comparison is with what serves"
        )
    beaten = (
        f"judged beside champion {verdict.champion}" if verdict.champion else "no champion to compare with"
    )
    approved = f"; {approval.told()}" if approval else ""
    return Decision(True, f"the gate was passed ({len(verdict.reasons)} checks; {beaten}){approved}")


def rolled_back(story: Story) -> dict[str, LedgerLine]:
    """By version: the rollback that took it out of production, unless a person put it back since."""
    found: dict[str, LedgerLine] = {}
    for line in story.moves:
        if line.to_version is not None:
            found.pop(line.to_version, None)
        if line.action in ROLLBACKS and line.from_version is not None:
            found[line.from_version] = line
    return found


def rolled_back_evidence(
    version: str, snapshot_sha256: str, story: Story, snapshots: Mapping[str, str | None]
) -> str | None:
    """Why the evidence for a candidate is that of a version which was rolled back; None: it is not.

    The rows that a version was proved on have let a bad one through once: another version of the
    same snapshot, whatever its number and parameters, is judged by the same rows.

    Args:
        snapshots: Snapshot by version, at least of those that were rolled back; None: not known.
    """
    for taken, line in rolled_back(story).items():
        why = f"was rolled back by {line.actor} at {line.at:%Y-%m-%d %H:%M}Z: {line.reason}"
        if taken == version:
            return f"version {version} {why}"
        if snapshots.get(taken) == snapshot_sha256:
            return (
                f"version {version} was proved on the same snapshot {snapshot_sha256[:_NUMBERED]} as version {taken}, "
                f"which {why}"
            )
    return None


def one_step_back(story: Story, serving: str | None, previous: str | None) -> str | None:
    """The version that a rollback without a name goes to.

    ``previous``, unless it was itself rolled back: then the newest one that served and was not.
    """
    bad = rolled_back(story)
    served = [line.from_version for line in reversed(story.moves)]
    order = [previous, *served]
    return next((v for v in order if v is not None and v != serving and v not in bad), None)


@dataclass(frozen=True)
class Ending:
    """How an intention ended, and the move that nobody told the ledger of; either may be None."""

    of_intention: LedgerLine | None
    outside: LedgerLine | None


def settle(story: Story, truth: str | None, now: datetime, told_at: datetime | None = None) -> Ending:
    """What the ledger lacks, for it to tell of the alias what the registry says.

    The registry is right: what it names was moved, by whomever; what it does not name was not.

    Args:
        truth: The version that the alias names now.
        told_at: When MLflow said that it was moved there; None: it did not say.
    """
    ended: LedgerLine | None = None
    current = story.current
    if story.intention is not None:
        moved = truth == story.intention.to_version
        ended = story.intention.model_copy(
            update={"state": State.MOVED if moved else State.ABANDONED}
            | ({} if moved else {"at": now, "reason": _abandoned(story.intention, truth)})
        )
        current = truth if moved else current
    if truth == current:
        return Ending(ended, None)
    before = next(iter(story.moves), None)
    served = {line.from_version for line in story.moves} | {line.to_version for line in story.moves}
    back = truth is not None and truth in served and current is not None and int(truth) < int(current)
    when = "MLflow told of it at this time" if told_at else "noticed at this time"
    if before is None:
        why = f"found at the first look ({when}); the alias was set before there was a ledger, or by hand"
    elif truth is None:
        why = f"the alias was removed; {when}"
    else:
        why = f"{when}; who and why the registry does not keep"
    outside = LedgerLine(
        at=told_at or now,
        registered_name="",
        sequence=story.next_sequence,
        action=Action.ROLLED_BACK_OUTSIDE if back else Action.MOVED_OUTSIDE,
        actor=OUTSIDE,
        from_version=current,
        to_version=truth,
        reason=why,
    )
    return Ending(ended, outside)


def _abandoned(intention: LedgerLine, truth: str | None) -> str:
    if truth == intention.from_version:
        return f"{intention.reason} (ended before the alias was moved)"
    return (
        f"{intention.reason} (ended early; whether version {intention.to_version} served for a moment before "
        f"{truth or 'the alias was removed'} is not known)"
    )
