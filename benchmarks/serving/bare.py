"""The bar: a bare ASGI application with the same predictor, as lean as it can be written honestly.

It checks by hand what a careful person would check (the names, the types, finite numbers in
range), predicts through the same runtime and head, counts in Prometheus, and knows nothing else: one model,
one path each, no versions, no log of predictions, no limits.
"""

from __future__ import annotations

import os
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
import uvicorn
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from benchmarks.serving.workload import HEAD, MODEL, NAMES
from models.manifest import Estimator
from pipelines.adapters.runtimes.lightgbm import LightGBMRuntime

FOLDER = Path(os.environ["BENCH_FOLDER"])
RUNTIME = LightGBMRuntime(
    Estimator(name=HEAD.estimator, runtime="lightgbm", file="model.txt", inputs=NAMES), FOLDER
)
REGISTRY = CollectorRegistry()
REQUESTS = Counter("requests", "Requests.", ("code",), registry=REGISTRY)
SECONDS = Histogram("seconds", "Time.", registry=REGISTRY)
ANSWERED, REFUSED = REQUESTS.labels("200"), REQUESTS.labels("422")

VALUES = itemgetter(*NAMES)
POSITIONS = {name: place for place, name in enumerate(NAMES)}
NUMBERS = {float, int}


def rows_of_records(body: Any) -> np.ndarray:
    rows = []
    for record in body["records"]:
        if len(record) != len(NAMES):
            raise ValueError("fields")
        rows.append(VALUES(record))
    return checked(rows)


def rows_of_tensors(body: Any) -> np.ndarray:
    columns: list[Any] = [None] * len(NAMES)
    for tensor in body["inputs"]:
        if tensor["datatype"] != "FP64" or tensor["shape"] != [len(tensor["data"])]:
            raise ValueError(tensor["name"])
        columns[POSITIONS[tensor["name"]]] = tensor["data"]
    return checked(list(zip(*columns, strict=True)))


def checked(rows: list[Any]) -> np.ndarray:
    for row in rows:
        if not set(map(type, row)) <= NUMBERS:
            raise ValueError("types")
    matrix = np.array(rows, dtype=np.float64)
    if not rows or not (abs(matrix) <= 100).all():
        raise ValueError("range")
    return matrix


def predicted(matrix: np.ndarray) -> dict[str, Any]:
    return HEAD.answer({}, {HEAD.estimator: RUNTIME.raw(matrix)})


def answer_records(body: Any) -> Any:
    outputs = predicted(rows_of_records(body))
    rows = zip(outputs["probability"].tolist(), outputs["alarm"].tolist(), strict=True)
    told = [{"prediction_id": str(uuid4()), "probability": p, "alarm": a} for p, a in rows]
    return {"model": MODEL, "version": "1", "predictions": told}


def answer_tensors(body: Any) -> Any:
    outputs = predicted(rows_of_tensors(body))
    told = [
        {
            "name": name,
            "datatype": datatype,
            "shape": list(outputs[name].shape),
            "data": outputs[name].tolist(),
        }
        for name, datatype in (("probability", "FP64"), ("alarm", "BOOL"))
    ]
    ids = [str(uuid4()) for _ in outputs["alarm"]]
    return {"model_name": MODEL, "model_version": "1", "outputs": told, "parameters": {"prediction_ids": ids}}


ROUTES = {f"/models/{MODEL}/predict": answer_records, f"/v2/models/{MODEL}/infer": answer_tensors}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/metrics":
        await reply(send, 200, generate_latest(REGISTRY))
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    with SECONDS.time():
        try:
            content, status = orjson.dumps(ROUTES[scope["path"]](orjson.loads(body))), 200
            ANSWERED.inc()
        except (KeyError, TypeError, ValueError) as error:
            content, status = orjson.dumps({"error": str(error)}), 422
            REFUSED.inc()
    await reply(send, status, content)


async def reply(send: Any, status: int, content: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(os.environ["BENCH_PORT"]), access_log=False, log_level="warning", lifespan="off"
    )
