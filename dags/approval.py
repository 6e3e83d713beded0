"""The task that asks a person. It asks nobody about a candidate that did not pass its gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from pipelines.promote import approval
from pipelines.promote.records import ApprovalRef
from pipelines.references import Outcome, VerdictRef
from pipelines.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context


class PromotionApproval(ApprovalOperator):
    """Airflow's approval, with the gate's report as its question and the ledger as its memory.

    Approve lets the next task run, Reject and no answer in time skip it; the answer goes to the
    ledger with the name of who gave it. After a verdict that is no pass nobody is asked: the next
    task says why nothing is promoted.

    Args:
        verdict_from: Task that returns the :class:`VerdictRef`.
    """

    def __init__(self, *, verdict_from: str, **settings: Any) -> None:
        super().__init__(subject="Promote?", defaults=[ApprovalOperator.REJECT], **settings)
        self.verdict_from = verdict_from

    def execute(self, context: Context) -> Any:
        verdict = self._verdict(context)
        if verdict.outcome is not Outcome.PASS:
            self.log.info("Nobody is asked: the verdict is %s", verdict.outcome.value)
            return None
        approval.ask(verdict, load_settings())
        self.subject, self.body = approval.question(verdict)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        if "error" not in event:
            answer = answer_of(event)
            approval.record(self._verdict(context), answer, context["run_id"], load_settings())
        return super().execute_complete(context, event)

    def _verdict(self, context: Context) -> VerdictRef:
        return VerdictRef.from_xcom(context["ti"].xcom_pull(task_ids=self.verdict_from))


def answer_of(event: dict[str, Any]) -> ApprovalRef:
    """What Airflow tells of a response: the chosen option, by whom (nobody: the time ran out), and when."""
    user = event["responded_by_user"]
    return ApprovalRef(
        approved=event["chosen_options"] == [ApprovalOperator.APPROVE],
        by=None if user is None else str(user["name"] or user["id"]),
        at=event["responded_at"],
    )
