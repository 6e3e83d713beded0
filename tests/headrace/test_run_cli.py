"""`headrace run` and `headrace probe`, as containers call them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration  # processes


def _environment(home: Path, port: int) -> dict[str, str]:
    return os.environ | {
        "HEADRACE_HOME": str(home),
        "HEADRACE_SERVING_PORT": str(port),
        "HEADRACE_SERVING_GRPC_PORT": "0",
        "HEADRACE_TRACKING_URL": "http://127.0.0.1:9",
    }


def _headrace(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_program_is_run_in_the_foreground_and_probed(tmp_path: Path, free_port: int) -> None:
    environment = _environment(tmp_path / "home", free_port)
    down = _headrace(environment, "probe", "serving")
    assert down.returncode == 3
    assert "/v2/health/live" in down.stderr

    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "run", "serving"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while _headrace(environment, "probe", "serving").returncode != 0:
            assert process.poll() is None
            assert time.monotonic() < deadline
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert command[1:3] == [b"-m", b"serving"], "it became the program: signals reach it"
    finally:
        process.terminate()
        process.wait(30)


def test_a_program_that_there_is_not_is_said(tmp_path: Path) -> None:
    done = _headrace(_environment(tmp_path, 1), "run", "airflow")
    assert done.returncode == 1
    assert "there are airflow-api" in " ".join(done.stderr.split())


def test_in_production_a_missing_secret_is_named_and_nothing_starts(tmp_path: Path) -> None:
    environment = _environment(tmp_path, 1) | {"HEADRACE_ENVIRONMENT": "production"}
    done = _headrace(environment, "run", "mlflow")
    assert done.returncode == 1
    assert "mlflow_webhook_key is missing" in " ".join(done.stderr.split())
