"""The whole tree, with the real Airflow, MLflow and server, in a home and on ports of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headrace.airflow_api import AirflowApi, AirflowRefusedError
from headrace.credentials import AIRFLOW_USER, credentials
from headrace.display import poll
from headrace.environment import MARKER
from headrace.supervision import Tree
from pipelines.settings import Settings, load_settings

pytestmark = pytest.mark.integration

PORTS = ("MLFLOW_PORT", "AIRFLOW_PORT", "SERVING_PORT", "SERVING_GRPC_PORT", "EVIDENTLY_PORT")


def free_ports(count: int) -> list[int]:
    """Different ones: all are held until the last is found."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("tree")
    dropped = ("HEADRACE_", "AIRFLOW", "PYTHONDONTWRITEBYTECODE")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
    ports = {f"HEADRACE_{name}": str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    variables = kept | ports | {"HEADRACE_HOME": str(home), "COLUMNS": "200"}
    yield variables
    headrace("down", env=variables)


@pytest.fixture(scope="module")
def running(environment: dict[str, str]) -> Settings:
    done = headrace("up", env=environment)
    assert done.returncode == 0, done.stderr
    return load_settings({name: text for name, text in environment.items() if name.startswith("HEADRACE_")})


def headrace(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments], env=env, capture_output=True, text=True, check=False
    )


def marked(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def listened_on(process: psutil.Process) -> list[tuple[str, int]]:
    try:
        connections = process.net_connections("inet")
    except psutil.NoSuchProcess:
        return []  # a task's process, which ended meanwhile
    return [(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN]


def test_trainings_have_a_pool_of_their_own(running: Settings) -> None:
    with AirflowApi(running.airflow, AIRFLOW_USER, credentials(running).airflow_password) as airflow:
        airflow.ensure_pool("training", 3, "more")
        assert {pool["name"]: pool["slots"] for pool in airflow.pools()}["training"] == 3
        airflow.ensure_pool("training", 1, "as before")
        assert {pool["name"]: pool["slots"] for pool in airflow.pools()}["training"] == 1


def test_all_answer_and_only_on_loopback(running: Settings, environment: dict[str, str]) -> None:
    status = headrace("status", "--json", env=environment)

    assert status.returncode == 0
    services = json.loads(status.stdout)["services"]
    assert {services[name]["state"] for name in ("airflow", "mlflow", "serving", "evidently")} == {"up"}
    listening = [address for process in marked(running.home) for address in listened_on(process)]
    # gRPC's own socket is of both families; bound to loopback it reads ::ffff:127.0.0.1.
    assert {ip.removeprefix("::ffff:") for ip, _ in listening} == {"127.0.0.1"}
    assert {port for _, port in listening} == {
        running.mlflow_port,
        running.airflow_port,
        running.serving_port,
        running.serving_grpc_port,
        running.evidently_port,
    }


def test_a_second_up_changes_nothing(running: Settings, environment: dict[str, str]) -> None:
    before = {info.name: info.pid for info in Tree(running).processes().values()}

    assert headrace("up", env=environment).returncode == 0

    assert {info.name: info.pid for info in Tree(running).processes().values()} == before


def test_another_home_is_told_who_has_the_port(
    running: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    done = headrace("up", env={**environment, "HEADRACE_HOME": str(tmp_path / "other")})

    assert done.returncode == 1
    assert f"port {running.mlflow_port} (MLflow) is taken by process" in done.stderr
    assert str(running.home) in done.stderr
    assert "set HEADRACE_MLFLOW_PORT to a free one" in done.stderr
    assert not marked(tmp_path / "other")


def test_airflow_runs_what_it_is_told_and_says_why_it_failed(running: Settings) -> None:
    with AirflowApi(running.airflow, AIRFLOW_USER, credentials(running).airflow_password) as api:
        assert poll(lambda: "ingest_telemetry" in api.dag_ids(), 60)
        assert api.import_errors() == {}
        assert api.run("ingest_telemetry", "nobody") is None
        with pytest.raises(AirflowRefusedError) as refusal:
            api.trigger("ingest_telemetry", "bad", {"window_start": "not a date"})
        assert refusal.value.status == 400

        conf = {"window_start": "2026-01-02", "window_end": "2026-01-01"}
        api.trigger("ingest_telemetry", "backwards", conf)

        def ended() -> bool:
            run = api.run("ingest_telemetry", "backwards")
            return run is not None and run.finished

        assert poll(ended, 120, every=1)
        tasks = {task.task_id: task for task in api.tasks("ingest_telemetry", "backwards")}
        assert tasks["ingest"].state == "failed"
        assert tasks["ingest"].try_number == 1, "a second try cannot mend a window"
        log = api.log("ingest_telemetry", "backwards", tasks["ingest"])
        assert [line for line in log[-5:] if line.startswith("WindowError: ") and "is not before end" in line]
        assert api.result("ingest_telemetry", "backwards", "window")["start"].startswith("2026-01-02")
        assert api.result("ingest_telemetry", "backwards", "validate") is None
        assert [run.run_id for run in api.recent_runs()][:1] == ["backwards"]

        api.retry("ingest_telemetry", "backwards")
        assert poll(ended, 120, every=1)
        assert poll(
            lambda: {task.try_number for task in api.tasks("ingest_telemetry", "backwards")} >= {2}, 30
        )


def test_a_wrong_password_is_said(running: Settings) -> None:
    with (
        AirflowApi(running.airflow, AIRFLOW_USER, "wrong") as api,
        pytest.raises(AirflowRefusedError, match="login of 'admin'"),
    ):
        api.dag_ids()


def test_a_killed_daemon_leaves_nothing_after_down_and_up_works_again(
    running: Settings, environment: dict[str, str]
) -> None:
    os.kill(int((running.home / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
    assert len(marked(running.home)) >= 6, "the processes outlive the daemon"

    done = headrace("down", env=environment)

    assert done.returncode == 0
    assert marked(running.home) == []
    assert headrace("up", env=environment).returncode == 0
    assert headrace("status", env=environment).returncode == 0


def test_up_after_a_killed_daemon_ends_what_is_left_and_starts_anew(
    running: Settings, environment: dict[str, str]
) -> None:
    os.kill(int((running.home / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
    left = marked(running.home)

    assert headrace("up", env=environment).returncode == 0

    assert not [process for process in left if process.is_running()]
    assert headrace("down", env=environment).returncode == 0
    assert marked(running.home) == []
