"""A whole small system for the benchmarks that move aliases and break things: object store, MLflow, server, callers.

Everything is real and of this machine: an S3 server (moto), MLflow with its webhooks, the server as
`headrace up` starts it, and callers in a process of their own that hold each answer against what the
version that it names must answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving import workload as workloads
from benchmarks.serving.servers import records
from models.heads import ProbabilityHead
from models.manifest import MANIFEST_TAG, Estimator, ServingParts
from pipelines.adapters import webhooks
from pipelines.adapters.exports import make_sample, manifest_sha256, write_export
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Signer
from pipelines.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
BUCKET = "bench"
ROWS = 3  # in a request: an answer that mixed versions would show
BODIES = 8
_START_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Process:
    """One program that may be stopped and started again, with what it started."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    url: str
    ready: str
    _running: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> float:
        """Start it; returns the seconds until it is ready."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | dict(self.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while time.monotonic() - began < _START_SECONDS:
            if self._running.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}{self.ready}", trust_env=False).status_code == httpx.codes.OK:
                    return time.monotonic() - began
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"{self.command} does not answer:\n{self.log.read_text('utf-8')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, its children too."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()
            self._running = None

    def stop(self) -> None:
        if self._running is not None:
            self._running.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._running.wait(timeout=20)
            self.kill()


@dataclass
class Live:
    """The system, and the versions that were registered.

    Attributes:
        expected: By version, what it answers to each body: lists of probabilities.
    """

    settings: Settings
    store: Process
    mlflow: Process
    server: Process
    registry: Registry
    folder: Path
    trained: workloads.Workload
    signer: Signer
    expected: dict[str, list[list[float]]]

    def add(self, slope: float, *, lies: bool = False) -> str:
        """Register a version whose answers differ from all others; its number.

        Args:
            lies: Its stored sample is not what it predicts, though all of it is signed.
        """
        export = _export(self.folder / f"slope-{slope:g}", self.trained, slope, self.signer, lies=lies)
        version = _register(self.registry, self.mlflow.url, export)
        self.expected[version] = _answers(export, self.trained)
        return version

    def alias(self, version: str) -> None:
        """Move ``production`` as the MLflow UI does: by MLflow's own client."""
        from mlflow import MlflowClient

        MlflowClient(self.mlflow.url).set_registered_model_alias(workloads.MODEL, "production", version)

    def serving(self) -> str | None:
        """The version that answers now."""
        answer = httpx.get(f"{self.server.url}/v2/models/{workloads.MODEL}", trust_env=False)
        return str(answer.json()["parameters"]["version"]) if answer.status_code == httpx.codes.OK else None

    def wait_for(self, version: str, seconds: float = 60.0) -> float:
        """Seconds until a version answers.

        Raises:
            RuntimeError: it does not.
        """
        began = time.monotonic()
        while self.serving() != version:
            if time.monotonic() - began > seconds:
                raise RuntimeError(f"version {version} does not answer after {seconds:g} s")
            time.sleep(0.02)
        return time.monotonic() - began

    def stored(self, version: str, name: str) -> str:
        """Key of a version's file in the object store."""
        found = self.registry.version(workloads.MODEL, version)
        assert found is not None
        logged = found.source.removeprefix("models:/")
        listed = self.bucket().list_objects_v2(Bucket=BUCKET)["Contents"]
        (key,) = (
            each["Key"] for each in listed if logged in each["Key"] and each["Key"].endswith(f"/{name}")
        )
        return str(key)

    def bucket(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self.store.url, **_KEYS)

    @contextmanager
    def callers(self, per_second: float, connections: int = 16) -> Iterator[Callers]:
        """Ask at a steady rate until the end of the block."""
        callers = Callers(self, per_second, connections)
        try:
            yield callers
        finally:
            callers.stop()


_KEYS = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench-secret", "region_name": "us-east-1"}


class Callers:
    """The process of callers (:mod:`benchmarks.serving.paced`), and what it saw."""

    def __init__(self, live: Live, per_second: float, connections: int) -> None:
        self._out = live.folder / f"answers-{time.monotonic_ns()}.jsonl"
        bodies = [records(rows).decode() for rows in _bodies(live.trained)]
        plan = {
            "port": int(live.server.url.rpartition(":")[2]),
            "path": f"/models/{workloads.MODEL}/predict",
            "bodies": bodies,
            "expected": live.expected,
            "per_second": per_second,
            "connections": connections,
            "out": str(self._out),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.paced"], stdin=subprocess.PIPE, cwd=ROOT
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan).encode())
        self._process.stdin.close()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=30)

    def seen(self) -> Answers:
        """All answers; call it after :meth:`stop`."""
        with self._out.open() as file:
            return Answers([tuple(json.loads(line)) for line in file])


@dataclass(frozen=True)
class Answers:
    """What the callers saw.

    Attributes:
        rows: Due (s, monotonic), latency (s), status (0: no answer), version, whether each row is as that
            version must answer it.
    """

    rows: list[Any]

    def between(self, start: float, end: float) -> Answers:
        return Answers([row for row in self.rows if start <= row[0] < end])

    @property
    def failed(self) -> int:
        return sum(row[2] != 200 for row in self.rows)

    @property
    def mixed(self) -> int:
        return sum(row[2] == 200 and not row[4] for row in self.rows)

    def latency_ms(self, *percent: float) -> list[float]:
        """Percentiles, from the moment a request was due: waiting for the server to take it counts."""
        times = [row[1] for row in self.rows if row[2] == 200]
        return [float(value) * 1e3 for value in np.percentile(times, percent)]


