"""What a person on call meets: forms that refuse, groups that show the stages, notes, alerts, pools, and ends to runs."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.references import CandidateRef, Outcome, PromotionRef, SnapshotRef, VerdictRef

pytestmark = pytest.mark.integration  # Airflow

SNAPSHOT = SnapshotRef(
    model="failure",
    source="simulated",
    sha256="0" * 64,
    url="u",
    rows={"train": 1000},
    positives={"train": 10},
)
CANDIDATE = CandidateRef(
    model="failure", registered_name="failure", version="3", run_id="r", snapshot=SNAPSHOT
)


def verdict(reasons: tuple[str, ...], outcome: Outcome = Outcome.FAIL) -> VerdictRef:
    return VerdictRef(
        candidate=CANDIDATE,
        champion="2",
        outcome=outcome,
        reasons=reasons,
        report_url="http://mlflow/report.html",
    )


def all_dags() -> dict[str, Any]:
    from airflow.sdk import DAG

    from dags import features, ingest, monitor, pointers, predictions, protect, rollout, train

    modules = (features, ingest, monitor, pointers, predictions, protect, rollout, train)
    return {
        value.dag_id: value for module in modules for value in vars(module).values() if isinstance(value, DAG)
    }


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({}, True),
        ({"window_start": "2026-01-01", "window_end": "2026-02-01", "trials": 3}, True),
        ({"window_start": "01/02/2026"}, False),
        ({"window_end": "2026-02-31"}, False),
        ({"trials": 0}, False),
        ({"trials": 1001}, False),
        ({"trials": "many"}, False),
        ({"source": "azure_pdm"}, True),
        ({"source": 7}, False),
    ],
)
def test_the_form_refuses_what_no_run_could_use(given: dict[str, Any], fits: bool) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    from dags.train import train_failure

    def fill() -> None:
        params = deepcopy(train_failure.params)
        params.update(given)
        params.validate()

    if fits:
        fill()
    else:
        with pytest.raises(ParamValidationError):
            fill()


def test_the_stages_are_groups_and_their_tasks_keep_their_names() -> None:
    from dags.train import train_failure

    groups = {
        name: set(group.children)
        for name, group in train_failure.task_group.get_task_group_dict().items()
        if name
    }
    assert groups == {
        "data": {"ingest", "validate", "features"},
        "training": {"snapshot", "tune", "train"},
        "gate": {"evaluate", "promote"},
    }


def test_heavy_tasks_share_a_pool_and_every_dag_has_a_manual_an_end_and_somebody_to_tell() -> None:
    dags = all_dags()
    heavy = {"snapshot", "tune", "train", "evaluate"}
    for task in dags["train_failure"].tasks:
        assert (task.pool == "training") == (task.task_id in heavy), task.task_id
    for dag_id, dag in dags.items():
        assert dag.doc_md, dag_id
        assert "{" not in dag.doc_md, f"{dag_id}: a field of the manual was not filled in"
        assert dag.tags, dag_id
        assert all(task.owner != "airflow" for task in dag.tasks), dag_id
        assert all(task.retry_delay <= timedelta(minutes=1) for task in dag.tasks), dag_id
        assert dag.dagrun_timeout is not None, dag_id
        assert dag.on_failure_callback, dag_id
        assert dag.dag_display_name != dag_id


def test_assets_lead_from_the_raw_table_to_production() -> None:
    dags = all_dags()
    gives: dict[str, set[str]] = {}
    for dag in dags.values():
        for task in dag.tasks:
            for taken in task.inlets:
                gives.setdefault(taken.name, set()).update(given.name for given in task.outlets)
    reached, front = set(), {"telemetry_raw"}
    while front:
        reached |= front
        front = {name for each in front for name in gives.get(each, ())} - reached
    assert "production_failure" in reached


def test_a_note_that_is_too_long_keeps_its_link() -> None:
    from dags import notes

    text = notes.of_verdict(verdict(tuple("x" * 700 for _ in range(9))))
    assert len(text) <= 1000
    assert text.endswith("[The gate's report](http://mlflow/report.html)")
    assert text.startswith("**fail**: version 3 of failure beside champion 2.")
    promoted = PromotionRef(
        registered_name="failure", production="3", previous="2", moved=True, reason="judged beside champion 2"
    )
    told = notes.of_promotion(verdict(("good",), Outcome.PASS), promoted)
    assert "version 3 (before: 2) of failure is in production" in told


def _context() -> dict[str, Any]:
    from dags.train import train_failure

    return {
        "dag": train_failure,
        "run_id": "manual__2026-01-01T00:00:00+00:00",
        "reason": "task_failure",
        "ti": SimpleNamespace(task_id="validate"),
    }


@contextmanager
def web_hook(status: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A real server that keeps what it is sent."""
    came: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/secret-of-the-hook", came
        finally:
            server.shutdown()
            thread.join()


def test_a_failed_run_is_told_to_the_web_hook_with_the_way_to_its_page() -> None:
    from dags.alerts import WebhookAlert

    with web_hook(200) as (url, came):
        WebhookAlert(url)(_context())
    (told,) = came
    assert told["dag_id"] == "train_failure"
    assert "train_failure failed at validate" in told["text"]
    assert "/dags/train_failure/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00" in told["text"]


def test_a_web_hook_that_refuses_is_said_without_its_address() -> None:
    from dags.alerts import WebhookAlert

    with web_hook(403) as (url, _), pytest.raises(RuntimeError, match="403") as raised:
        WebhookAlert(url)(_context())
    assert "secret-of-the-hook" not in str(raised.value)


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs."""

    def handle(self) -> None:
        say = lambda line: self.wfile.write(f"{line}\r\n".encode())  # noqa: E731
        say("220 here")
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                say("354 go on")
                lines = []
                while (text := self.rfile.readline().decode()) not in {".\r\n", ""}:
                    lines.append(text)
                self.server.came.append("".join(lines))  # type: ignore[attr-defined]
            elif line.upper() == "QUIT":
                say("221 bye")
                return
            say("250 fine")


def test_a_failed_run_is_told_by_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    from dags import alerts

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mail) as server:
        server.came = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": server.server_address[1],
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "headrace@example.org"},
        }
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("HEADRACE_ALERT_EMAIL", "night@example.org, day@example.org")
        _, mail = alerts.on_failure()
        mail(_context())
        server.shutdown()
        (message,) = server.came  # type: ignore[attr-defined]
    assert "Subject: [headrace] train_failure failed" in message
    assert "night@example.org" in message
