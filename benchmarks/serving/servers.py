"""The servers that are compared: how each is started, and how it is asked about the same rows."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx
import numpy as np
import psutil
import pyarrow
import pyarrow.ipc
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from benchmarks.serving.workload import BOOSTED, MODEL, NAMES, Workload

Rows = NDArray[np.float64]
ROOT = Path(__file__).parents[2]
_START_SECONDS = 180.0


@dataclass(frozen=True)
class Door:
    """One way of asking a server: where, with what headers, and how rows become a body."""

    path: str
    body: Callable[[Rows], bytes]
    headers: Mapping[str, str] = field(default_factory=dict)
    header_length: bool = False

    loader: ClassVar[str] = "benchmarks.serving.load"
    after: ClassVar[int] = 0

    def request(self, rows: Rows) -> bytes:
        """A whole HTTP request."""
        body = self.body(rows)
        headers = {"Host": "bench", "Content-Type": "application/json"} | dict(self.headers)
        if self.header_length:
            headers["Inference-Header-Content-Length"] = str(body.index(b"\n") + 1)
        headers["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass(frozen=True)
class GrpcDoor:
    """The protocol's ``ModelInfer``, on the port after that of REST."""

    request: Callable[[Rows], bytes]

    loader: ClassVar[str] = "benchmarks.serving.grpc_load"
    after: ClassVar[int] = 1


@dataclass(frozen=True)
class Server:
    """A server to start.

    Attributes:
        command: With ``{port}`` for the port.
        doors: By name; the first, over REST, is asked until it answers.
    """

    name: str
    command: tuple[str, ...]
    doors: Mapping[str, Door | GrpcDoor]
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = ROOT


def records(rows: Rows) -> bytes:
    return json.dumps({"records": [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()]}).encode()


def tensors(rows: Rows) -> bytes:
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [len(rows)], "data": rows[:, place].tolist()}
        for place, name in enumerate(NAMES)
    ]
    return json.dumps({"inputs": inputs}).encode()


def binary_tensors(rows: Rows) -> bytes:
    size = 8 * len(rows)
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [len(rows)], "parameters": {"binary_data_size": size}}
        for name in NAMES
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode() + b"\n"
    return header + rows.T.astype("<f8").tobytes()


def arrow_stream(rows: Rows) -> bytes:
    table = pyarrow.table({name: rows[:, place] for place, name in enumerate(NAMES)})
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def split(rows: Rows) -> bytes:
    return json.dumps({"dataframe_split": {"columns": list(NAMES), "data": rows.tolist()}}).encode()


def matrix_tensor(rows: Rows) -> bytes:
    tensor = {"name": "rows", "datatype": "FP64", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def matrix(rows: Rows) -> bytes:
    return json.dumps({"rows": rows.tolist()}).encode()


def raw_message(rows: Rows) -> bytes:
    """A tensor an input, in the protocol's raw contents."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    for place, name in enumerate(NAMES):
        request.inputs.add(name=name, datatype="FP64", shape=[len(rows)])
        request.raw_input_contents.append(rows[:, place].astype("<f8").tobytes())
    return bytes(request.SerializeToString())


def matrix_message(rows: Rows) -> bytes:
    """One tensor of all."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="rows", datatype="FP64", shape=rows.shape)
    tensor.contents.fp64_contents.extend(rows.ravel().tolist())
    return bytes(request.SerializeToString())


def servers(workload: Workload, folder: Path, peers: Mapping[str, Path]) -> Iterator[Server]:
    """All that can run here.

    Args:
        peers: The environment of each section of ``peers.txt`` that could be made.
    """
    own = {"BENCH_FOLDER": str(workload.native.parent)}
    doors = {
        "JSON records": Door(f"/models/{MODEL}/predict", records),
        "JSON tensors": Door(f"/v2/models/{MODEL}/infer", tensors),
    }
    ours = doors | {
        "binary tensors": Door(f"/v2/models/{MODEL}/infer", binary_tensors, header_length=True),
        "Arrow": Door(
            f"/models/{MODEL}/invocations",
            arrow_stream,
            {"Content-Type": "application/vnd.apache.arrow.stream"},
        ),
        "gRPC": GrpcDoor(raw_message),
    }
    if workload.model != BOOSTED:  # what a body costs does not depend on the model
        ours = {name: ours[name] for name in ("JSON records", "gRPC")}
    yield Server(
        "Headrace",
        (
            *(sys.executable, "-m", "serving", "--export", str(workload.export)),
            *("--port", "{port}", "--grpc-port", "{port+1}"),
        ),
        ours,
        {"HEADRACE_HOME": str(folder / "home")},
    )
    if workload.model != BOOSTED:
        yield _mlflow("MLflow with signature", workload.native)
        return
    yield Server("bare ASGI", (sys.executable, "-m", "benchmarks.serving.bare"), doors, own)
    yield Server(
        "FastAPI + Pydantic",
        (sys.executable, "-m", "benchmarks.serving.fastapi_app"),
        {"JSON records": Door("/predict", records)},
        own,
    )
    for name, model in mlflow_models(workload, folder).items():
        yield _mlflow(name, model)
    if "mlserver" in peers:
        tensor = {
            "one JSON tensor": Door("/v2/models/bench/infer", matrix_tensor),
            "gRPC": GrpcDoor(matrix_message),
        }
        for name, workers in (("MLServer", 1), ("MLServer in process", 0)):
            yield Server(
                name,
                (str(peers["mlserver"] / "bin" / "mlserver"), "start", "."),
                tensor,
                {"MLSERVER_PARALLEL_WORKERS": str(workers), "MLSERVER_HTTP_PORT": "{port}"}
                | {"MLSERVER_GRPC_PORT": "{port+1}", "MLSERVER_METRICS_PORT": "{port+2}"},
                _mlserver_folder(workload, folder),
            )
    if "bentoml" in peers:
        yield Server(
            "BentoML",
            (
                str(peers["bentoml"] / "bin" / "bentoml"),
                *("serve", "bento_app:Bench", "--port", "{port}", "--host", "127.0.0.1"),
            ),
            {"JSON lists": Door("/predict", matrix)},
            own | {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "bentoml")},
            Path(__file__).parent,
        )


