"""Nobody answers in time, a person refuses, and approves when asked again: in the real Airflow page, in headless Chromium.

Then the two DAGs that look after what serves: `pointers` and `protect`.

The tests of this file share one system and run in their order; the first takes minutes. Those with a
page need Debian's ``chromium`` (or another, named by CHROMIUM) and are skipped, with the reason, without it.
"""

import json
import time

import httpx
import pytest
import yaml

from headrace.demo import wait_until_parsed
from tests.e2e.homes import Home, finished, follow, free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

PORTS = ("AIRFLOW", "MLFLOW", "SERVING")
WINDOW = {"window_start": "2026-03-02", "window_end": "2026-03-30", "trials": 1}
# So small a fleet proves little; what is tested here is who decides after the gate, not the gate.
GATE = {
    "bounds": {"average_precision": {"minimum": 0.0}},
    "min_rows": 1,
    "min_clusters": 2,
    "min_positives": 1,
}


class System(Home):
    """One home, in which the model ``failure`` asks for a person."""

    def __init__(self, folder):
        from pipelines.sources.profile import BUNDLED

        fleet = yaml.safe_load((BUNDLED / "simulated.yaml").read_text("utf-8"))
        fleet |= {"name": "asked", "origin": {"kind": "simulated", "machines": 30, "seed": 3}}
        fleet["models"] = {"failure": {"split": {"valid_share": 0.3, "holdout_share": 0.3}, "gate": GATE}}
        self._fleet, self._profile = fleet, folder / "asked.yaml"
        self.wait_for_a_person("PT1H")
        given = {
            "SOURCE": self._profile,
            "APPROVAL_MODELS": "failure",
            "SERVING_GRPC_PORT": 0,
            "EVIDENTLY_PORT": 0,
        }
        super().__init__(folder / "home", given | free_ports(PORTS))

    def wait_for_a_person(self, within):
        """Says how long; a task reads its DAG, and so the profile, when it starts."""
        self._fleet["models"]["failure"]["approval"] = {"within": within}
        self._profile.write_text(yaml.safe_dump(self._fleet, sort_keys=False))

    def history(self):
        return json.loads(self.headrace("history", "failure", "--json").stdout)

    def run_until(self, airflow, run_id, reached, seconds, dag_id="train_failure"):
        """Follows a run, none of whose tasks may fail; returns their states."""

        def until(run, tasks):
            states = {task.task_id: task.state for task in tasks}
            assert reached(run, states) or "failed" not in states.values(), states
            return reached(run, states)

        _, tasks = follow(airflow, dag_id, run_id, until, seconds)
        return {task.task_id: task.state for task in tasks}


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    running = System(tmp_path_factory.mktemp("approval"))
    try:
        running.headrace("up")
        yield running
    finally:
        running.headrace("down")


@pytest.fixture
def page(system, browser):
    """A page of the headless browser that is logged in to Airflow."""
    page = browser.new_page()
    page.set_default_timeout(120_000)
    system.log_in(page)
    yield page
    page.close()


def ask(system, airflow, run_id):
    """Starts a run and waits until it asks."""
    wait_until_parsed(airflow, "train_failure")
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


def link_of(system, page, run_id, task_id, name):
    """Address of one of the links under a task's details."""
    url = f"{system.settings.airflow}/dags/train_failure/runs/{run_id}/tasks/{task_id}/details"
    page.goto(url, wait_until="domcontentloaded")
    return page.get_by_role("link", name=name).get_attribute("href")


def serving(system):
    found = httpx.get(f"{system.settings.serving}/v2/models/failure", timeout=10)
    return found.json()["parameters"]["version"] if found.status_code == httpx.codes.OK else None


def test_no_answer_in_time_is_a_refusal(system):
    system.wait_for_a_person("PT20S")
    with system.airflow() as airflow:
        ask(system, airflow, "unanswered")
        states = system.run_until(airflow, "unanswered", finished, 120)
        assert airflow.run("train_failure", "unanswered").state == "success"
    assert (states["approve"], states["promote"]) == ("success", "skipped")
    with system.registry() as registry:
        assert registry.alias_version("failure", "production") is None
        assert "nobody answered" in registry.version("failure", "1").tags["headrace.approval"]
    (line,) = system.history()
    assert (line["action"], line["actor"], line["to_version"]) == ("not answered in time", "nobody", "1")


def test_a_candidate_that_a_person_refuses_is_not_promoted(system, page):
    system.wait_for_a_person("PT1H")
    with system.airflow() as airflow:
        ask(system, airflow, "refused")
        report = answer(system, page, "refused", "Reject")
        states = system.run_until(airflow, "refused", finished, 120)
        assert airflow.run("train_failure", "refused").state == "success"
    assert (states["approve"], states["promote"]) == ("success", "skipped")
    run_id = report.partition("/runs/")[2].partition("/")[0]
    assert report.startswith(system.settings.tracking)
    with system.registry() as registry:
        assert registry.run(run_id) is not None, "the link leads to the run's report"
        assert registry.alias_version("failure", "production") is None
        assert "refused by admin" in registry.version("failure", "1").tags["headrace.approval"]
    assert serving(system) is None
    assert link_of(system, page, "refused", "evaluate", "The gate's report") == report
    _, line = system.history()
    assert (line["action"], line["actor"], line["to_version"]) == ("refuse", "admin", "1")


def test_the_same_candidate_is_promoted_when_a_person_approves_it(system, page):
    with system.airflow() as airflow:
        ask(system, airflow, "approved")
        answer(system, page, "approved", "Approve")
        states = system.run_until(airflow, "approved", finished, 180)
    assert states["promote"] == "success"
    _, refused, approved, promoted = system.history()
    assert (refused["action"], approved["action"], approved["actor"]) == ("refuse", "approve", "admin")
    assert (promoted["action"], promoted["to_version"], promoted["approved_by"]) == ("promote", "1", "admin")
    assert promoted["approved_at"] == approved["at"]
    deadline = time.monotonic() + 20
    while serving(system) != "1":
        assert time.monotonic() < deadline, "the server does not answer with the approved version"
        time.sleep(0.2)


def run_now(system, dag_id, run_id):
    with system.airflow() as airflow:
        wait_until_parsed(airflow, dag_id)
        airflow.unpause(dag_id)
        airflow.trigger(dag_id, run_id, {})
        system.run_until(airflow, run_id, finished, 120, dag_id)
        return airflow.run(dag_id, run_id).state


@pytest.mark.usefixtures("browser")  # without one, nobody has approved anything
def test_an_alias_that_was_taken_off_in_mlflow_enters_the_ledger_by_the_dag(system):
    with system.registry() as registry:
        registry.delete_alias("failure", "production")
        assert run_now(system, "pointers", "taken-off") == "success"
        outside = system.history()[-1]
        assert (outside["action"], outside["from_version"], outside["to_version"]) == (
            "moved outside",
            "1",
            None,
        )
        registry.set_alias("failure", "production", "1")
        assert run_now(system, "pointers", "put-back") == "success"
    assert system.history()[-1]["to_version"] == "1"


@pytest.mark.usefixtures("browser")
def test_the_run_of_what_serves_is_brought_back_by_the_dag_when_somebody_deletes_it(system):
    from pipelines.adapters import tracking

    client = tracking.client(system.settings)
    with system.registry() as registry:
        run_id = registry.alias_version("failure", "production").run_id
    client.delete_run(run_id)
    assert run_now(system, "protect", "deleted") == "success"
    assert client.get_run(run_id).info.lifecycle_stage == "active"
