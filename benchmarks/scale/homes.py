"""Homes of a benchmark's own: settings, ports, and the programs that run in them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headrace.airflow_api import AirflowApi, DagRun
from headrace.credentials import AIRFLOW_USER, credentials
from headrace.demo import wait_until_parsed
from headrace.errors import NotRunningError
from pipelines.settings import PREFIX, Settings, load_settings

PORTS = ("AIRFLOW_PORT", "MLFLOW_PORT", "SERVING_PORT", "SERVING_GRPC_PORT")
STOP_SECONDS = 30


class Home:
    """A folder of state with an environment that names it and nothing of the caller's own settings.

    Args:
        variables: Settings (with or without the prefix) and other variables, beside those of the shell.
    """

    def __init__(self, folder: Path, variables: dict[str, Any]) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)
        }
        self.set(HEADRACE_HOME=folder, **variables)
        self._running: list[subprocess.Popen[bytes]] = []

    def set(self, **variables: Any) -> None:
        self.environment |= {name: str(value) for name, value in variables.items()}

    @property
    def settings(self) -> Settings:
        return load_settings(self.environment)

    def headrace(self, *words: str) -> float:
        """Seconds of one command, from its start to its end.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"headrace {' '.join(words)}:\n{done.stdout}")
        return seconds

    def run(self, program: str) -> None:
        """Have one program run until :meth:`stop`; its log is in the folder."""
        self.folder.mkdir(exist_ok=True, parents=True)
        with (self.folder / f"{program}.log").open("wb") as log:
            command = [sys.executable, "-m", "headrace", "run", program]
            self._running.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def airflow(self) -> AirflowApi:
        settings = self.settings
        return AirflowApi(settings.airflow, AIRFLOW_USER, credentials(settings).airflow_password)


@contextmanager
def up(home: Home) -> Iterator[Home]:
    """What `headrace up` starts, for as long as the block lasts."""
    try:
        home.headrace("up")
        yield home
    finally:
        home.stop()
        home.headrace("down")


def alone(airflow: AirflowApi, dag_id: str) -> None:
    """Keep every other DAG from running beside this one."""
    wait_until_parsed(airflow, dag_id)
    for other in airflow.dag_ids() - {dag_id}:
        airflow.pause(other)


def finished(airflow: AirflowApi, dag_id: str, run_id: str, seconds: float) -> DagRun:
    """The run, once it has ended well.

    Raises:
        RuntimeError: it failed, or has not ended after so many seconds.
    """
    deadline = time.monotonic() + seconds
    run = None
    while time.monotonic() < deadline:
        with suppress(NotRunningError):  # a busy machine's pages may not answer in time
            run = airflow.run(dag_id, run_id)
            if run is not None and run.finished:
                break
        time.sleep(1)
    if run is None or run.state != "success":
        told = [(task.task_id, task.map_index, task.state) for task in airflow.tasks(dag_id, run_id)]
        raise RuntimeError(f"{dag_id} {run_id}: {run and run.state} within {seconds:.0f} s; {told}")
    return run


def free_ports(names: tuple[str, ...] = PORTS) -> dict[str, int]:
    """Settings of ports, each of this machine's free ones."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {
        f"{PREFIX}{name}": listener.getsockname()[1] for name, listener in zip(names, listeners, strict=True)
    }
    for listener in listeners:
        listener.close()
    return ports


@contextmanager
def redis_server(folder: Path) -> Iterator[int | None]:
    """A Redis of our own; None where the program is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        print("no redis-server on this machine: SQLite alone", file=sys.stderr)
        yield None
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    time.sleep(1)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()
