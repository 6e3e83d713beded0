"""A person refuses a candidate, and approves it when asked again: in the real Airflow page, in headless Chromium.

The tests of this file share one system and run in their order; the first takes minutes. They need
Debian's ``chromium`` (or another, named by CHROMIUM) and are skipped, with the reason, without it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import httpx
import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PORTS = ("AIRFLOW", "MLFLOW", "SERVING")
WINDOW = {"window_start": "2026-03-02", "window_end": "2026-03-30", "trials": 1}
# So small a fleet proves little; what is tested here is who decides after the gate, not the gate.
GATE = {
    "bounds": {"average_precision": {"minimum": 0.0}},
    "min_rows": 1,
    "min_clusters": 2,
    "min_positives": 1,
}


class System:
    """One home, in which the model ``failure`` asks for a person."""

    def __init__(self, folder, ports):
        from pipelines.sources.profile import BUNDLED

        fleet = yaml.safe_load((BUNDLED / "simulated.yaml").read_text("utf-8"))
        fleet |= {"name": "asked", "origin": {"kind": "simulated", "machines": 30, "seed": 3}}
        fleet["models"] = {"failure": {"split": {"valid_share": 0.3, "holdout_share": 0.3}, "gate": GATE}}
        profile = folder / "asked.yaml"
        profile.write_text(yaml.safe_dump(fleet, sort_keys=False))
        self.home = folder / "home"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
            "HEADRACE_HOME": str(self.home),
            "HEADRACE_SOURCE": str(profile),
            "HEADRACE_APPROVAL_MODELS": "failure",
            "HEADRACE_SERVING_GRPC_PORT": "0",
            **{f"HEADRACE_{name}_PORT": str(port) for name, port in ports.items()},
        }

    def headrace(self, *words):
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"headrace {words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def history(self):
        return json.loads(self.headrace("history", "failure", "--json"))

    @property
    def settings(self):
        from pipelines.settings import load_settings

        return load_settings(self.environment)

    def airflow(self):
        from headrace.airflow_api import AirflowApi

        return AirflowApi(self.settings.airflow, *self.login())

    def registry(self):
        from pipelines.adapters.registry import Registry

        return Registry(self.settings.tracking)

    def login(self):
        from headrace.credentials import AIRFLOW_USER, credentials

        return AIRFLOW_USER, credentials(self.settings).airflow_password

    def run_until(self, airflow, run_id, reached, seconds):
        """Follows a run of ``train_failure``; returns its tasks' states."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            states = {task.task_id: task.state for task in airflow.tasks("train_failure", run_id)}
            run = airflow.run("train_failure", run_id)
            if reached(run, states):
                return states
            assert "failed" not in states.values(), states
            time.sleep(1)
        return pytest.fail(f"{run_id} after {seconds} s: {states}")


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium, or name one by CHROMIUM")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {name: listener.getsockname()[1] for name, listener in zip(PORTS, sockets, strict=True)}
    for listener in sockets:
        listener.close()
    running = System(tmp_path_factory.mktemp("approval"), ports)
    try:
        running.headrace("up")
        yield running
    finally:
        running.headrace("down")


@pytest.fixture
def page(system):
    """A page of the headless browser that is logged in to Airflow."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        user, password = system.login()
        page.goto(system.settings.airflow, wait_until="domcontentloaded")
        page.locator("input[type=password]").fill(password)
        page.locator("input").first.fill(user)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/auth/login" not in url, wait_until="domcontentloaded")
        yield page
        browser.close()


def ask(system, airflow, run_id):
    """Starts a run and waits until it asks."""
    airflow.unpause("train_failure")
    airflow.trigger("train_failure", run_id, WINDOW)
    states = system.run_until(
        airflow, run_id, lambda _, states: states.get("approve") == "awaiting_input", 900
    )
    assert states["promote"] is None
    with system.registry() as registry:
        assert registry.version("failure", "1").tags["headrace.approval"] == "pending"


def answer(system, page, run_id, option):
    """Opens the question, reads it as a person does, and presses the button."""
    url = f"{system.settings.airflow}/dags/train_failure/runs/{run_id}/tasks/approve/required_actions"
    page.goto(url, wait_until="domcontentloaded")
    page.get_by_text("Promote failure version 1?").wait_for()
    report = page.get_by_role("link", name="The gate's report").get_attribute("href")
    with page.expect_response(
        lambda response: "hitlDetails" in response.url and response.request.method == "PATCH"
    ):
        page.get_by_test_id(f"hitl-option-{option}").click()
    return report


def serving(system):
    found = httpx.get(f"{system.settings.serving}/v2/models/failure", timeout=10)
    return found.json()["parameters"]["version"] if found.status_code == httpx.codes.OK else None


def test_a_candidate_that_a_person_refuses_is_not_promoted(system, page):
    with system.airflow() as airflow:
        ask(system, airflow, "refused")
        report = answer(system, page, "refused", "Reject")
        states = system.run_until(airflow, "refused", lambda run, _: run.finished, 120)
        assert airflow.run("train_failure", "refused").state == "success"
    assert (states["approve"], states["promote"]) == ("success", "skipped")
    run_id = report.partition("/runs/")[2].partition("/")[0]
    assert report.startswith(system.settings.tracking)
    with system.registry() as registry:
        assert registry.run(run_id) is not None, "the link leads to the run's report"
        assert registry.alias_version("failure", "production") is None
        assert "refused by admin" in registry.version("failure", "1").tags["headrace.approval"]
    assert serving(system) is None
    (line,) = system.history()
    assert (line["action"], line["actor"], line["to_version"]) == ("refuse", "admin", "1")


def test_the_same_candidate_is_promoted_when_a_person_approves_it(system, page):
    with system.airflow() as airflow:
        ask(system, airflow, "approved")
        answer(system, page, "approved", "Approve")
        states = system.run_until(airflow, "approved", lambda run, _: run.finished, 180)
    assert states["promote"] == "success"
    refused, approved, promoted = system.history()
    assert (refused["action"], approved["action"], approved["actor"]) == ("refuse", "approve", "admin")
    assert (promoted["action"], promoted["to_version"], promoted["approved_by"]) == ("promote", "1", "admin")
    assert promoted["approved_at"] == approved["at"]
    deadline = time.monotonic() + 20
    while serving(system) != "1":
        assert time.monotonic() < deadline, "the server does not answer with the approved version"
        time.sleep(0.2)
