"""ingest_telemetry and features_simulated in Airflow, a task per bucket: the tables are those of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from pipelines.adapters.lake import Lake
from pipelines.buckets import BUCKET
from pipelines.features import job as features
from pipelines.ingest import job as ingest
from pipelines.ingest.steps import ROW_IDENTITY
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.validate import job as validate

pytestmark = pytest.mark.integration

RUN = """
import json
from dags.features import features_simulated
from dags.ingest import ingest_telemetry
days = {"window_start": "2026-01-05", "window_end": "2026-01-06"}
states = {}
for each in (ingest_telemetry, features_simulated):
    run = each.test(run_conf=days)
    for task in run.get_task_instances():
        states.setdefault(task.task_id, []).append(str(task.state))
print(json.dumps(states))
"""


def test_mapped_tasks_leave_behind_what_one_process_does(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HEADRACE_")} | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parents[2] / "dags"),
        "HEADRACE_HOME": str(tmp_path / "home"),
        "HEADRACE_ENTITY_BUCKETS": "2",
    }
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True
    )
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        name: ["success"] * (2 if name in {"ingest_bucket", "sift", "copy", "compute"} else 1)
        for name in (
            *("window", "buckets", "ingest_bucket", "ingested", "sift", "judge", "copy"),
            *("compute", "publish"),
        )
    }
    mapped = Lake.of(load_settings({}, home=tmp_path / "home"))
    alone = load_settings({}, home=tmp_path / "alone")
    window = Window.parse("2026-01-05", "2026-01-06")
    validate.run(ingest.run("simulated", "telemetry", window, alone), alone)
    features.run("simulated", window, alone)
    for name, order in {
        "raw/simulated/telemetry": ROW_IDENTITY,
        "clean/simulated/telemetry": ROW_IDENTITY,
        "features/simulated/telemetry_windows": ("machine_id", "event_time"),
    }.items():
        rows = mapped.scan(name).collect()
        assert rows[BUCKET].n_unique() == 2, name
        expected = Lake.of(alone).scan(name).collect().sort(order)
        assert_frame_equal(rows.drop(BUCKET).sort(order), expected, check_exact=True)
