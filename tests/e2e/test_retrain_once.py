"""Events that come twice, at once, or for nothing, and tasks that are killed: in a real Airflow there is one training,
and its request ends once.

The training fails at once, for its source has no files; what is tested is who trains and what is written down.
"""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PORTS = ("AIRFLOW", "MLFLOW", "SERVING")
PROFILE = """
name: empty
description: A source whose files are not there.
origin: {kind: files, tables: {telemetry: [], events: []}}
features: {hourly: {every: PT1H}}
models: {failure: {datasets: [telemetry, events], grid: null, inputs: ["*"]}}
datasets:
  - name: telemetry
    kind: telemetry
    description: What was measured.
    key: [machine_id, event_time]
    columns:
      - {name: machine_id, type: string, role: entity}
      - {name: event_time, type: timestamp, role: event_time}
      - {name: cpu_percent, type: float, role: gauge, nullable: true}
  - name: events
    kind: events
    description: What happened.
    key: [machine_id, event_time, kind]
    columns:
      - {name: machine_id, type: string, role: entity}
      - {name: event_time, type: timestamp, role: event_time}
      - {name: kind, type: string, role: category}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once")
    (folder / "empty.yaml").write_text(PROFILE, "utf-8")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {name: listener.getsockname()[1] for name, listener in zip(PORTS, sockets, strict=True)}
    for listener in sockets:
        listener.close()
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
        "HEADRACE_HOME": str(folder / "home"),
        "HEADRACE_SOURCE": str(folder / "empty.yaml"),
        "HEADRACE_SERVING_GRPC_PORT": "0",
        "HEADRACE_EVIDENTLY_PORT": "0",
        "PYTHONPATH": str(Path(__file__).with_name("killing")),
        "KILL_AT": str(folder),
        **{f"HEADRACE_{name}_PORT": str(port) for name, port in ports.items()},
    }

    def headrace(*words):
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *words],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"

    try:
        headrace("up")
        yield variables
    finally:
        headrace("down")


@pytest.fixture(scope="module")
def settings(environment):
    from pipelines.settings import load_settings

    return load_settings(environment)


@pytest.fixture(scope="module")
def airflow(settings):
    """The API, with a token."""
    import httpx

    from headrace.credentials import AIRFLOW_USER, credentials

    login = {"username": AIRFLOW_USER, "password": credentials(settings).airflow_password}
    with httpx.Client(base_url=settings.airflow, timeout=30, trust_env=False) as http:
        token = http.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        http.headers["Authorization"] = f"Bearer {token}"
        yield http


def ask(settings, work):
    from pipelines.adapters.lake import Lake
    from pipelines.monitor import requests
    from pipelines.monitor.records import Trigger

    requests.ask(
        Lake.of(settings), "failure", work=work, triggers=(Trigger.DRIFT_SCORE,), reason="it drifted",
        evidence="e", at=datetime.now(UTC),
    )  # fmt: skip


def known(settings):
    from pipelines.adapters.lake import Lake
    from pipelines.monitor import requests

    return requests.read(Lake.of(settings), "failure")


def asset_id(airflow, seconds=120):
    """Once the DAG that it wakes is known: an event before that would wake nobody."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        known = airflow.get("/api/v2/dags/train_failure").status_code == 200
        found = airflow.get("/api/v2/assets", params={"name_pattern": "retrain_failure"}).json()["assets"]
        if known and found and found[0]["scheduled_dags"]:
            return found[0]["id"]
        time.sleep(1)
    errors = airflow.get("/api/v2/importErrors").json()
    return pytest.fail(f"train_failure is not scheduled on the asset retrain_failure: {errors}")


def runs_when_idle(airflow, at_least, seconds=240):
    """Runs of train_failure once none is going on, with the states of their tasks."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        runs = airflow.get("/api/v2/dags/train_failure/dagRuns").json()["dag_runs"]
        if len(runs) >= at_least and all(run["state"] in {"success", "failed"} for run in runs):
            time.sleep(5)  # an event that still waits to become a run
            again = airflow.get("/api/v2/dags/train_failure/dagRuns").json()["dag_runs"]
            if len(again) == len(runs):
                break
        time.sleep(1)
    else:
        pytest.fail(f"after {seconds} s: {runs}")
    tasks = {}
    for run in runs:
        path = f"/api/v2/dags/train_failure/dagRuns/{run['dag_run_id']}/taskInstances"
        states = {task["task_id"]: task["state"] for task in airflow.get(path).json()["task_instances"]}
        tasks[run["dag_run_id"]] = (run["state"], states)
    return tasks


def post_events(airflow, asset, count):
    """At once. Airflow on SQLite answers some of them with 500, and they are lost: one arrives at least."""

    def post(_):
        return airflow.post("/api/v2/assets/events", json={"asset_id": asset, "extra": {}}).is_success

    with ThreadPoolExecutor(count) as pool:
        arrived = list(pool.map(post, range(count)))
    assert any(arrived)


def test_events_for_nothing_doubled_and_at_once_make_one_training(airflow, settings):
    asset = asset_id(airflow)

    post_events(airflow, asset, 1)  # late or lost its request: nothing to train for
    runs = runs_when_idle(airflow, 1)
    assert [states["take"] for _, states in runs.values()] == ["skipped"]
    assert known(settings) == []

    ask(settings, "check:1")
    ask(settings, "check:1")  # the same check, run again
    ask(settings, "check:2")
    post_events(airflow, asset, 4)
    after = runs_when_idle(airflow, len(runs) + 1)
    new = {name: run for name, run in after.items() if name not in runs}
    taken = [name for name, (_, states) in new.items() if states["take"] == "success"]
    assert len(taken) == 1, new
    [request] = known(settings)
    assert request.taken.run == taken[0]
    assert request.closed.outcome.value == "training failed"
    state, states = new[taken[0]]
    # That its end was written down does not make a failed run a successful one.
    assert (state, states["close"]) == ("failed", "success")
    assert all(states["take"] == "skipped" for name, (_, states) in new.items() if name != taken[0])


def test_a_run_that_is_killed_before_and_after_it_writes_takes_and_closes_once(
    airflow, environment, settings
):
    asset, before = asset_id(airflow), known(settings)
    moments = ("taken-before", "taken-after", "closed-before", "closed-after")
    for moment in moments:
        (Path(environment["KILL_AT"]) / moment).touch()
    ask(settings, "check:killed")
    runs = airflow.get("/api/v2/dags/train_failure/dagRuns").json()["dag_runs"]
    post_events(airflow, asset, 1)
    after = runs_when_idle(airflow, len(runs) + 1)
    assert not [moment for moment in moments if (Path(environment["KILL_AT"]) / moment).exists()]

    *others, request = known(settings)
    assert others == before
    assert [row.event.value for row in request.rows] == ["asked", "taken", "closed"]
    name = request.taken.run
    assert after[name][1]["close"] == "success"
    path = f"/api/v2/dags/train_failure/dagRuns/{name}/taskInstances"
    tries = {each["task_id"]: each["try_number"] for each in airflow.get(path).json()["task_instances"]}
    assert (tries["take"], tries["close"]) == (3, 3)
