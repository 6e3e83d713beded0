"""The server as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pipelines.settings import Settings

pytestmark = pytest.mark.integration  # processes

HEAVY = ("airflow", "mlflow", "feast", "pandas", "tensorflow", "polars", "sklearn", "lightgbm", "evidently")


def environment(settings: Settings, port: int) -> dict[str, str]:
    return os.environ | {
        "HEADRACE_HOME": str(settings.home),
        "HEADRACE_TRUSTED_KEYS": settings.trusted_keys,
        "HEADRACE_SERVING_PORT": str(port),
        "HEADRACE_SERVING_GRPC_PORT": "0",
        "HEADRACE_TRACKING_URL": "http://127.0.0.1:9",
    }


def test_it_starts_with_nothing_heavy_imported() -> None:
    code = f"""
import sys
from fastapi.testclient import TestClient
import serving.__main__
from serving.app import create_app
from pipelines.adapters.registry import Registry
from pipelines.settings import load_settings
import tempfile
with tempfile.TemporaryDirectory() as home:
    with TestClient(create_app(load_settings({{}}, home=home), Registry("http://127.0.0.1:9"))) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_the_libraries_that_predict_come_without_what_the_server_does_not_use(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from serving.libraries import import_for
import_for(Path({str(tmp_path)!r}))
print([name for name in {(*HEAVY, "boto3")!r} if name in sys.modules])
import pandas, lightgbm  # who needs the others later has them
from pipelines.adapters.signing import Trust
print(lightgbm.Booster.__name__, pandas.DataFrame.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["['lightgbm']", "Booster DataFrame"], done.stderr


def test_it_answers_until_it_is_told_to_stop_and_stops_clean(
    settings: Settings, free_port: int, fill_cache: Callable[..., Path], wait_until: Callable[..., None]
) -> None:
    fill_cache(settings, {"production": "1"})
    url = f"http://127.0.0.1:{free_port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    process = subprocess.Popen(
        [sys.executable, "-m", "serving"],
        env=environment(settings, free_port),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(ready)
        record = {"cpu": 1, "cores": 1}
        answer = httpx.post(f"{url}/models/tiny/predict", json={"records": [record]}, trust_env=False)
        assert answer.json()["version"] == "1"
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode in {0, -signal.SIGTERM}
    assert "Traceback" not in log
    assert "version 1 answers from the cache" in log


def test_a_taken_port_is_said_with_the_remedy(settings: Settings, free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        done = subprocess.run(
            [sys.executable, "-m", "serving"],
            env=environment(settings, free_port),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"port {free_port}" in done.stderr
    assert "HEADRACE_SERVING_PORT" in done.stderr
    assert "Traceback" not in done.stderr
