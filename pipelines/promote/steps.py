"""Whether a verdict moves the pointer."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.errors import PromotionError
from pipelines.references import Outcome, VerdictRef


@dataclass(frozen=True)
class Decision:
    """Move the pointer or not, and why."""

    promote: bool
    reason: str


def decide(verdict: VerdictRef, serving: str | None, rolled_back: str | None) -> Decision:
    """Weigh a verdict against what serves at this moment.

    Args:
        serving: The version that the alias production names now.
        rolled_back: Why a person took this version back, where one did.

    Raises:
        PromotionError: another version serves than the one that the verdict compared with, so that
            the evidence says nothing about the move.
    """
    candidate = verdict.candidate
    if verdict.outcome is not Outcome.PASS:
        return Decision(False, f"{verdict.outcome.value}: " + "; ".join(verdict.reasons))
    if rolled_back is not None:
        return Decision(False, f"version {candidate.version} was rolled back: {rolled_back}")
    if serving not in {candidate.version, verdict.champion}:
        raise PromotionError(
            f"{candidate.registered_name}: the verdict compared version {candidate.version} with champion "
            f"{verdict.champion}, but {serving} serves now: evaluate again (clear the task 'evaluate'), so that the "
            "comparison is with what serves"
        )
    beaten = (
        f"not worse than champion {verdict.champion}" if verdict.champion else "no champion to compare with"
    )
    return Decision(True, f"the gate was passed ({len(verdict.reasons)} checks; {beaten})")
