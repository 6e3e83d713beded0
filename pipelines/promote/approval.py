"""A person's word on a candidate: whether it is needed, how it is asked for, and where it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.specs import ModelSpec
from pipelines.promote.records import Action, ApprovalRef, LedgerLine, State
from pipelines.references import VerdictRef

if TYPE_CHECKING:
    from pipelines.settings import Settings

#: Tag of a version: "pending", or how it was answered. Whoever cleans up leaves pending ones alone.
APPROVAL_TAG = "headrace.approval"
PENDING = "pending"


def needed(spec: ModelSpec, settings: Settings) -> bool:
    """Whether a model is promoted with a person's word only: by its spec, or by the setting."""
    asked = {name.strip() for name in settings.approval_models.split(",")}
    return spec.approval.required or spec.name in asked or "*" in asked


def question(verdict: VerdictRef) -> tuple[str, str]:
    """Subject and body (Markdown) of what the person is asked."""
    candidate = verdict.candidate
    champion = (
        f"version {verdict.champion}" if verdict.champion else "nothing yet: this would be the first one"
    )
    report = f"**[The gate's report]({verdict.report_url})**" if verdict.report_url else ""
    reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
    body = (
        f"Version {candidate.version} of `{candidate.registered_name}` has passed its gate ({verdict.outcome.value}). "
        f"In production is {champion}.\n\n{report}\n\n{reasons}\n\n"
        f"Snapshot `{candidate.snapshot.sha256[:12]}`, run `{candidate.run_id}`. *Approve* moves the alias "
        "`production` to it; *Reject*, and no answer in time, leaves everything as it is. Your name goes to the ledger."
    )
    return f"Promote {candidate.registered_name} version {candidate.version}?", body


def ask(verdict: VerdictRef, settings: Settings) -> None:
    """Mark the version as one that waits for an answer."""
    _tag(verdict, PENDING, settings)


def record(verdict: VerdictRef, answer: ApprovalRef, asked_in: str, settings: Settings) -> None:
    """Write the answer to the ledger and on the version; once, however often it is told.

    Args:
        asked_in: The run that asked.
    """
    from pipelines.adapters.lake import Lake
    from pipelines.promote import ledger

    candidate = verdict.candidate
    name, version = candidate.registered_name, candidate.version
    action = Action.APPROVE if answer.approved else Action.REFUSE if answer.by else Action.TIME_OUT
    line = LedgerLine(
        at=answer.at,
        registered_name=name,
        state=State.DECIDED,
        action=action,
        actor=answer.by or "nobody",
        from_version=verdict.champion,
        to_version=version,
        reason=f"asked by {asked_in}",
        verdict=verdict.outcome.value,
        evidence_url=verdict.report_url,
    )
    ledger.write(Lake.of(settings), f"approval:{name}:{version}:{asked_in}:{answer.at.isoformat()}", line)
    _tag(verdict, answer.told(), settings)


def _tag(verdict: VerdictRef, text: str, settings: Settings) -> None:
    from pipelines.adapters.registry import Registry

    with Registry(settings.tracking) as registry:
        registry.set_version_tag(
            verdict.candidate.registered_name, verdict.candidate.version, APPROVAL_TAG, text
        )