def _mlflow(name: str, model: Path) -> Server:
    command = (sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--port", "{port}")
    given = ("--env-manager", "local", "--workers", "1")
    return Server(name, (*command, *given), {"dataframe_split": Door("/invocations", split)})


def mlflow_models(workload: Workload, folder: Path) -> dict[str, Path]:
    """The model as MLflow saves it, with and without a signature."""
    import lightgbm
    import mlflow.lightgbm
    import pandas
    from mlflow.models import infer_signature

    booster = lightgbm.Booster(model_file=str(workload.native))
    frame = pandas.DataFrame(workload.rows, columns=list(NAMES))
    signature = infer_signature(frame, booster.predict(frame))
    made = {}
    for name, told in (("MLflow with signature", signature), ("MLflow without signature", None)):
        made[name] = folder / name.replace(" ", "-")
        if not made[name].exists():
            mlflow.lightgbm.save_model(booster, made[name], signature=told, pip_requirements=["lightgbm"])
    return made


def _mlserver_folder(workload: Workload, folder: Path) -> Path:
    place = folder / "mlserver"
    place.mkdir(exist_ok=True)
    settings = {
        "name": "bench",
        "implementation": "mlserver_lightgbm.LightGBMModel",
        "parameters": {"uri": str(workload.native)},
    }
    (place / "model-settings.json").write_text(json.dumps(settings), "utf-8")
    return place


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    process: psutil.Process
    start_seconds: float

    def cpu_seconds(self) -> float:
        """Of all processes of the server, from their start until now."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
        return total

    def resident_mib(self) -> float:
        processes = (self.process, *self.process.children(recursive=True))
        return sum(process.memory_info().rss for process in processes) / 2**20


@contextmanager
def started(server: Server, port: int, rows: Rows, log: Path) -> Iterator[Running]:
    """Start a server, wait until it answers a row, and stop it with all that it started.

    Raises:
        RuntimeError: it does not answer.
    """
    fill = {f"{{port{offset}}}": str(port + number) for number, offset in enumerate(("", "+1", "+2"))}

    def filled(text: str) -> str:
        for mark, value in fill.items():
            text = text.replace(mark, value)
        return text

    environment = os.environ | {"OMP_NUM_THREADS": "1", "BENCH_PORT": str(port)}
    # MLflow starts uvicorn by its name.
    environment["PATH"] = os.pathsep.join((str(Path(server.command[0]).parent), os.environ.get("PATH", "")))
    environment |= {name: filled(value) for name, value in server.environment.items()}
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [filled(part) for part in server.command],
            cwd=server.cwd,
            env=environment,
            stdout=output,
            stderr=output,
        )
    watched = psutil.Process(process.pid)
    try:
        door = next(door for door in server.doors.values() if isinstance(door, Door))
        while not _answers(port, door, rows[:1]):
            if process.poll() is not None or time.monotonic() - began > _START_SECONDS:
                raise RuntimeError(f"{server.name} does not answer: {log.read_text('utf-8')[-2000:]}")
            time.sleep(0.1)
        yield Running(port, watched, time.monotonic() - began)
    finally:
        _stop(watched)
        process.wait()


def _answers(port: int, door: Door, rows: Rows) -> bool:
    head, _, body = door.request(rows).partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    try:
        answer = httpx.post(
            f"http://127.0.0.1:{port}{door.path}", content=body, headers=headers, timeout=10, trust_env=False
        )
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def _stop(process: psutil.Process) -> None:
    if not process.is_running():
        return
    everyone = [process, *process.children(recursive=True)]
    process.terminate()
    _, left = psutil.wait_procs(everyone, timeout=10)
    for one in left:
        one.kill()
