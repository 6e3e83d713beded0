"""A run of rollout_<model> in Airflow, with a real MLflow: it takes up what is there, takes the step that is due, and says how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.adapters.registry import Registry
from pipelines.adapters.traffic import TRAFFIC_TAG
from pipelines.rollout.records import BEGUN_TAG

pytestmark = pytest.mark.integration

RUN = """
import json
from dags.rollout import rollout_failure
run = rollout_failure.test(run_conf={"reason": "a new one"})
states = {task.task_id: str(task.state) for task in run.get_task_instances()}
print(json.dumps({"run": str(run.state), "tasks": states}))
"""


def test_a_run_goes_on_with_the_challenger_and_ends_skipped_where_it_is_withdrawn(
    start_mlflow: Callable[[], object],
    make_export: Callable[..., Path],
    register_export: Callable[..., str],
    trusted_keys: str,
    free_port: int,
    tmp_path: Path,
) -> None:
    url = start_mlflow().url  # type: ignore[attr-defined]
    export = make_export(tmp_path / "export")
    with Registry(url) as registry:
        for alias, number in (("production", "1"), ("challenger", "2")):
            assert register_export(url, "failure", export) == number
            registry.set_alias("failure", alias, number)
        registry.set_version_tag("failure", "2", TRAFFIC_TAG, "10")
        registry.set_version_tag("failure", "2", BEGUN_TAG, "2026-01-01T00:00:00+00:00")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HEADRACE_")} | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parents[2] / "dags"),
        "HEADRACE_HOME": str(tmp_path / "home"),
        "HEADRACE_TRACKING_URL": url,
        "HEADRACE_TRUSTED_KEYS": trusted_keys,
        "HEADRACE_SERVING_PORT": str(free_port),
    }
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True
    )
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "run": "success",
        "tasks": {"begin": "success", "advance": "success", "outcome": "skipped"},
    }
    with Registry(url) as registry:
        assert registry.alias_version("failure", "challenger") is None
        version = registry.version("failure", "2")
    assert version is not None
    assert "not through after 3 days" in version.tags["headrace.withdrawn"]
