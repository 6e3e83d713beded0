"""The log of a real server process that is killed in the midst of answering."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pipelines.adapters.lake import Lake
from pipelines.predictions import job, table
from pipelines.predictions.trace import trace
from pipelines.settings import Settings

pytestmark = pytest.mark.integration

FLUSH_SECONDS = 0.1
RECORD = {"cpu": 50.0, "cores": 4, "zone": "a"}


def ask_until_it_dies(url: str, told: list[tuple[str, float]]) -> None:
    """Ids of answers with the time at which they had come."""
    with httpx.Client(trust_env=False) as http:
        while True:
            try:
                answer = http.post(f"{url}/models/tiny/predict", json={"records": [RECORD]})
            except httpx.TransportError:
                return
            told.append((answer.json()["predictions"][0]["prediction_id"], time.monotonic()))


def test_kill_9_of_the_server_loses_no_more_than_the_setting_states(
    settings: Settings, free_port: int, fill_cache: Callable[..., Path], wait_until: Callable[..., None]
) -> None:
    fill_cache(settings, {"production": "1"})
    url = f"http://127.0.0.1:{free_port}"
    environment = os.environ | {
        "HEADRACE_HOME": str(settings.home),
        "HEADRACE_TRUSTED_KEYS": settings.trusted_keys,
        "HEADRACE_SERVING_PORT": str(free_port),
        "HEADRACE_SERVING_GRPC_PORT": "0",
        "HEADRACE_SERVING_REPLICA": "killed",
        "HEADRACE_TRACKING_URL": "http://127.0.0.1:9",
        "HEADRACE_PREDICTION_LOG_FLUSH_SECONDS": str(FLUSH_SECONDS),
    }

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    told: list[tuple[str, float]] = []
    process = subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(ready)
        callers = [threading.Thread(target=ask_until_it_dies, args=(url, told)) for _ in range(4)]
        for caller in callers:
            caller.start()
        wait_until(lambda: len(told) > 300)
        first = told[0][0]
        wait_until(lambda: trace(first, settings).place.endswith(".open"))
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        for caller in callers:
            caller.join()
    finally:
        process.kill()
        process.wait()

    shipped = job.run(settings)
    rows = table.scan(Lake.of(settings), "tiny").collect()
    held = rows["prediction_id"].to_list()
    lost = [moment for identity, moment in told if identity not in set(held)]
    assert shipped.rows == rows.height == len(set(held))
    # Four callers each may have had an answer that was logged and that they did not see.
    assert len(held) <= len(told) - len(lost) + len(callers)
    # The flush waits for its turn on a busy machine.
    assert all(killed - moment < FLUSH_SECONDS + 0.25 for moment in lost)
    assert shipped.damaged == 0
    found = trace(first, settings)
    assert found.place.endswith("predictions/tiny")
    assert (found.features["cpu"], found.features["zone"], found.facts["replica"]) == (50.0, "a", "killed")
