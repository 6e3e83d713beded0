"""Can the real server serve this version: the right answers through the wire, within its budgets?

The candidate's export is given to the server's own code in a process of its own
(:mod:`pipelines.evaluate.candidate_server`), and asked over the Open Inference Protocol like any
version that serves. TFX's InfraValidator asks whether a model answers; this asks whether it answers
*right*: as the model did that was trained.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.manifest import MANIFEST_FILE, SAMPLE_FILE, FieldType, Manifest, Sample
from pipelines.errors import HeadraceError
from pipelines.evaluate import run_queue
from pipelines.evaluate.candidate_server import ServabilityError, Served, served
from pipelines.evaluate.checks import Check, CheckKind
from pipelines.evaluate.wire import Wire
from pipelines.references import Outcome
from pipelines.train.job import NATIVE_SAMPLE

if TYPE_CHECKING:
    from models.specs import Budgets
    from pipelines.adapters.registry import ModelVersion
    from pipelines.settings import Settings

REQUESTS, WARM_UP, ROUNDS = 200, 20, 5
_MIB = 2**20


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
            p50, p99 = _latencies(
                lambda row: server.infer(manifest, (row,)), rows, wanted_ms, server.process.pid
            )
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
        f"{REQUESTS} requests one after another over loopback, the quietest of up to {ROUNDS} rounds, less what client and "
        f"server waited for a processor that other work had; the median is {p50:.2f} ms",
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
    ask: Callable[[dict[str, Any]], object], rows: tuple[dict[str, Any], ...], wanted_ms: float, server: int
) -> tuple[float, float]:
    """Median and 99th percentile, ms, of requests of one row.

    What else runs on a machine adds to a latency and never takes from it: waits for a processor are
    taken off where the system counts them, and caches and disks are shared all the same. So a round
    beyond the budget is followed by another, and the one with the lowest 99th percentile counts.

    Args:
        server: Number of the server's process.
    """
    for number in range(WARM_UP):
        ask(rows[number % len(rows)])
    best = (np.inf, np.inf)
    for _ in range(ROUNDS):
        best = min(best, _round(ask, rows, server), key=lambda found: found[1])
        if best[1] <= wanted_ms:
            break
    return best


def _round(
    ask: Callable[[dict[str, Any]], object], rows: tuple[dict[str, Any], ...], server: int
) -> tuple[float, float]:
    processes = (server, os.getpid())
    took = np.empty(REQUESTS)
    for number in range(REQUESTS):
        before = [run_queue.threads(process) for process in processes]
        began = time.perf_counter()
        ask(rows[number % len(rows)])
        took[number] = time.perf_counter() - began
        after = [run_queue.threads(process) for process in processes]
        took[number] -= sum(map(run_queue.waited, before, after))
    p50, p99 = np.quantile(np.maximum(took, 0.0) * 1000, [0.5, 0.99])
    return float(p50), float(p99)
