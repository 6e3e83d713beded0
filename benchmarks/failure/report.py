"""Run the whole chain of ``failure`` on real telemetry and write its figures beside the published ones.

    python -m benchmarks.failure.report --data DATA

Ingest to promote on ``azure_pdm`` and ``backblaze_drives`` as ``headrace train failure --source …``
does it, with a lake and an MLflow server of its own below ``HEADRACE_HOME/benchmarks/failure``. Run
again it goes on where it stopped. Writes ``RESULTS.md`` and its plots beside this module.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.failure import prepare_backblaze
from benchmarks.failure.figures import Figure, azure_figures, backblaze_figures, plot_azure, plot_backblaze
from models.base import Observations, builder_of
from models.catalogue import find
from models.heads import ProbabilityHead
from pipelines.adapters import exports
from pipelines.adapters.feature_store import FeatureStore
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.chain import run_chain
from pipelines.features.job import FeatureTable
from pipelines.ingest import job as ingest_job
from pipelines.references import FeaturesRef, SnapshotRef, Window
from pipelines.settings import Settings, load_settings
from pipelines.snapshot import job as snapshot_job
from pipelines.snapshot import steps as snapshot_steps
from pipelines.snapshot.parts import observations
from pipelines.snapshot.steps import PARTS
from pipelines.sources.profile import BUNDLED, SourceProfile, load_profile, registered_name
from pipelines.validate import job as validate_job

if TYPE_CHECKING:
    import polars as pl

    from pipelines.adapters.runtimes import Predictor

MODEL = "failure"
HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
COMMAND = "python -m benchmarks.failure.report --data DATA"
START_SECONDS = 120
VALID_DRIVES = 0.05  # enough to stop by and to calibrate; every other drive teaches


@dataclass(frozen=True)
class Scored:
    """A model's probabilities on rows that neither training nor tuning has seen."""

    part: Observations
    probability: NDArray[np.float64]
    alarm_threshold: float
    counts: dict[str, tuple[int, int]]  # rows and positives by part


def main() -> None:
    # An end from outside is an exit like any other: the MLflow server below is stopped on the way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder of azure_pdm/ and backblaze_drives/; default HEADRACE_SHARED_DATA"
    )
    data = parser.parse_args().data or load_settings().shared_data
    if data is None:
        parser.error("give --data, or set HEADRACE_SHARED_DATA to the folder of the shared data")
    with workspace(data) as settings:
        write_results(settings)


@contextlib.contextmanager
def workspace(data: Path, name: str = MODEL) -> Iterator[Settings]:
    """Settings with a lake and a running MLflow server of their own, below ``HEADRACE_HOME/benchmarks/<name>``."""
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


def write_results(settings: Settings) -> None:
    """Run both data sets and write the page and its plots."""
    assert settings.shared_data is not None
    azure = run_source("azure_pdm", settings)
    prepare_backblaze.write(settings.shared_data, settings.home)
    newer = run_source("backblaze_drives", settings)
    others = by_drive(settings)
    plot_azure(azure.part, azure.probability, HERE / "azure_pdm.png")
    plot_backblaze(
        {
            "other drives, newer days": (newer.part, newer.probability),
            "other drives, all days": (others.part, others.probability),
        },
        HERE / "backblaze_drives.png",
    )
    seed = settings.random_seed
    page = "\n".join(
        [
            "# Figures of `failure` on real telemetry",
            "",
            f"Written by `{COMMAND}` (seed {seed}, LightGBM {version('lightgbm')}, Python {platform.python_version()}).",
            "The baselines are those of the data sets' READMEs. Intervals: 95 %, bootstrap over whole machines or drives.",
            "",
            *_section(
                "azure_pdm",
                "Holdout: October to December 2015, all 80 machines, each midnight.",
                azure,
                azure_figures(azure.part, azure.probability, azure.alarm_threshold, seed),
                "azure_pdm.png",
            ),
            *_section(
                "backblaze_drives: as the baseline was taken",
                "Holdout: a quarter of the drives, all of their days. The baseline was trained on all development "
                "drives and tested on evaluation drives that are not public; this one was trained on 70 % of the development "
                "drives (5 % more to stop early and calibrate), and tested on the other 25 %.",
                others,
                backblaze_figures(others.part, others.probability, seed),
                "backblaze_drives.png",
            ),
            *_section(
                "backblaze_drives: as in production",
                "Holdout of the gate: a quarter of the drives, and of these only the newest quarter of the time, "
                "after all that training saw of the other drives. Harder than the baseline's test, and what a "
                "user would meet.",
                newer,
                backblaze_figures(newer.part, newer.probability, seed),
                None,
            ),
        ]
    )
    RESULTS.write_text(page.rstrip("\n") + "\n", "utf-8")
    print(page)


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
    return Scored(
        holdout, predictor.predict(holdout.columns)["probability"], head.alarm_threshold, _counts(rows)
    )


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
    return Scored(parts["holdout"], probability, float("nan"), _counts(rows))


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


def _counts(rows: pl.DataFrame) -> dict[str, tuple[int, int]]:
    rows_of, positives_of = snapshot_steps.counts(rows)
    return {part: (rows_of[part], positives_of[part]) for part in PARTS}


def _section(title: str, about: str, scored: Scored, figures: list[Figure], plot: str | None) -> list[str]:
    short = [
        figure.metric + (" (the baseline is inside the interval)" if figure.is_within_chance else "")
        for figure in figures
        if figure.falls_short
    ]
    compared = any(figure.baseline is not None for figure in figures)
    told = (
        f"**Falls short of the baseline**: {'; '.join(short)}."
        if short
        else "No figure falls short of the baseline."
    )
    return [
        f"## {title}",
        "",
        about,
        "Rows (positive): "
        + ", ".join(f"{part} {rows:,} ({positives:,})" for part, (rows, positives) in scored.counts.items())
        + ".",
        "",
        "| metric | README baseline | ours | 95 % |",
        "|---|---:|---:|---:|",
        *(_line(figure) for figure in figures),
        "",
        *([told, ""] if compared else []),
        *([f"![{title}]({plot})", ""] if plot else []),
    ]


def _line(figure: Figure) -> str:
    baseline = "" if figure.baseline is None else f"{figure.baseline:.3g}"
    interval = f"{_digits(figure.interval[0])} … {_digits(figure.interval[1])}" if figure.interval else ""
    return f"| {figure.metric} | {baseline} | {_digits(figure.ours)} | {interval} |"


def _digits(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


if __name__ == "__main__":
    main()
