"""Notes: what came of a task, on its own page and on that of its run, where a person looks first.

A task may not write notes by the way that it talks to Airflow; the REST API may. Its login is that of
Airflow's own password file, which the processes on one machine share, or else the Airflow connection
``headrace_airflow`` (login and password). Where there is neither, what would be the note is in the log.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.sdk import get_current_context

from pipelines.references import Outcome, PromotionRef, SnapshotRef, StudyRef, ValidationRef, VerdictRef
from pipelines.settings import LOOPBACK, load_settings

if TYPE_CHECKING:
    import httpx
    from airflow.sdk import Context

    from pipelines.monitor.job import CheckRef

CONNECTION = "headrace_airflow"
_LONGEST = 1000  # characters that Airflow takes
_SHOWN_REASONS = 4
_SECONDS = 10.0

log = logging.getLogger(__name__)


def note(text: str, *, on_run: bool = False) -> None:
    """Leave a note on the running task, and on its run where asked. A note that fails stops no work.

    Args:
        text: Markdown. What is longer than Airflow takes is cut.
    """
    _write(get_current_context(), text, on_run)


def note_failure(context: Context) -> None:
    """What a task failed of, on the task and on its run: for ``on_failure_callback``."""
    error = context.get("exception")
    kind = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
    told = error or "its process ended, or its time ran out; its log has the last that it said"
    _write(context, f"**{context['ti'].task_id} failed.** {kind}{told}", on_run=True)


def of_validation(found: ValidationRef, docs: str | None) -> str:
    """Rows by what became of them, and where the expectations are told in words."""
    text = (
        f"{found.clean.rows_added:,} rows of {found.dataset} came clean, "
        f"{found.quarantine.rows_added:,} went to quarantine."
    )
    return f"{text} [Data Docs]({docs})" if docs else text


def of_snapshot(found: SnapshotRef) -> str:
    parts = ", ".join(f"{part} {count:,}" for part, count in found.rows.items())
    outcomes = ", ".join(f"{part} {count:,}" for part, count in found.positives.items())
    positives = f" Positives: {outcomes}." if outcomes else ""
    return f"Rows: {parts}.{positives} Content `{found.sha256[:12]}`."


def of_study(found: StudyRef) -> str:
    best = ", ".join(f"{name} {_short(value)}" for name, value in found.best_params.items())
    return f"Best of {found.trials} trials: {found.best_value:.4g}, by {best}."


def of_verdict(found: VerdictRef) -> str:
    """The verdict in a line, what spoke against the candidate, and the way to the report."""
    candidate = found.candidate
    against = f" beside champion {found.champion}" if found.champion else ", with no champion to compare with"
    text = f"**{found.outcome.value}**: version {candidate.version} of {candidate.registered_name}{against}."
    if found.outcome is not Outcome.PASS:
        text += "".join(f"\n- {reason}" for reason in found.reasons[:_SHOWN_REASONS])
    return _with_link(text, "The gate's report", found.report_url)


def of_promotion(verdict: VerdictRef, found: PromotionRef) -> str:
    """What serves now, and why."""
    before = f" (before: {found.previous})" if found.previous else ""
    serves = f"version {found.production}{before}" if found.production else "no version"
    text = (
        f"**{verdict.outcome.value}**; {serves} of {found.registered_name} is in production: {found.reason}."
    )
    return _with_link(text, "The gate's report", verdict.report_url)


def of_check(found: CheckRef) -> str:
    """What monitoring saw of a version, and whether a training is asked for."""
    score = "" if found.drift_score is None else f" Drift score {found.drift_score:.2f}."
    asked = "" if found.request is None else f" Request {found.request} to train is open."
    text = f"**{found.cause.value}**: version {found.version} of {found.registered_name}. {found.reason}.{score}{asked}"
    return _with_link(text, "Drift report", found.report_url)


def _with_link(text: str, name: str, url: str | None) -> str:
    """The text cut so that its link, where there is one, stays whole."""
    if not url:
        return text
    link = f"\n\n[{name}]({url})"
    room = _LONGEST - len(link)
    return (text if len(text) <= room else f"{text[: room - 1]}…") + link


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write(context: Context, text: str, on_run: bool) -> None:
    import httpx
    from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError

    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    try:
        login = _login()
        if login is None:
            log.info("%s", text)
            return
        url = load_settings().airflow
        with httpx.Client(
            base_url=url, timeout=_SECONDS, trust_env=urlsplit(url).hostname not in LOOPBACK
        ) as http:
            http.headers["authorization"] = f"Bearer {_token(http, login)}"
            for path in _paths(context, on_run):
                _patch(http, path, text)
    except (AirflowException, AirflowRuntimeError, httpx.HTTPError, OSError, ValueError) as error:
        log.warning("no note was left in Airflow (%s): %s", error, text)


def _paths(context: Context, on_run: bool) -> list[str]:
    ti = context["ti"]
    run = f"/api/v2/dags/{quote(ti.dag_id)}/dagRuns/{quote(ti.run_id, safe='')}"
    task = f"{run}/taskInstances/{quote(ti.task_id)}"
    mapped = ti.map_index is not None and ti.map_index >= 0
    return [f"{task}/{ti.map_index}" if mapped else task, *([run] if on_run else [])]


def _patch(http: httpx.Client, path: str, text: str) -> None:
    http.patch(path, params={"update_mask": "note"}, json={"note": text}).raise_for_status()


def _token(http: httpx.Client, login: tuple[str, str]) -> str:
    body = dict(zip(("username", "password"), login, strict=True))
    token: str = http.post("/auth/token", json=body).raise_for_status().json()["access_token"]
    return token


def _login() -> tuple[str, str] | None:
    """User and password for the REST API; None: notes are not for this machine to write."""
    from airflow.providers.common.compat.sdk import conf

    passwords = conf.get("core", "simple_auth_manager_passwords_file", fallback=None)
    if passwords and os.access(passwords, os.R_OK):
        known: dict[str, Any] = json.loads(Path(passwords).read_text("utf-8"))
        for user, password in known.items():
            return user, str(password)
    return _connection()


def _connection() -> tuple[str, str] | None:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        found = BaseHook.get_connection(CONNECTION)
    except AirflowNotFoundException:
        return None
    return (found.login, found.password) if found.login and found.password else None
