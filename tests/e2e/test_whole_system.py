"""The whole system, running: `headrace demo` on a home and ports of its own, then what must hold of it.

The tests of this file share one system with those of its pages, and run in their order; the first takes minutes.
"""

import json
import os
import signal
import time

import httpx
import pytest

from tests.e2e.homes import finished, follow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_the_demo_ends_with_a_model_that_airflow_trained_and_the_server_answers_with(system):
    shown = system.headrace("demo")
    status = json.loads(system.headrace("status", "--json").stdout)
    assert {
        name: status["services"][name]["state"] for name in ("airflow", "mlflow", "serving")
    } == dict.fromkeys(("airflow", "mlflow", "serving"), "up")
    assert status["models"]["failure"] == {
        "production": "1",
        "previous": None,
        "challenger": None,
        "serving": "1",
    }
    assert "pass" in shown.stdout
    assert "probability" in shown.stdout
    version = system.registry().version("failure", "1")
    assert version.tags["headrace.verdict"] == "pass"


def test_the_demo_again_changes_nothing(system):
    system.headrace("demo")
    assert len(system.registry().versions("failure")) == 1
    history = system.headrace("history", "failure")
    assert history.stdout.count("promote") == 1


def test_a_machine_is_answered_for_from_the_online_store(system):
    from pipelines.adapters.lake import Lake

    machine = (
        Lake(str(system.home / "lake"))
        .scan("clean/simulated/machines")
        .select("machine_id")
        .first()
        .collect()
        .item()
    )
    url = f"{system.settings.serving}/models/failure/predict"
    answer = httpx.post(url, json={"entities": [machine], "at": f"{_days_ago(0)}T00:00:00Z"}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert 0 <= answer.json()["predictions"][0]["probability"] <= 1
    unknown = httpx.post(url, json={"entities": ["no-such-machine"]}, timeout=60)
    assert unknown.status_code == 404
    assert "no-such-machine" in unknown.text
    stale = httpx.post(url, json={"entities": [machine], "at": f"{_days_ago(-9)}T00:00:00Z"}, timeout=60)
    assert stale.status_code == 503
    assert "telemetry_windows" in stale.text


def test_a_task_that_is_killed_is_run_again_and_there_is_one_version(system):
    conf = {"window_start": _days_ago(30), "window_end": _days_ago(2), "trials": 4}
    with system.airflow() as airflow:
        airflow.trigger("train_failure", "killed", conf)

        def tuning(_, tasks):
            return any(task.task_id == "tune" and task.state == "running" for task in tasks)

        follow(airflow, "train_failure", "killed", tuning, 240)
        time.sleep(4)
        os.kill(_pid_of(airflow, "train_failure", "killed", "tune"), signal.SIGKILL)
        run, tasks = follow(airflow, "train_failure", "killed", finished, 300)
    assert run.state == "success"
    assert next(task.try_number for task in tasks if task.task_id == "tune") == 2
    assert len(system.registry().versions("failure")) == 2


def test_a_batch_that_is_broken_as_a_whole_stops_the_run_and_the_log_says_what_and_where(system, tmp_path):
    profile = _broken_source(tmp_path)
    with system.airflow() as airflow:
        airflow.trigger(
            "train_failure",
            "broken",
            {"window_start": "2026-01-01", "window_end": "2026-01-03", "source": str(profile)},
        )
        run, tasks = follow(airflow, "train_failure", "broken", finished, 180)
        assert run.state == "failed"
        failed = next(task for task in tasks if task.task_id == "validate" and task.state == "failed")
        assert failed.try_number == 1, "a broken batch is not tried again"
        last_lines = "\n".join(airflow.log("train_failure", "broken", failed)[-30:])
    assert "cpu_percent" in last_lines
    assert "broken" in last_lines
    assert "2026-01-01" in last_lines
    states = {task.task_id: task.state for task in tasks}
    assert states["features"] == states["promote"] == "upstream_failed"


def test_rollback_by_alias_is_followed_within_two_seconds(system):
    from pipelines.adapters.registry import ALIAS_PRODUCTION

    registry, url = system.registry(), f"{system.settings.serving}/models/failure/predict"
    for version in ("2", "1"):
        registry.set_alias("failure", ALIAS_PRODUCTION, version)
        deadline = time.monotonic() + 2
        serving = None
        while time.monotonic() < deadline and serving != version:
            serving = httpx.post(url, json={"records": [{}]}, timeout=10).json().get("version")
        assert serving == version


def _days_ago(days):
    from datetime import UTC, datetime, timedelta

    return (datetime.now(UTC).date() - timedelta(days=days)).isoformat()


def _pid_of(airflow, dag_id, run_id, task_id):
    """Process of a running task, as Airflow knows it."""
    answer = airflow._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")
    return int(answer["pid"])


def _broken_source(folder):
    """A fleet of files in which one metric is text in nearly every row."""
    import yaml

    from pipelines.sources.profile import BUNDLED

    simulated = yaml.safe_load((BUNDLED / "simulated.yaml").read_text("utf-8"))
    wanted = ("telemetry", "events", "machines")
    gauges = [column["name"] for column in simulated["datasets"][0]["columns"][2:]]
    lines = [",".join(["machine_id", "event_time", *gauges])]
    for number in range(400):
        at = f"2026-01-0{1 + number // 200}T{number % 24:02d}:{number % 200 // 24 * 5:02d}:00Z"
        lines.append(",".join([f"m{number % 3}", at, "broken", *["1"] * (len(gauges) - 1)]))
    (folder / "telemetry.csv").write_text("\n".join(lines) + "\n")
    (folder / "events.csv").write_text(
        "machine_id,event_time,kind,code\nm0,2026-01-01T05:00:00Z,failure,disk\n"
    )
    (folder / "machines.csv").write_text(
        "machine_id,event_time,model,zone,age_years,cpu_cores,memory_gib\nm0,2026-01-01T00:00:00Z,m1,a,1,8,64\n"
    )
    profile = {
        **simulated,
        "name": "broken_fleet",
        "datasets": [dataset for dataset in simulated["datasets"] if dataset["name"] in wanted],
        "origin": {"kind": "files", "tables": {name: [{"url": f"{name}.csv"}] for name in wanted}},
    }
    path = folder / "broken.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path
