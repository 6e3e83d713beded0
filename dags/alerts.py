"""Who is told that a run has failed: the log always; e-mail and a web hook where the settings name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseNotifier

from pipelines.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

_SECONDS = 10.0


def on_failure() -> list[Callable[[Context], Any]]:
    """The callbacks of a DAG for a run that failed: one alert for a run, however many of its tasks failed.

    E-mail goes through Airflow's connection ``smtp_default``, whose extra ``from_email`` names the sender.
    """
    settings = load_settings()
    told: list[Callable[[Context], Any]] = [LogAlert()]
    if settings.alert_webhook_url is not None:
        told.append(WebhookAlert(settings.alert_webhook_url.get_secret_value()))
    if settings.alert_email:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        told.append(
            SmtpNotifier(
                to=[address.strip() for address in settings.alert_email.split(",") if address.strip()],
                subject="[headrace] {{ dag.dag_id }} failed",
                html_content="<p>{{ dag.dag_id }}, run {{ run_id }}, failed: {{ reason }}.</p>"
                f'<p><a href="{settings.airflow}/dags/{{{{ dag.dag_id }}}}/runs/{{{{ run_id | urlencode }}}}">'
                "The run in Airflow</a>: its note says why, and the DAG's documentation what to do.</p>",
            )
        )
    return told


def words(context: Context) -> str:
    """What a person on call reads: which run, what failed of it, and where to look."""
    dag_id, run_id = context["dag"].dag_id, context["run_id"]
    ti = context.get("ti")
    task = f" at {ti.task_id}" if ti is not None else ""
    page = f"{load_settings().airflow}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"
    return f"{dag_id} failed{task}: run {run_id} ({context.get('reason') or 'no reason was told'}). {page}"


class LogAlert(BaseNotifier):
    """A line of the DAG processor's log, which writes these callbacks' output below ``logs/dag-files/``."""

    def notify(self, context: Context) -> None:
        self.log.error("%s", words(context))


class WebhookAlert(BaseNotifier):
    """JSON ``{"text", "dag_id", "run_id", "reason"}`` to a web hook; Slack, Mattermost and Teams read the text.

    Args:
        url: Of the hook. It is a secret: whoever has it may write there.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def notify(self, context: Context) -> None:
        import httpx

        body = {
            "text": words(context),
            "dag_id": context["dag"].dag_id,
            "run_id": context["run_id"],
            "reason": str(context.get("reason") or ""),
        }
        answer = httpx.post(self._url, json=body, timeout=_SECONDS)
        if answer.is_error:  # the error's own text would show the address
            raise RuntimeError(f"the alert's web hook answers {answer.status_code}: {answer.text[:200]}")
