"""What tests of several folders need: settings, a real MLflow server, a small real model.

``settings``: state below ``tmp_path``, nothing from the machine's environment.
``free_port``: a port of this machine that nobody listens on.
``mlflow_server``: one MLflow server for the whole test run; use names of your own in it.
``signing_key`` and ``trusted_keys``: the key that signs the exports of these tests, and its public half.
``start_mlflow``: starts another, for tests that stop theirs or touch its files.
``make_export``: writes the serving export of a small LightGBM model.
``register_export``: logs and registers one in MLflow, as train does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import prometheus_client  # noqa: F401  before Feast is imported, which would have it keep counts in shared files
import pytest

from pipelines.settings import Settings, load_settings
from tests.services import by_profile, chosen, s3_server, services  # noqa: F401  these are fixtures

os.environ |= {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "GX_ANALYTICS_ENABLED": "false"}


# A busy machine is slow, which proves nothing about an example. CI's own profile says so already.
if "CI" not in os.environ:
    hypothesis.settings.register_profile(
        "headrace", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("headrace")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def free_port() -> int:
    return _free_port()


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The private key that signs the exports of ``make_export``."""
    from pipelines.adapters.signing import PRIVATE_KEY, Signer

    home = tmp_path_factory.mktemp("keys")
    Signer.of(load_settings({}, home=home))
    return home / "secrets" / PRIVATE_KEY


@pytest.fixture(scope="session")
def trusted_keys(signing_key: Path) -> str:
    """For ``load_settings(…, trusted_keys=trusted_keys)``: its public half."""
    from pipelines.adapters.signing import PUBLIC_KEY

    return str(signing_key.with_name(PUBLIC_KEY))


@pytest.fixture
def settings(
    tmp_path: Path,
    signing_key: Path,
    trusted_keys: str,
    by_profile: Callable[[], dict[str, Any]],  # noqa: F811
) -> Settings:
    return load_settings(
        {}, home=tmp_path / "home", signing_key=signing_key, trusted_keys=trusted_keys, **by_profile()
    )


