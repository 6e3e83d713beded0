"""The usual way: FastAPI with a Pydantic model of the request, and the same predictor behind it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field, create_model

from benchmarks.serving.workload import HEAD, NAMES
from models.manifest import Estimator
from pipelines.adapters.runtimes.lightgbm import LightGBMRuntime

RUNTIME = LightGBMRuntime(
    Estimator(name=HEAD.estimator, runtime="lightgbm", file="model.txt", inputs=NAMES),
    Path(os.environ["BENCH_FOLDER"]),
)
Record = create_model("Record", **{name: (float, Field(ge=-100, le=100)) for name in NAMES})  # type: ignore[call-overload]


class Request(BaseModel):
    records: list[Record]  # type: ignore[valid-type]


class Prediction(BaseModel):
    probability: float
    alarm: bool


class Reply(BaseModel):
    predictions: list[Prediction]


app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Reply:
    rows = [[getattr(record, name) for name in NAMES] for record in request.records]
    outputs = HEAD.answer({}, {HEAD.estimator: RUNTIME.raw(np.array(rows))})
    told = zip(outputs["probability"].tolist(), outputs["alarm"].tolist(), strict=True)
    return Reply(predictions=[Prediction(probability=p, alarm=a) for p, a in told])


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["BENCH_PORT"]), access_log=False, log_level="warning")