@contextmanager
def live(folder: Path, *, s3: bool = True) -> Iterator[Live]:
    """Start everything; version 1 is in production.

    Args:
        s3: Artifacts lie in an S3 server; else in a folder.
    """
    settings = load_settings(
        {},
        home=folder / "home",
        mlflow_port=free_port(),
        serving_port=free_port(),
        serving_grpc_port=0,
        serving_models=workloads.MODEL,
    )
    signer = Signer.of(settings)
    store = _store(folder)
    mlflow, server = _mlflow(folder, settings, store.url if s3 else ""), _server(folder, settings)
    started = [store, mlflow, server] if s3 else [mlflow, server]
    try:
        if s3:
            store.start()
            import boto3

            boto3.client("s3", endpoint_url=store.url, **_KEYS).create_bucket(Bucket=BUCKET)
        mlflow.start()
        trained = workloads.build(folder, signer)
        with Registry(mlflow.url) as registry:
            registry.ensure_registered_model(workloads.MODEL)
            registry.ensure_webhook(
                webhooks.NAME,
                settings.serving + webhooks.PATH,
                webhooks.ENTITY.upper(),
                [event.upper() for event in webhooks.EVENTS],
                webhooks.secret(settings),
            )
            found = Live(settings, store, mlflow, server, registry, folder, trained, signer, {})
            found.alias(found.add(1.0))
            server.start()
            found.wait_for("1")
            yield found
    finally:
        for process in reversed(started):
            process.stop()


def _store(folder: Path) -> Process:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return Process(command, {}, folder, folder / "s3.log", f"http://127.0.0.1:{port}", "/moto-api/")


def _mlflow(folder: Path, settings: Settings, s3: str) -> Process:
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
        *("--port", str(settings.mlflow_port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", f"s3://{BUCKET}/artifacts" if s3 else str(folder / "artifacts")),
    ]
    from cryptography.fernet import Fernet

    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_S3_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": _KEYS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": _KEYS["aws_secret_access_key"],
        "AWS_DEFAULT_REGION": _KEYS["region_name"],
    }
    return Process(command, environment, folder, folder / "mlflow.log", settings.tracking, "/health")


def _server(folder: Path, settings: Settings) -> Process:
    environment = {
        "HEADRACE_HOME": str(settings.home),
        "HEADRACE_TRACKING_URL": settings.tracking,
        "HEADRACE_SERVING_PORT": str(settings.serving_port),
        "HEADRACE_SERVING_GRPC_PORT": "0",
        "HEADRACE_SERVING_MODELS": workloads.MODEL,
    }
    command = [sys.executable, "-m", "serving"]
    return Process(command, environment, ROOT, folder / "server.log", settings.serving, "/v2/health/ready")


def _bodies(trained: workloads.Workload) -> list[Any]:
    return [trained.rows[start : start + ROWS] for start in range(0, BODIES * ROWS, ROWS)]


def _export(folder: Path, trained: workloads.Workload, slope: float, signer: Signer, *, lies: bool) -> Path:
    """The same trees with another head: other answers, at the cost of one training."""
    head = ProbabilityHead(slope=slope, intercept=-0.2, alarm_threshold=0.5)

    def save(part: Path) -> ServingParts:
        shutil.copy(trained.native, part / "model.txt")
        names = workloads.NAMES
        estimator = Estimator(name=head.estimator, runtime="lightgbm", file="model.txt", inputs=names)
        return ServingParts((estimator,), head, tolerance=1e-9)

    import lightgbm

    rows = trained.rows[:20]
    raw = np.asarray(lightgbm.Booster(model_file=str(trained.native)).predict(rows, raw_score=True))
    columns = {name: rows[:, place] for place, name in enumerate(workloads.NAMES)}
    answers = head.answer(columns, {head.estimator: raw})
    sample = make_sample(workloads.INPUTS, columns, answers)
    digest = write_export(
        folder, save, model=workloads.MODEL, inputs=workloads.INPUTS, sample=sample, lineage={}
    )
    if lies:
        digest = _falsify(folder)
    signer.sign(folder, digest)
    return folder


def _falsify(folder: Path) -> str:
    """Store other predictions than the version makes, and a manifest that names them rightly; its digest."""
    sample, manifest = folder / "sample.json", folder / "manifest.json"
    content = json.loads(sample.read_text("utf-8"))
    for row in content["predictions"]:
        row["probability"] = 1.0 - row["probability"]
    sample.write_text(json.dumps(content), "utf-8")
    told = json.loads(manifest.read_text("utf-8"))
    told["files"][sample.name] = hashlib.sha256(sample.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(told), "utf-8")
    return manifest_sha256(folder)


def _answers(export: Path, trained: workloads.Workload) -> list[list[float]]:
    import lightgbm

    head = json.loads((export / "manifest.json").read_text("utf-8"))["head"]
    booster = lightgbm.Booster(model_file=str(export / "model.txt"))
    found = []
    for rows in _bodies(trained):
        raw = np.asarray(booster.predict(rows, raw_score=True))
        found.append((1 / (1 + np.exp(-(head["slope"] * raw + head["intercept"])))).tolist())
    return found


def _register(registry: Registry, url: str, export: Path) -> str:
    import mlflow

    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    mlflow.set_tracking_uri(url)
    mlflow.set_experiment(workloads.MODEL)
    with mlflow.start_run() as run:
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="pipelines.adapters.mlflow_flavor",
            data_path=str(export),
            pip_requirements=["lightgbm"],
        )
    tags = {MANIFEST_TAG: manifest_sha256(export)}
    version = registry.create_version(workloads.MODEL, logged.model_uri, run_id=run.info.run_id, tags=tags)
    return version.version
