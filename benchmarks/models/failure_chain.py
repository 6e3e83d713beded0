"""The chain of ``failure`` on real telemetry, with a lake and an MLflow server of its own; what it answers on holdouts.

Ingest to promote as ``headrace train failure --source …`` does it, below ``HEADRACE_HOME/benchmarks``.
Run again it goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import yaml
from numpy.typing import NDArray

from models.base import Observations, builder_of
from models.catalogue import find
from models.heads import ProbabilityHead
from pipelines.adapters import exports
from pipelines.adapters.feature_store import FeatureStore
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.chain import run_chain
from pipelines.features.table import FeatureTable
from pipelines.ingest import job as ingest_job
from pipelines.references import FeaturesRef, SnapshotRef, Window
from pipelines.settings import Settings, load_settings
from pipelines.snapshot import job as snapshot_job
from pipelines.snapshot.parts import observations
from pipelines.snapshot.steps import PARTS
from pipelines.sources.profile import BUNDLED, SourceProfile, load_profile, registered_name
from pipelines.validate import job as validate_job

if TYPE_CHECKING:
    from pipelines.adapters.runtimes import Predictor

MODEL = "failure"
START_SECONDS = 120
VALID_DRIVES = 0.05  # enough to stop by and to calibrate; every other drive teaches


@dataclass(frozen=True)
class Scored:
    """A model's probabilities on rows that neither training nor tuning has seen."""

    part: Observations
    probability: NDArray[np.float64]
    alarm_threshold: float


@contextlib.contextmanager
def workspace(data: Path, name: str = MODEL) -> Iterator[Settings]:
    """Settings with a lake and a running MLflow server of their own, below ``HEADRACE_HOME/benchmarks/<name>``."""
    # An end from outside is an exit like any other: the MLflow server below is stopped on the way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    base = load_settings(shared_data=data.resolve())
    home = (base.home / "benchmarks" / name).resolve()
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
    }
    with tracking_server(home) as url:
        yield load_settings(
            {}, home=home, shared_data=base.shared_data, tracking_url=url, random_seed=base.random_seed
        )


def run_source(source: str, settings: Settings) -> Scored:
    """The chain on the source's own window, and the candidate's probabilities on its holdout."""
    profile = load_profile(source)
    began = time.monotonic()

    def report(stage: str, state: str, detail: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {source}: {stage} {state} {detail}", flush=True)

    run_chain(MODEL, source, _window(profile), settings, actor="benchmark", report=report)
    predictor, snapshot = _candidate(profile, settings)
    rows, manifest = snapshot_job.load(snapshot, settings)
    holdout = observations(rows, "holdout", manifest.entity, manifest.inputs)
    head = predictor.manifest.head
    assert isinstance(head, ProbabilityHead)
    return Scored(holdout, predictor.predict(holdout.columns)["probability"], head.alarm_threshold)


def by_drive(settings: Settings) -> Scored:
    """``backblaze_drives`` split by drives alone, as the README's baseline, with the builder's own parameters.

    Those were chosen on folds of drives that are not in this holdout: the same seed holds out the same drives.
    """
    source = "backblaze_drives"
    profile = load_profile(source)
    content = yaml.safe_load((BUNDLED / f"{source}.yaml").read_text("utf-8"))
    content["models"][MODEL]["split"] |= {"by": "entity", "valid_share": VALID_DRIVES}
    variant = settings.home / "prepared" / source / "by_drive.yaml"
    variant.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")

    spec, window = profile.spec_of(find(MODEL)), _window(profile)
    for dataset in spec.datasets:
        validate_job.run(ingest_job.run(source, dataset, window, settings), settings)
    # Not the whole stage: it would publish each drive's newest features, and nobody asks for them here.
    store, lake = FeatureStore(profile, settings), Lake.of(settings)
    views = {
        view.name: FeatureTable(view, profile, lake).bring_up_to_date(window)
        for view in store.views_of([spec.grid])
    }
    store.apply()
    features = FeaturesRef(source=str(variant), window=window, views=views, online_rows=0)
    rows, manifest = snapshot_job.load(snapshot_job.run(MODEL, features, settings), settings)
    parts = {part: observations(rows, part, manifest.entity, manifest.inputs) for part in PARTS}
    builder = builder_of(manifest.spec)
    fitted = builder.fit(
        parts["train"],
        parts["valid"],
        manifest.inputs,
        builder.default_params(),
        settings.random_seed,
        manifest.spec,
    )
    probability = fitted.answer(parts["holdout"])["probability"]
    return Scored(parts["holdout"], probability, float("nan"))


@contextlib.contextmanager
def tracking_server(home: Path) -> Iterator[str]:
    """An MLflow server with its state below ``home``, on a free port of this machine, for as long as it is needed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        *(
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ),
        *(
            "--backend-store-uri",
            f"sqlite:///{home / 'mlflow.db'}",
            "--artifacts-destination",
            str(home / "artifacts"),
        ),
    ]
    with (home / "mlflow.log").open("ab") as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/health", server, home / "mlflow.log")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(START_SECONDS * 2):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(address, trust_env=False).status_code == httpx.codes.OK:
                return
        if server.poll() is not None:
            break
        time.sleep(0.5)
    raise SystemExit(f"MLflow did not start; see {log}")


def _window(profile: SourceProfile) -> Window:
    assert profile.window_start is not None
    assert profile.window_end is not None
    return Window(start=profile.window_start, end=profile.window_end)


def _candidate(profile: SourceProfile, settings: Settings) -> tuple[Predictor, SnapshotRef]:
    """The newest registered version, loaded as the server does, and the snapshot that it was trained on."""
    with Registry(settings.tracking) as registry, tempfile.TemporaryDirectory() as folder:
        version = registry.versions(registered_name(find(MODEL), profile, settings.source))[0]
        registry.download(version, Path(folder))
        predictor = exports.load_export(exports.find_export(Path(folder)), version.tags[exports.MANIFEST_TAG])
    sha256 = predictor.manifest.lineage["snapshot_sha256"]
    url = f"{settings.lake}/snapshots/{profile.name}/{MODEL}/{sha256}/data.parquet"
    return predictor, SnapshotRef(
        model=MODEL, source=profile.name, sha256=sha256, url=url, rows={}, positives={}
    )
