"""One running system for all tests that need no settings of their own, and a browser.

``system``: a home and ports of its own; the first test that takes it starts it by ``headrace demo`` or ``up``.
``browser``: headless Chromium: Debian's, or the one that CHROMIUM names; without one the test is skipped, and says so.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PORTS = ("AIRFLOW", "MLFLOW", "SERVING", "SERVING_GRPC", "EVIDENTLY")


class System:
    """One home with its command line and its Airflow."""

    def __init__(self, home, ports):
        self.home = home
        self.ports = ports
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            "HEADRACE_HOME": str(home),
            **{f"HEADRACE_{name}_PORT": str(port) for name, port in ports.items()},
        }

    def headrace(self, *words, check=True):
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"headrace {words}: {done.stdout}\n{done.stderr}"
        return done

    def status(self):
        return json.loads(self.headrace("status", "--json").stdout)

    @property
    def serving(self):
        return f"http://127.0.0.1:{self.ports['SERVING']}"

    def airflow(self):
        from headrace.airflow_api import AirflowApi
        from headrace.credentials import AIRFLOW_USER, credentials
        from pipelines.settings import load_settings

        settings = load_settings(self.environment)
        return AirflowApi(settings.airflow, AIRFLOW_USER, credentials(settings).airflow_password)

    def registry(self):
        from pipelines.adapters.registry import Registry

        return Registry(f"http://127.0.0.1:{self.ports['MLFLOW']}")

    def follow(self, airflow, dag_id, run_id, until, seconds):
        for _ in range(seconds * 2):
            run, tasks = airflow.run(dag_id, run_id), airflow.tasks(dag_id, run_id)
            if until(run, tasks):
                return run, tasks
            time.sleep(0.5)
        pytest.fail(
            f"{dag_id} {run_id} after {seconds} s: {run}, {[(task.task_id, task.state) for task in tasks]}"
        )


@pytest.fixture(scope="session")
def system(tmp_path_factory):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {name: listener.getsockname()[1] for name, listener in zip(PORTS, sockets, strict=True)}
    for listener in sockets:
        listener.close()
    running = System(tmp_path_factory.mktemp("home"), ports)
    yield running
    running.headrace("down", check=False)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium, or name one by CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
