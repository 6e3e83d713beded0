"""What the running systems of these tests have in common: a home with its command line, and its Airflow."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest

from headrace.airflow_api import AirflowApi
from headrace.credentials import AIRFLOW_USER, credentials
from headrace.errors import NotRunningError
from pipelines.adapters.registry import Registry
from pipelines.settings import PREFIX, load_settings


class Home:
    """A home, and the command line in it.

    Attributes:
        environment: Of its processes: that of the tests without their settings, and those that were given.
    """

    def __init__(self, home, given):
        """``given``: settings, by their names without the prefix."""
        self.home = home
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(PREFIX)},
            **{f"{PREFIX}{name}": str(value) for name, value in given.items()},
            f"{PREFIX}HOME": str(home),
        }

    @property
    def settings(self):
        return load_settings(self.environment)

    def headrace(self, *words, check=True):
        """``headrace WORDS`` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"headrace {words}: {done.stdout}\n{done.stderr}"
        return done

    def airflow(self):
        return AirflowApi(self.settings.airflow, *self.login())

    def login(self):
        """User and password of Airflow's pages."""
        return AIRFLOW_USER, credentials(self.settings).airflow_password

    def registry(self):
        return Registry(self.settings.tracking)

    def log_in(self, page):
        """Take a page of the browser through Airflow's door."""
        user, password = self.login()
        page.goto(self.settings.airflow, wait_until="domcontentloaded")
        page.locator("input[type=password]").fill(password)
        page.locator("input").first.fill(user)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/auth/login" not in url, wait_until="domcontentloaded")


def free_ports(names):
    """Settings ``…_PORT``, each with another port: all are held until the last is found."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return {f"{name}_PORT": port for name, port in zip(names, ports, strict=True)}


def follow(airflow, dag_id, run_id, until, seconds):
    """A run and its tasks, once ``until(run, tasks)`` is true of them."""
    run, tasks = None, []
    for _ in range(seconds * 2):
        with contextlib.suppress(NotRunningError):  # a busy machine's pages may not answer in time
            run, tasks = airflow.run(dag_id, run_id), airflow.tasks(dag_id, run_id)
            if until(run, tasks):
                return run, tasks
        time.sleep(0.5)
    states = [(task.task_id, task.state) for task in tasks]
    return pytest.fail(f"{dag_id} {run_id} after {seconds} s: {run}, {states}")


def finished(run, tasks):
    """For :func:`follow`."""
    return run.finished