@dataclass(frozen=True)
class MLflowServer:
    url: str
    artifacts: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """At once, with its worker: the process that was started is only their parent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        self.kill()


@pytest.fixture(scope="session")
def start_mlflow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], MLflowServer]]:
    """Starts real MLflow servers (SQLite and artifacts on disk, or by the profile PostgreSQL and S3), proxied."""
    started: list[MLflowServer] = []
    remote = request.getfixturevalue("services") if chosen() == "services" else None

    def start() -> MLflowServer:
        folder = tmp_path_factory.mktemp("mlflow")
        port = _free_port()
        backend, artifacts, access = f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), {}
        if remote is not None:
            backend, artifacts, access = remote.mlflow()
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1", "--backend-store-uri", backend, "--artifacts-destination", artifacts),
        ]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **access}
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        server = MLflowServer(f"http://127.0.0.1:{port}", folder / "artifacts", process)
        started.append(server)
        for _ in range(1200):
            if process.poll() is not None:
                break
            try:
                if httpx.get(f"{server.url}/health", trust_env=False).status_code == httpx.codes.OK:
                    return server
            except httpx.TransportError:
                time.sleep(0.1)
        raise RuntimeError(f"MLflow did not start:\n{(folder / 'server.log').read_text()}")

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def mlflow_server(start_mlflow: Callable[[], MLflowServer]) -> str:
    """Address of the MLflow server that the whole test run shares."""
    return start_mlflow().url


@pytest.fixture(scope="session")
def make_export(tmp_path_factory: pytest.TempPathFactory, signing_key: Path) -> Callable[..., Path]:
    """``make_export(folder, seed=0, slope=1.0)`` writes an export of a small real model and returns its folder.

    Inputs: ``cpu`` (0 to 100, required), ``latency`` (optional), ``cores`` (long) and ``zone``
    (string, one of a, b). A larger ``slope`` makes for other predictions of the same trees.
    """
    import lightgbm
    import numpy as np

    from models.encoding import encode
    from models.heads import ProbabilityHead
    from models.manifest import Estimator, FieldType, InputField, ServingParts
    from pipelines.adapters.exports import make_sample, write_export
    from pipelines.adapters.signing import Signer

    inputs = (
        InputField(name="cpu", type=FieldType.DOUBLE, unit="percent", minimum=0, maximum=100),
        InputField(name="latency", type=FieldType.DOUBLE, required=False, unit="ms"),
        InputField(name="cores", type=FieldType.LONG, minimum=1),
        InputField(name="zone", type=FieldType.STRING, required=False, categories=("a", "b")),
    )
    made: dict[int, Path] = {}
    signer = Signer(signing_key)

    def train(seed: int) -> Path:
        """Trains once per seed and keeps the export with slope 1."""
        random = np.random.default_rng(seed)
        rows = 500
        columns = {
            "cpu": random.uniform(0, 100, rows),
            "latency": np.where(random.random(rows) < 0.1, np.nan, random.uniform(1, 50, rows)),
            "cores": random.integers(1, 64, rows).astype(np.float64),
            "zone": random.choice(np.array(["a", "b", None], dtype=object), rows),
        }
        label = (columns["cpu"] + 20 * (columns["zone"] == "a") + random.normal(0, 10, rows) > 80).astype(int)
        data = lightgbm.Dataset(
            encode(columns, inputs),
            label,
            feature_name=[field.name for field in inputs],
            categorical_feature=["zone"],
        )
        booster = lightgbm.train(
            {"objective": "binary", "num_leaves": 7, "seed": seed, "num_threads": 1, "verbosity": -1},
            data,
            20,
        )
        made[seed] = tmp_path_factory.mktemp("model") / "model.txt"
        booster.save_model(str(made[seed]))
        return made[seed]

    def make(
        folder: Path,
        seed: int = 0,
        slope: float = 1.0,
        lineage: dict[str, str] | None = None,
        model: str = "tiny",
    ) -> Path:
        booster = made.get(seed) or train(seed)

        head = ProbabilityHead(slope=slope, intercept=0.1, alarm_threshold=0.5)

        def save(part: Path) -> ServingParts:
            shutil.copy(booster, part / "model.txt")
            names = tuple(field.name for field in inputs)
            estimator = Estimator(name=head.estimator, runtime="lightgbm", file="model.txt", inputs=names)
            return ServingParts((estimator,), head, tolerance=1e-9)

        columns = {
            "cpu": np.array([5.0, 50.0, 95.0]),
            "latency": np.array([np.nan, 10.0, 40.0]),
            "cores": np.array([4.0, 8.0, 16.0]),
            "zone": np.array(["a", None, "b"], dtype=object),
        }
        score = np.asarray(
            lightgbm.Booster(model_file=str(booster)).predict(encode(columns, inputs), raw_score=True)
        )
        probability = 1 / (1 + np.exp(-(slope * score + 0.1)))
        sample = make_sample(inputs, columns, {"probability": probability, "alarm": probability >= 0.5})
        digest = write_export(
            folder,
            save,
            model=model,
            inputs=inputs,
            sample=sample,
            lineage=lineage or {"seed": str(seed)},
        )
        signer.sign(folder, digest)
        return folder

    return make


@pytest.fixture(scope="session")
def register_export(start_mlflow: object) -> Callable[..., str]:
    """``register_export(url, name, folder)`` logs an export as train does and returns the new version's number."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from models.manifest import MANIFEST_TAG
    from pipelines.adapters.exports import load_export, manifest_sha256
    from pipelines.adapters.registry import Registry

    def register(url: str, name: str, folder: Path, tags: dict[str, str] | None = None) -> str:
        manifest = load_export(folder).manifest
        signature = ModelSignature(
            Schema(
                [ColSpec(field.type.value, field.name, required=field.required) for field in manifest.inputs]
            ),
            Schema([ColSpec(field.type.value, field.name) for field in manifest.outputs]),
        )
        mlflow.set_tracking_uri(url)
        client = mlflow.MlflowClient(url)
        found = client.get_experiment_by_name(name)
        # set_experiment() would be remembered in this process and be in the way of every later test.
        experiment = found.experiment_id if found else client.create_experiment(name)
        with mlflow.start_run(experiment_id=experiment) as run:
            logged = mlflow.pyfunc.log_model(
                name="model",
                loader_module="pipelines.adapters.mlflow_flavor",
                data_path=str(folder),
                signature=signature,
                pip_requirements=["lightgbm"],
            )
        with Registry(url) as registry:
            registry.ensure_registered_model(name)
            tags = {MANIFEST_TAG: manifest_sha256(folder)} if tags is None else tags
            version = registry.create_version(name, logged.model_uri, run_id=run.info.run_id, tags=tags)
        return version.version

    return register
