"""Can the real server serve this version: the right answers through the wire, within its budgets?

The candidate's export is given to the server's own code in a process of its own
(``python -m serving.single``), and asked over the Open Inference Protocol like any version that
serves. TFX's InfraValidator asks whether a model answers; this asks whether it answers *right*:
as the model did that was trained.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from models.manifest import MANIFEST_FILE, SAMPLE_FILE, FieldType, Manifest, Sample
from pipelines.errors import HeadraceError
from pipelines.evaluate.checks import Check, CheckKind
from pipelines.evaluate.wire import Wire, answers, request
from pipelines.references import Outcome
from pipelines.train.job import NATIVE_SAMPLE

if TYPE_CHECKING:
    import httpx
    import psutil

    from models.specs import Budgets
    from pipelines.adapters.registry import ModelVersion
    from pipelines.settings import Settings

Found = TypeVar("Found")

REQUESTS, WARM_UP, ROUNDS = 200, 20, 5
_START_SECONDS = 120.0
_LOG_LINES = 12
_MIB = 2**20


class ServabilityError(HeadraceError):
    """The candidate's server did not start, ended, or refused what it must answer."""


@dataclass(frozen=True)
class Differences:
    """How far answers are from those of training time.

    Attributes:
        number: Largest absolute difference of a number; infinite where one is missing.
        wrong: Rows with another decision, not counting those at the threshold itself.
        row, output: Where the first wrong or farthest one is.
    """

    number: float
    wrong: int
    row: int
    output: str


@dataclass(frozen=True)
class Served:
    """A running server with one version."""

    client: httpx.Client
    process: psutil.Process
    name: str
    resident_bytes_before: int

    def infer(
        self, manifest: Manifest, rows: tuple[dict[str, Any], ...], wire: Wire = Wire.JSON
    ) -> dict[str, list[Any]]:
        """Outputs by name, one value per row.

        Raises:
            ServabilityError: the server answers with an error, or with another shape.
        """
        body = request(manifest.inputs, manifest.outputs, rows, wire)
        answer = self.client.post(f"/v2/models/{self.name}/infer", content=body.content, headers=body.headers)
        if answer.status_code != 200:
            raise ServabilityError(f"the server answered {answer.status_code}: {answer.text[:300]}")
        outputs = answers(answer.content, answer.headers)
        for name, values in outputs.items():
            if len(values) != len(rows):
                raise ServabilityError(
                    f"{len(rows)} rows were sent, {len(values)} values of {name} came back"
                )
        return outputs

    def gained_mb(self) -> float:
        return float(self.process.memory_info().rss - self.resident_bytes_before) / _MIB


def check(
    export: Path, version: ModelVersion, native: Sample | None, budgets: Budgets, settings: Settings
) -> tuple[Check, ...]:
    """Serve a version's export in the real server and judge what comes over the wire.

    Args:
        export: Folder of the version's files.
        version: As the registry has it: its tags vouch for the files, as they will in production.
        native: Rows of the holdout with the answers of the model as it was trained; None where
            training left none, which is no evidence.
        budgets: What it may cost.
        settings: Of this process: the server trusts the same keys.

    Returns:
        Checks of kind servability. A server that dies, hangs or refuses is a check that failed,
        with the end of its log.
    """
    try:
        return tuple(_judged(export, version, native, budgets, settings))
    except (HeadraceError, OSError, ValueError, KeyError, TypeError) as error:
        return (_failed(error),)


def native_sample(run_id: str, settings: Settings) -> Sample | None:
    """What training left with its run for :func:`check`; None where it left nothing."""
    import mlflow
    from mlflow.exceptions import MlflowException

    from pipelines.adapters import tracking

    client = tracking.client(settings)
    folder, _, _ = NATIVE_SAMPLE.rpartition("/")
    if NATIVE_SAMPLE not in {found.path for found in client.list_artifacts(run_id, folder)}:
        return None
    try:
        return Sample.model_validate_json(mlflow.artifacts.load_text(f"runs:/{run_id}/{NATIVE_SAMPLE}"))
    except (MlflowException, ValueError) as error:
        raise ServabilityError(f"{NATIVE_SAMPLE} of run {run_id} cannot be read: {error}") from error


