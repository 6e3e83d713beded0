"""The pages as people use them, in headless Chromium on the running system: Airflow's form, links, MLflow's aliases, the server's page.

The tests share the system of ``test_whole_system.py``, and run in their order after it.
"""

import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.e2e.homes import finished, follow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CALLERS = 2
PATIENT = 120_000  # milliseconds


@pytest.fixture(scope="module", autouse=True)
def _two_versions(system):
    """Version 1 in production and version 2 beside it, as the tests before leave them; or else made here."""
    system.headrace("demo")
    with system.registry() as registry, system.airflow() as airflow:
        if registry.version("failure", "2") is None:
            airflow.trigger("train_failure", "second", {**window(), "trials": 4})
            follow(airflow, "train_failure", "second", finished, 400)
        registry.set_alias("failure", "production", "1")


@pytest.fixture(scope="module")
def airflow_url(system):
    return system.settings.airflow


@pytest.fixture(scope="module")
def page(system, browser):
    """A page that is logged in to Airflow."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(PATIENT)
    system.log_in(page)
    yield page
    page.close()


def window():
    today = datetime.now(UTC).date()
    return {
        "window_start": (today - timedelta(days=30)).isoformat(),
        "window_end": (today - timedelta(days=2)).isoformat(),
    }


def run_page(airflow_url, run_id, task_id=None):
    task = f"/tasks/{task_id}/details" if task_id else ""
    return f"{airflow_url}/dags/train_failure/runs/{run_id}{task}"


@pytest.fixture(scope="module")
def triggered(system, page, airflow_url):
    """A run that was started by the form of ``train_failure``; its id."""
    page.goto(f"{airflow_url}/dags/train_failure", wait_until="domcontentloaded")
    page.get_by_test_id("trigger-dag-button").click()
    form = page.get_by_role("dialog")
    form.get_by_text("What it works on").click()
    form.locator("[name=element_window_start]").fill(window()["window_start"])
    form.locator("[name=element_window_end]").fill(window()["window_end"])
    form.get_by_role("spinbutton").fill("4")
    page.keyboard.press("Tab")
    with page.expect_response(
        lambda response: response.url.endswith("/dagRuns") and response.request.method == "POST"
    ) as answered:
        page.get_by_test_id("trigger-dag-submit").click()
    run = answered.value.json()
    assert run["conf"]["window_start"] == window()["window_start"], run
    assert run["conf"]["trials"] == 4
    with system.airflow() as airflow:
        ended, tasks = follow(airflow, "train_failure", run["dag_run_id"], finished, 400)
    assert ended.state == "success", [(task.task_id, task.state) for task in tasks]
    return run["dag_run_id"]


def test_a_run_is_triggered_by_the_form_and_its_page_says_the_verdict(page, airflow_url, triggered):
    page.goto(run_page(airflow_url, triggered), wait_until="domcontentloaded")
    page.get_by_text("Success").first.wait_for()
    page.get_by_text("of failure is in production").first.wait_for()  # the run's note


def test_the_form_refuses_a_date_that_is_none(system):
    from headrace.airflow_api import AirflowRefusedError

    with system.airflow() as airflow, pytest.raises(AirflowRefusedError) as refused:
        airflow.trigger("train_failure", "no-date", {"window_start": "the other day"})
    assert refused.value.status == 400


def test_notes_carry_the_verdict(system, triggered):
    with system.airflow() as airflow:
        run = airflow._call("GET", f"/api/v2/dags/train_failure/dagRuns/{triggered}")
        tasks = airflow._call("GET", f"/api/v2/dags/train_failure/dagRuns/{triggered}/taskInstances")
    notes = {(task["task_id"], task["map_index"]): task["note"] for task in tasks["task_instances"]}
    assert "of failure is in production" in run["note"]
    assert "[The gate's report](http" in run["note"]
    assert "rows of telemetry came clean" in notes["validate", 0]
    assert "Best of 4 trials" in notes["tune", -1]
    assert re.match(r"\*\*(pass|fail|insufficient evidence)\*\*", notes["evaluate", -1])


def test_links_lead_to_the_run_in_mlflow_the_report_and_data_docs(page, airflow_url, triggered):
    page.goto(run_page(airflow_url, triggered, "evaluate"), wait_until="domcontentloaded")
    link = page.get_by_role("link", name="Run in MLflow")
    link.wait_for()
    run = link.get_attribute("href")
    report = page.get_by_role("link", name="The gate's report").get_attribute("href")
    assert "/experiments/" in run
    page.goto(run, wait_until="domcontentloaded")
    page.get_by_text("The report, with plots").first.wait_for()  # the run's description
    page.goto(report, wait_until="domcontentloaded")
    heading = page.frame_locator("iframe").locator("h1").first
    heading.wait_for()
    assert "failure version" in heading.inner_text()
    page.goto(run_page(airflow_url, triggered, "features"), wait_until="domcontentloaded")
    link = page.get_by_role("link", name="Data Docs")
    link.wait_for()
    answer = page.goto(link.get_attribute("href"), wait_until="domcontentloaded")
    assert answer.status == 200
    page.get_by_role("link", name="telemetry").click()
    page.wait_for_url(re.compile("index.html"), wait_until="domcontentloaded")


def test_data_docs_are_for_people_that_are_logged_in(airflow_url):
    answer = httpx.get(f"{airflow_url}/headrace/data-docs/", follow_redirects=False, trust_env=False)
    assert answer.status_code == 307
    assert "/auth/login" in answer.headers["location"]


class Callers:
    """Requests one after the other by some threads.

    Keeps when each was sent and answered (Unix time), and by which version; or how it failed.
    """

    def __init__(self, url):
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]
        self.answered = []
        self.failed = []

    def _call(self):
        with httpx.Client(timeout=10, trust_env=False) as http:
            while not self._stop.is_set():
                sent = time.time()
                try:
                    answer = http.post(self._url, json={"records": [{}]})
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                if answer.status_code == httpx.codes.OK:
                    self.answered.append((sent, time.time(), answer.json()["version"]))
                else:
                    self.failed.append(answer.text)
                time.sleep(0.01)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_the_alias_is_moved_in_mlflow_by_clicking_under_load_and_the_server_follows_within_two_seconds(
    system, page
):
    with system.registry() as registry:
        registry.set_alias("failure", "production", "2")
    system.headrace("history", "failure")  # the ledger has it now, so that what follows is a move of its own
    url = f"{system.settings.serving}/models/failure/predict"
    with Callers(url) as callers:
        wait_until(lambda: callers.answered and callers.answered[-1][2] == "2", 10)
        page.goto(
            f"{system.settings.tracking}/#/models/failure/versions/1",
            wait_until="domcontentloaded",
        )
        page.get_by_title(re.compile("(Add|Edit) aliases")).click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("combobox").click()
        page.get_by_test_id("model-alias-option").filter(has_text="production").click()
        with page.expect_response(
            lambda response: "registered-models/alias" in response.url and response.request.method == "POST"
        ) as answered:
            dialog.get_by_role("button", name="Save aliases").click()
        wait_until(lambda: callers.answered[-1][2] == "1", 10)
        time.sleep(1)
    assert callers.failed == []
    timing = answered.value.request.timing
    moved = (timing["startTime"] + timing["responseStart"]) / 1000
    first = min(at for _, at, version in callers.answered if version == "1")
    assert first - moved < 2
    after = {version for sent, _, version in callers.answered if sent > first}
    assert after == {"1"}, "once version 1 answers, version 2 does no more"
    last = json.loads(system.headrace("history", "failure", "--json").stdout)[-1]
    assert (last["from_version"], last["to_version"]) == ("2", "1")
    assert last["action"] in {"moved outside", "rolled back outside"}


def test_a_prediction_is_tried_on_the_servers_page(system, page):
    machine = first_machine(system)
    midnight = f"{datetime.now(UTC).date().isoformat()}T00:00:00Z"
    refused = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    page.goto(system.settings.serving, wait_until="domcontentloaded")
    page.get_by_text("version 1 answers").wait_for()
    page.get_by_text("Try a prediction of failure").click()
    page.locator("#model-failure input[name=entity]").fill(machine)
    page.locator("#model-failure input[name=at]").fill(midnight)
    page.get_by_role("button", name="Predict for the entity").first.click()
    page.get_by_text("Answer of").wait_for()
    shown = page.locator("#model-failure .answer-of").inner_text()
    told = httpx.post(
        f"{system.settings.serving}/models/failure/predict",
        json={"entities": [machine], "at": midnight},
        timeout=60,
    ).json()["predictions"][0]
    assert f"{told['probability']:.5g}" in shown
    assert page.locator("#model-failure .shares tr").count() == 12
    assert page.locator("#model-failure .spark svg").count() == 3
    assert refused == [], "the content security policy refused something of the page itself"


def test_a_backfill_reads_what_is_missing_and_doubles_nothing(system):
    """Two hourly runs whose windows of a day overlap; then the same once more."""
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=60)
    span = {"from_date": day.isoformat(), "to_date": (day + timedelta(hours=2)).isoformat()}
    assert telemetry_of(system, day) == 0
    with system.airflow() as airflow:
        first = backfill(airflow, span, "none")
        read = telemetry_of(system, day)
        again = backfill(airflow, span, "completed")
    assert first == again == 2
    assert 0 < read <= 25 * 12 * 60, "25 hours of 60 machines, a row every five minutes at most"
    assert telemetry_of(system, day) == read


def telemetry_of(system, day):
    """Clean rows about a day and what is around it; none is there twice."""
    import polars as pl

    from pipelines.adapters.lake import Lake

    around = pl.col("event_time").is_between(day - timedelta(days=2), day + timedelta(days=1))
    table = Lake(str(system.home / "lake")).scan("clean/simulated/telemetry").filter(around)
    keys = table.select("machine_id", "event_time").collect()
    assert keys.is_duplicated().sum() == 0
    return keys.height


def backfill(airflow, span, behaviour):
    """How many runs there were, once all have succeeded and Airflow has closed the backfill."""
    body = {"dag_id": "ingest_telemetry", "max_active_runs": 2, "reprocess_behavior": behaviour, **span}
    made = airflow._call("POST", "/api/v2/backfills", json=body)["id"]
    path = f"/api/v2/backfills/{made}"
    wait_until(lambda: airflow._call("GET", path)["completed_at"], 300)
    query = {"run_type": "backfill", "limit": 50}
    runs = airflow._call("GET", "/api/v2/dags/ingest_telemetry/dagRuns", params=query)["dag_runs"]
    assert {run["state"] for run in runs} == {"success"}
    return len(runs)


def first_machine(system):
    from pipelines.adapters.lake import Lake

    lake = Lake(str(system.home / "lake"))
    return lake.scan("clean/simulated/machines").select("machine_id").first().collect().item()


def wait_until(reached, seconds):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
