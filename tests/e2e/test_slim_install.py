"""The serving extra alone: an environment from ``requirements-serving.lock`` answers with a registered version."""

import json
import os
import subprocess
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
ABSENT = ("airflow", "mlflow", "feast", "tensorflow", "pandas", "polars", "great_expectations", "optuna")


@pytest.fixture(scope="module")
def slim_python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slim")
    uv = ROOT / ".venv" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("no installer in .venv: run through make")
    python = folder / "venv" / "bin" / "python"
    install = [str(uv), "pip", "install", "--python", str(python), "--quiet"]
    for command in (
        [
            str(uv),
            "venv",
            "--quiet",
            "--python",
            str(ROOT / ".venv" / "bin" / "python"),
            str(folder / "venv"),
        ],
        [*install, "--require-hashes", "-r", str(ROOT / "requirements-serving.lock")],
        [*install, "setuptools"],
        [*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
    ):
        subprocess.run(command, check=True, cwd=ROOT)
    return python


def test_the_slim_environment_has_neither_training_nor_orchestration(slim_python):
    probe = f"import importlib.util, json; print(json.dumps([n for n in {ABSENT} if importlib.util.find_spec(n)]))"
    done = subprocess.run([slim_python, "-c", probe], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []


def test_the_slim_server_serves_what_the_registry_says(
    slim_python, mlflow_server, make_export, trusted_keys, tmp_path, free_port
):
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from pipelines.adapters.exports import MANIFEST_TAG, manifest_sha256
    from pipelines.adapters.registry import Registry

    export = make_export(tmp_path / "export")
    mlflow.set_tracking_uri(mlflow_server)
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="pipelines.adapters.mlflow_flavor",
            data_path=str(export),
            pip_requirements=["headrace[serving]"],
            signature=ModelSignature(
                Schema([ColSpec("double", "cpu")]), Schema([ColSpec("double", "probability")])
            ),
        )
    registry = Registry(mlflow_server)
    registry.ensure_registered_model("slim")
    version = registry.create_version(
        "slim", logged.model_uri, run_id=None, tags={MANIFEST_TAG: manifest_sha256(export)}
    )
    registry.set_alias("slim", "production", version.version)

    environment = {
        "PATH": os.environ["PATH"],
        "HEADRACE_HOME": str(tmp_path / "home"),
        "HEADRACE_TRUSTED_KEYS": trusted_keys,
        "HEADRACE_TRACKING_URL": mlflow_server,
        "HEADRACE_SERVING_PORT": str(free_port),
        "HEADRACE_SERVING_GRPC_PORT": "0",
        "HEADRACE_SERVING_MODELS": "slim",
        "HEADRACE_SERVING_WORKERS": "2",
    }
    server = subprocess.Popen([slim_python, "-m", "serving"], env=environment, cwd=tmp_path)
    try:
        url = f"http://127.0.0.1:{free_port}"
        _wait_until_ready(url, server)
        answer = httpx.post(
            f"{url}/models/slim/predict", json={"records": [{"cpu": 95, "cores": 4}, {"cpu": 1, "cores": 4}]}
        )
        assert answer.status_code == 200, answer.text
        high, low = (row["probability"] for row in answer.json()["predictions"])
        assert high > low
        assert answer.json()["version"] == version.version
    finally:
        server.terminate()
        server.wait(timeout=20)


def _wait_until_ready(url, server):
    for _ in range(300):
        assert server.poll() is None, "the server ended"
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"not ready: {httpx.get(f'{url}/v2/health/ready').text}")