def _judged(
    export: Path, version: ModelVersion, native: Sample | None, budgets: Budgets, settings: Settings
) -> Iterator[Check]:
    import httpx

    manifest = Manifest.model_validate_json((export / MANIFEST_FILE).read_bytes())
    stored = Sample.model_validate_json((export / SAMPLE_FILE).read_bytes())
    with served(export, version, settings) as server:
        try:
            yield reproduces("the export's sample", manifest, stored, server)
            if native is None:
                yield _nothing_native()
            else:
                yield reproduces("holdout rows", manifest, native, server)
            rows = native.rows if native else stored.rows
            wanted_ms = budgets.latency.total_seconds() * 1000
            p50, p99 = _latencies(lambda row: server.infer(manifest, (row,)), rows, wanted_ms)
            memory_mb = server.gained_mb()
        except httpx.HTTPError as error:
            raise ServabilityError(
                f"the server stopped answering: {type(error).__name__}: {error}"
            ) from error
    yield _within(
        "latency of one row, p99, ms",
        p99,
        wanted_ms,
        REQUESTS,
        f"{REQUESTS} requests one after another over loopback, the quietest of up to {ROUNDS} rounds; "
        f"the median is {p50:.2f} ms",
        "Will callers wait too long?",
    )
    yield _within(
        "memory, MiB",
        memory_mb,
        budgets.memory_mb,
        1,
        "resident memory of the server's process after the requests, less that with its libraries alone",
        "Does it fit beside the other models?",
    )
    size_mb = sum(path.stat().st_size for path in export.iterdir()) / _MIB
    files = len(list(export.iterdir()))
    yield _within(
        "size, MiB", size_mb, budgets.size_mb, files, "all files of the export", "Is it quick to load?"
    )


@contextmanager
def served(export: Path, version: ModelVersion, settings: Settings) -> Iterator[Served]:
    """The real server, with this version alone, on a port of loopback; it is ended afterwards.

    Raises:
        ServabilityError: it does not become ready, or the body failed; with the end of its log.
    """
    import httpx
    import psutil

    with tempfile.TemporaryDirectory(prefix="headrace-candidate-") as folder:
        home, announce, log = (
            Path(folder) / "home",
            Path(folder) / "announce.json",
            Path(folder) / "server.log",
        )
        named = Path(folder) / "version.json"
        named.write_text(version.model_dump_json(), "utf-8")
        command = [
            *(sys.executable, "-m", "serving.single", "--export", str(export)),
            *("--version", str(named), "--announce", str(announce), "--until-input-ends"),
        ]
        requests = logging.getLogger("httpx")
        before = requests.level
        requests.setLevel(
            logging.WARNING
        )  # a line for each of hundreds of requests would bury the task's log
        with log.open("wb") as output:
            # Its standard input closes when this process ends, however it ends: then the server ends too.
            process = subprocess.Popen(
                command, env=_environment(home, settings), stdin=subprocess.PIPE, stdout=output, stderr=output
            )
        try:
            until = time.monotonic() + _START_SECONDS
            told = _wait(lambda: _announced(announce), process, until, "did not start")
            with httpx.Client(base_url=str(told["url"]), trust_env=False, timeout=30.0) as client:
                _wait(lambda: _ready(client), process, until, "did not become ready")
                yield Served(client, psutil.Process(process.pid), version.name, int(told["resident_bytes"]))
        except ServabilityError as error:
            raise ServabilityError(f"{error}. The end of its log:\n{_tail(log)}") from error
        finally:
            _end(process)
            requests.setLevel(before)


def compare(manifest: Manifest, sample: Sample, answers: dict[str, list[Any]]) -> Differences:
    """Answers over the wire against those of training time.

    Raises:
        ServabilityError: an output is missing.
    """
    columns = {}
    for field in manifest.outputs:
        if field.name not in answers:
            raise ServabilityError(f"the server left out the output {field.name!r}")
        kind = np.float64 if field.type is FieldType.DOUBLE else object
        columns[field.name] = np.array(answers[field.name], dtype=kind)
    margin = manifest.head.margin(columns)
    farthest, wrong = Differences(0.0, 0, 0, manifest.outputs[0].name), 0
    for field in manifest.outputs:
        then = [prediction.get(field.name) for prediction in sample.predictions]
        if field.type is FieldType.DOUBLE:
            apart = np.nan_to_num(np.abs(columns[field.name] - np.array(then, dtype=np.float64)), nan=np.inf)
            if apart.max() > farthest.number:
                farthest = Differences(float(apart.max()), 0, int(apart.argmax()), field.name)
            continue
        differs = np.array([now != was for now, was in zip(columns[field.name], then, strict=True)])
        if margin is not None:
            # At a threshold itself, a rounding in the last digit decides; that is not another model.
            differs &= margin > manifest.tolerance
        if differs.any() and not wrong:
            farthest = Differences(farthest.number, 0, int(differs.argmax()), field.name)
        wrong += int(differs.sum())
    return Differences(farthest.number, wrong, farthest.row, farthest.output)


