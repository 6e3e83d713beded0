"""A server of small models at its port, and what its tests ask it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from pipelines.adapters.runtimes import Predictor
from serving.app import Server
from tests.serving.small_models import SMALL_MODELS

MAX_ROWS, MAX_BODY_BYTES, CLIENT_SECONDS = 50, 300_000, 1.0
KINDS = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}
ROW = {"cpu": 95.0, "latency": 40.0, "cores": 16, "zone": "b"}
OTHER = {"cpu": 5.0, "latency": None, "cores": 4, "zone": None}
RECORDS = [ROW, OTHER]


@dataclass
class Serving:
    """A server with ``tiny`` and one small model of each kind of head."""

    url: str
    app: Server
    http: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def predictor(self, name: str) -> Predictor:
        return self.app.plane.find(name).predictor

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.http.post(f"{self.url}{path}", **more)


def columns_of(serving: Serving, name: str, rows: int, seed: int = 1) -> dict[str, NDArray]:
    """Rows for a model, without missing strings: the protocol's binary form has none."""
    if name == "tiny":
        return {key: np.array([ROW[key]] * rows, dtype=object if key == "zone" else float) for key in ROW}
    columns = SMALL_MODELS[name].columns(np.random.default_rng(seed), rows)
    return {
        key: _without_none(values) if values.dtype == object else values for key, values in columns.items()
    }


def _without_none(values: NDArray) -> NDArray:
    return np.array(["?" if text is None else text for text in values], dtype=object)
