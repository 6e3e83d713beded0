"""The README's "Your own metrics", typed as it stands there, by somebody whose columns have other names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipelines.references import Window
from pipelines.sources.base import open_source
from pipelines.sources.profile import SimulatedOrigin, load_profile

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

README = Path(__file__).parents[2] / "README.md"
MACHINES = 24
WINDOW = Window(start=datetime(2026, 1, 26, tzinfo=UTC), end=datetime(2026, 2, 16, tzinfo=UTC))


@pytest.fixture(scope="module")
def section():
    return re.split(
        r"^## ", README.read_text("utf-8").partition("## Your own metrics\n")[2], flags=re.MULTILINE
    )[0]


@pytest.fixture
def place(section, tmp_path, settings):
    """A folder with the file of the page, larger: its header, and what machines of the simulator measured."""
    profile = load_profile("simulated")
    fleet = profile.model_copy(update={"origin": SimulatedOrigin(kind="simulated", machines=MACHINES)})
    rows = open_source(fleet, settings).read(profile.dataset("telemetry"), WINDOW)
    header = re.search(r"```csv\n(.*)\n", section)[1].split(",")
    ours = [
        "machine_id",
        "event_time",
        "cpu_percent",
        "memory_percent",
        "network_in_mbps",
        "network_out_mbps",
    ]
    named = rows.select(pl.col(name).alias(theirs) for name, theirs in zip(ours, header, strict=True))
    named = named.with_columns(
        pl.col(header[0]).str.replace("^m00", "web-"), pl.col(header[1]).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    )
    named.write_csv(tmp_path / "export.csv")
    command = tmp_path / ".venv" / "bin" / "headrace"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m headrace "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.fixture
def shell(place, mlflow_server, free_port):
    """``shell(text)`` runs lines as a person does; what was started is stopped."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")} | {
        "HEADRACE_TRACKING_URL": mlflow_server,
        "HEADRACE_AIRFLOW_URL": "http://127.0.0.1:9",  # elsewhere, and not needed here
        "HEADRACE_EVIDENTLY_PORT": "0",
        "HEADRACE_SERVING_GRPC_PORT": "0",
        "HEADRACE_SERVING_PORT": str(free_port),
        "COLUMNS": "160",
    }

    def run(text):
        done = subprocess.run(
            ["bash", "-euc", text], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    yield run
    subprocess.run(["bash", "-c", ".venv/bin/headrace down"], cwd=place, env=environment, check=False)


def test_the_readme_leads_from_a_csv_file_to_a_prediction(section, shell, place):
    draft_and_check, train_and_predict, make_it_the_source = re.findall(
        r"```sh\n(.*?)```", section, re.DOTALL
    )
    told = shell(draft_and_check)
    assert re.search(r"^ *bandwidth +yes", told, re.MULTILINE)
    assert re.search(r"^ *failure +no +lacks a data set 'events'", told, re.MULTILINE)
    assert "quarantine would take" in told

    (place / ".headrace").mkdir(exist_ok=True)
    shell(".venv/bin/headrace up || [ $? = 3 ]")  # 3: Airflow is not there
    told = shell(train_and_predict)
    assert "is now in production" in told
    assert re.search(r"^ *web-01 .*", told, re.MULTILINE) or "forecast" in told

    shell(make_it_the_source.replace("&& .venv/bin/headrace up", "&& .venv/bin/headrace settings --json"))
    assert str(place / "my-fleet.yaml") in (place / ".headrace" / "settings.env").read_text()