def reproduces(what: str, manifest: Manifest, sample: Sample, server: Served) -> Check:
    """Ask a server for rows whose answers are known, over each wire format; the worse one counts."""
    told = {wire: compare(manifest, sample, server.infer(manifest, sample.rows, wire)) for wire in Wire}
    wire, found = max(told.items(), key=lambda item: (item[1].wrong, item[1].number))
    fine = found.number <= manifest.tolerance and not found.wrong
    where = f"{found.wrong} decisions differ over {wire.value}; the first or farthest is row {found.row}, {found.output}"
    return Check(
        name=f"training-time predictions of {what}, through the server",
        kind=CheckKind.SERVABILITY,
        outcome=Outcome.PASS if fine else Outcome.FAIL,
        figure=found.number if np.isfinite(found.number) else None,
        wanted=f"largest difference at most {manifest.tolerance:g}, no other decision",
        n=len(sample.rows),
        detail="" if fine else where,
        question="Does the server answer what the model answered that was trained?",
        method=f"Open Inference Protocol, {' and '.join(Wire)}, to the server in a process of its own",
        bound=manifest.tolerance,
        better="lower",
        remedy="The export is not the model that was trained: do not promote it; train again",
    )


def _nothing_native() -> Check:
    return Check(
        name="training-time predictions of holdout rows, through the server",
        kind=CheckKind.SERVABILITY,
        outcome=Outcome.INSUFFICIENT,
        figure=None,
        wanted="predictions of the trained model to compare with",
        n=0,
        detail="training left none with the run",
        question="Does the server answer what the model answered that was trained?",
        remedy="Train again",
    )


def _within(name: str, figure: float, budget: float, n: int, method: str, question: str) -> Check:
    return Check(
        name=name,
        kind=CheckKind.SERVABILITY,
        outcome=Outcome.PASS if figure <= budget else Outcome.FAIL,
        figure=figure,
        wanted=f"at most {budget:g}",
        n=n,
        question=question,
        method=method,
        bound=budget,
        better="lower",
        remedy="Make the model smaller, or widen the spec's budgets for a reason",
    )


def _failed(error: Exception) -> Check:
    known = isinstance(error, HeadraceError)
    return Check(
        name="the server serves it",
        kind=CheckKind.SERVABILITY,
        outcome=Outcome.FAIL,
        figure=None,
        wanted="the real server loads it and answers",
        n=0,
        detail=str(error) if known else f"{type(error).__name__}: {error}",
        question="Would the server take this version if an alias named it?",
    )


def _latencies(
    ask: Callable[[dict[str, Any]], object], rows: tuple[dict[str, Any], ...], wanted_ms: float
) -> tuple[float, float]:
    """Median and 99th percentile, ms, of requests of one row.

    What else runs on a machine adds to a latency and never takes from it. So a round beyond the
    budget is followed by another, and the one with the lowest 99th percentile counts.
    """
    for number in range(WARM_UP):
        ask(rows[number % len(rows)])
    best = (np.inf, np.inf)
    for _ in range(ROUNDS):
        best = min(best, _round(ask, rows), key=lambda found: found[1])
        if best[1] <= wanted_ms:
            break
    return best


def _round(ask: Callable[[dict[str, Any]], object], rows: tuple[dict[str, Any], ...]) -> tuple[float, float]:
    took = np.empty(REQUESTS)
    for number in range(REQUESTS):
        began = time.perf_counter()
        ask(rows[number % len(rows)])
        took[number] = time.perf_counter() - began
    p50, p99 = np.quantile(took * 1000, [0.5, 0.99])
    return float(p50), float(p99)


def _environment(home: Path, settings: Settings) -> dict[str, str]:
    """The server's state is its own, its settings are the defaults; it trusts the keys that this process trusts."""
    from pipelines.adapters.signing import Trust

    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("HEADRACE_")}
    return {
        **kept,
        "HEADRACE_HOME": str(home),
        "HEADRACE_TRUSTED_KEYS": ",".join(map(str, Trust.of(settings).files)),
        # Questions of the gate are no traffic, and the default port is that of the server which serves.
        "HEADRACE_PREDICTION_LOG": "false",
        "HEADRACE_SERVING_GRPC_PORT": "0",
        # It looks for the version once; what it would look for again never changes.
        "HEADRACE_SERVING_POLL_SECONDS": "60",
    }


def _wait(
    look: Callable[[], Found | None], process: subprocess.Popen[bytes], until: float, trouble: str
) -> Found:
    while True:
        if (found := look()) is not None:
            return found
        if process.poll() is not None:
            raise ServabilityError(f"the server {trouble}: it ended with code {process.returncode}")
        if time.monotonic() > until:
            raise ServabilityError(f"the server {trouble} within {_START_SECONDS:.0f} s")
        time.sleep(0.05)


def _announced(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _ready(client: httpx.Client) -> bool | None:
    """True once the version answers its own sample.

    Raises:
        ServabilityError: the server refused to load it; trying again would not help.
    """
    import httpx

    try:
        answer = client.get("/v2/health/ready")
    except httpx.TransportError:
        return None
    if answer.status_code == 200:
        return True
    states = [state for aliases in answer.json().get("models", {}).values() for state in aliases.values()]
    refused = [state["failure"] for state in states if state.get("failures")]
    if refused:
        raise ServabilityError(f"the server refused the version: {refused[0]}")
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
    return "\n".join(line[:300] for line in lines) or "(empty)"
