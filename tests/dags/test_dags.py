"""DAG files wire and do no more: they parse fast, import nothing heavy, and every DAG is complete."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration  # Airflow

DAGS = Path(__file__).parents[2] / "dags"
NO_DAGS = {
    "__init__",
    "alerts",
    "approval",
    "assets",
    "defaults",
    "links",
    "notes",
    "pages",
    "policy",
    "scheduler",
}
FILES = sorted(path.stem for path in DAGS.glob("*.py") if path.stem not in NO_DAGS)
HEAVY = {
    "pandas",
    "polars",
    "pyarrow",
    "deltalake",
    "tensorflow",
    "mlflow",
    "lightgbm",
    "sklearn",
    "optuna",
    "feast",
    "great_expectations",
    "matplotlib",
}

PARSE = """
import json, sys
import airflow.sdk
from airflow.sdk import CronTriggerTimetable, ExceptionRetryPolicy, Param, dag, task
before = set(sys.modules)
from importlib import import_module
module = import_module("dags." + sys.argv[1])
from airflow.sdk import DAG
dags = {value.dag_id: sorted(value.task_ids) for value in vars(module).values() if isinstance(value, DAG)}
print(json.dumps({"loaded": sorted(name.partition(".")[0] for name in set(sys.modules) - before), "dags": dags}))
"""


@pytest.fixture(scope="module")
def parse_with(tmp_path_factory):
    """``parse_with(name, **variables)`` reads a DAG file as Airflow does: in a process of its own."""
    home = tmp_path_factory.mktemp("home")
    environment = {
        "HEADRACE_HOME": str(home),
        "AIRFLOW_HOME": str(home / "airflow"),
        "PATH": "/usr/bin:/bin",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }

    def parse(name, **variables):
        done = subprocess.run(
            [sys.executable, "-c", PARSE, name],
            capture_output=True,
            text=True,
            env=environment | variables,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return parse


@pytest.fixture(scope="module")
def parsed(parse_with):
    return {name: parse_with(name) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_parsing_a_dag_file_loads_nothing_heavy(parsed, name):
    assert not HEAVY & set(parsed[name]["loaded"])


@pytest.mark.parametrize("name", FILES)
def test_every_dag_file_yields_dags(parsed, name):
    assert parsed[name]["dags"]


def test_a_train_dag_has_the_stages(parsed):
    assert parsed["train"]["dags"]["train_failure"] == sorted(
        [
            "take",
            "plan",
            "ingest",
            "validate",
            "features",
            "snapshot",
            "tune",
            "train",
            "evaluate",
            "promote",
            "close",
        ]
    )


def test_each_model_is_monitored(parsed):
    assert set(parsed["monitor"]["dags"]) == {
        name.replace("train_", "monitor_") for name in parsed["train"]["dags"]
    }
    assert parsed["monitor"]["dags"]["monitor_failure"] == ["ask", "check"]


def test_a_training_runs_on_its_schedule_and_on_the_drift_asset_and_its_end_is_written_down_whatever_happens():
    from dags.monitor import monitor_failure
    from dags.train import train_failure

    [asset] = monitor_failure.get_task("ask").outlets
    timetable = train_failure.timetable
    assert [each.uri for each in timetable.asset_condition.objects] == [asset.uri]
    assert timetable.timetable.expression == "0 3 * * 1"
    close = train_failure.get_task("close")
    # Else its success would make a failed run a successful one.
    assert close.is_teardown
    assert not close.on_failure_fail_dagrun


def test_a_model_that_asks_for_a_person_has_one_more_task(parse_with):
    dags = parse_with("train", HEADRACE_APPROVAL_MODELS="failure, cost")["dags"]
    asking = {name for name, tasks in dags.items() if "approve" in tasks}
    assert asking == {"train_failure", "train_cost"}
    everyone = parse_with("train", HEADRACE_APPROVAL_MODELS="*")["dags"]
    assert all("approve" in tasks for tasks in everyone.values())


def test_a_task_links_to_what_it_made():
    class Running:
        """What Airflow hands to a link: it can ask for what tasks returned."""

        def xcom_pull(self, task_ids):
            return {
                "train": {"registered_name": "failure of disks", "version": "7"},
                "features": {"source": "simulated"},
                "promote": {"registered_name": "failure of disks"},
                "evaluate": {"report_url": "http://mlflow/report.html"},
            }.get(task_ids)

    from dags.links import GateReport, VersionPage
    from dags.train import train_failure

    def links(task_id):
        offered = train_failure.get_task(task_id).operator_extra_links
        return {
            link.name: link.get_link(None, ti_key=Running())
            for link in offered
            if link.name != "Run in MLflow"
        }

    version = "/#/models/failure%20of%20disks/versions/7"
    assert links("train")["Version in MLflow"].endswith(version)
    for task_id in ("evaluate", "promote"):
        assert links(task_id)["The gate's report"] == "http://mlflow/report.html"
        assert links(task_id)["Version in MLflow"].endswith(version)
    assert links("features")["Data Docs"].endswith("/headrace/data-docs/simulated/")
    assert links("promote")["On the server"].endswith("/#model-failure%20of%20disks")
    assert VersionPage("unknown").get_link(None, ti_key=Running()) == ""
    assert GateReport("unknown").get_link(None, ti_key=Running()) == ""


def test_what_versions_in_use_need_is_looked_after(parsed):
    assert parsed["protect"]["dags"] == {"protect": ["restore"]}


def test_each_model_has_a_rollout_dag(parsed):
    assert len(parsed["rollout"]["dags"]) == 8
    assert parsed["rollout"]["dags"]["rollout_failure"] == ["advance", "begin", "outcome"]


def test_the_pointers_are_looked_after(parsed):
    assert parsed["pointers"]["dags"] == {"pointers": ["reconcile"]}


def test_the_prediction_log_is_shipped(parsed):
    assert parsed["predictions"]["dags"] == {"predictions": ["ship", "ship_labels"]}


def test_each_data_set_of_the_configured_source_has_an_ingest_dag(parsed):
    assert set(parsed["ingest"]["dags"]) == {
        "ingest_telemetry",
        "ingest_events",
        "ingest_machines",
        "ingest_billing",
        "ingest_vm_requests",
        "ingest_vm_events",
    }


def test_by_setting_data_are_worked_on_in_buckets(parse_with):
    tasks = parse_with("ingest", HEADRACE_ENTITY_BUCKETS="4")["dags"]["ingest_telemetry"]
    assert tasks == sorted(["window", "buckets", "ingest_bucket", "ingested", "sift", "judge", "copy"])
    assert parse_with("features", HEADRACE_ENTITY_BUCKETS="4")["dags"] == {
        "features_simulated": ["compute", "publish"]
    }


def test_each_model_scores_tables_and_the_house_is_kept(parsed):
    assert set(parsed["score"]["dags"]) == {
        name.replace("train_", "score_") for name in parsed["train"]["dags"]
    }
    assert parsed["score"]["dags"]["score_failure"] == ["plan", "score", "spread"]
    assert parsed["maintenance"]["dags"] == {"maintenance": ["maintain"]}


def test_the_window_is_told_and_not_read_from_a_clock():
    from dags.defaults import window_params

    due = datetime(2026, 3, 10, 14, 5, tzinfo=UTC)
    day = timedelta(days=1)
    assert window_params({}, due, 2 * day, day) == {
        "start": "2026-03-08T00:00:00+00:00",
        "end": "2026-03-10T00:00:00+00:00",
    }
    asked = {"window_start": "2026-01-01", "window_end": "2026-01-03"}
    assert window_params(asked, due, 2 * day, day) == {
        "start": "2026-01-01T00:00:00+00:00",
        "end": "2026-01-03T00:00:00+00:00",
    }


def test_a_scheduled_window_ends_at_a_border_and_looks_back_for_what_an_outage_left_out():
    from dags.defaults import window_params

    due = datetime(2026, 3, 10, 14, 5, tzinfo=UTC)
    hour = timedelta(hours=1)
    assert window_params({}, due, 24 * hour, hour) == {
        "start": "2026-03-09T14:00:00+00:00",
        "end": "2026-03-10T14:00:00+00:00",
    }


def test_the_source_has_a_features_dag(parsed):
    assert parsed["features"]["dags"] == {"features_simulated": ["features"]}


def test_errors_that_a_retry_cannot_mend_are_final():
    from airflow.sdk import RetryAction

    from dags.defaults import RETRIES
    from pipelines.errors import DataValidationError, RegistryError

    final = {rule.exception for rule in RETRIES.rules if rule.action is RetryAction.FAIL}
    named = {error if isinstance(error, str) else f"{error.__module__}.{error.__name__}" for error in final}
    assert f"pipelines.errors.{DataValidationError.__name__}" in named
    assert f"pipelines.errors.{RegistryError.__name__}" not in named
