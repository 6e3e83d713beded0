"""DAG files wire and do no more: they parse fast, import nothing heavy, and every DAG is complete."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration  # Airflow

DAGS = Path(__file__).parents[2] / "dags"
FILES = sorted(
    path.stem for path in DAGS.glob("*.py") if path.stem not in {"__init__", "approval", "defaults"}
)
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
        ["plan", "ingest", "validate", "features", "snapshot", "tune", "train", "evaluate", "promote"]
    )


def test_a_model_that_asks_for_a_person_has_one_more_task(parse_with):
    dags = parse_with("train", HEADRACE_APPROVAL_MODELS="failure, cost")["dags"]
    asking = {name for name, tasks in dags.items() if "approve" in tasks}
    assert asking == {"train_failure", "train_cost"}
    everyone = parse_with("train", HEADRACE_APPROVAL_MODELS="*")["dags"]
    assert all("approve" in tasks for tasks in everyone.values())


def test_what_versions_in_use_need_is_looked_after(parsed):
    assert parsed["protect"]["dags"] == {"protect": ["restore"]}


def test_the_pointers_are_looked_after(parsed):
    assert parsed["pointers"]["dags"] == {"pointers": ["reconcile"]}


def test_the_prediction_log_is_shipped(parsed):
    assert parsed["predictions"]["dags"] == {"predictions": ["ship"]}


def test_each_data_set_of_the_configured_source_has_an_ingest_dag(parsed):
    assert set(parsed["ingest"]["dags"]) == {
        "ingest_telemetry",
        "ingest_events",
        "ingest_machines",
        "ingest_billing",
        "ingest_vm_requests",
        "ingest_vm_events",
    }


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
