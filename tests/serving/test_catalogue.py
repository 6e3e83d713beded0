"""Every model of the catalogue, as its builder exports it, behind every door, asked by stock clients."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray

from models.base import Observations
from models.catalogue import CATALOGUE
from models.manifest import FieldType, Manifest
from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.settings import load_settings
from serving.app import Server, create_app
from serving.cache import Served, VersionCache
from serving.grpc.server import GrpcServer
from serving.plan import DATATYPES
from tests.serving.catalogue_exports import TRAINED, write_catalogue_export
from tests.serving.conftest import wait_until
from tests.serving.running import running

pytestmark = pytest.mark.integration  # trains eight models: most of a minute

KINDS = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}
#: Estimators whose answers have no exact account: networks, graphs that make the trees' inputs themselves, and forests
#: whose answer is no sum over trees.
SILENT = {"anomaly": {"autoencoder", "isolation_forest"}, "bandwidth": {"lstm", "trees"}}


@dataclass
class Serving:
    app: Server
    url: str
    grpc: str
    rows: dict[str, Observations]

    def manifest(self, name: str) -> Manifest:
        return self.app.plane.find(name).predictor.manifest

    def columns(self, name: str, rows: int, *, holes: bool) -> dict[str, NDArray]:
        """What a caller has of each input: those that the training knew; the optional others are left out."""
        part, fields = self.rows[name], self.manifest(name).inputs
        found = {}
        for field in fields:
            if field.name not in part.columns:
                assert not field.required, field.name
                continue
            values = part.columns[field.name][:rows]
            if values.dtype == object:
                found[field.name] = np.array([text or "?" for text in values], dtype=object)
            else:
                filled = np.nan_to_num(values, nan=max(1.0, field.minimum or 1.0))
                found[field.name] = values if holes and field.type is FieldType.DOUBLE else filled
        return found

    def record(self, name: str, row: int) -> dict[str, Any]:
        columns = self.columns(name, row + 1, holes=False)
        return {
            key: values[row] if values.dtype == object else float(values[row])
            for key, values in columns.items()
        }


@pytest.fixture(scope="module")
def serving(
    signing_key: Path, trusted_keys: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    pytest.importorskip("tensorflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = load_settings(
        {}, home=tmp_path_factory.mktemp("home"), trusted_keys=trusted_keys, serving_grpc_port=port
    )
    folder = settings.home / "serving"
    rows = {name: write_catalogue_export(name, folder / name / "1", signing_key) for name in TRAINED}
    VersionCache(folder, Trust.of(settings)).note(
        Served(
            name=name, alias="production", version="1", manifest_sha256=manifest_sha256(folder / name / "1")
        )
        for name in TRAINED
    )
    app = create_app(settings, Registry("http://127.0.0.1:9"))
    app.transports.append(GrpcServer(app.plane, app.repository, settings, app.metrics))
    with running(app, settings) as url:
        ready = f"{url}/v2/health/ready"
        wait_until(lambda: httpx.get(ready, trust_env=False, timeout=60).status_code == 200, 60)
        yield Serving(app, url, f"127.0.0.1:{port}", rows)


def test_no_model_of_the_catalogue_is_left_out() -> None:
    assert set(TRAINED) == set(CATALOGUE)


@pytest.mark.parametrize("way", ["json", "binary", "grpc"])
@pytest.mark.parametrize("name", sorted(TRAINED))
def test_tritons_clients_get_the_predictors_own_answers(serving: Serving, name: str, way: str) -> None:
    for rows in (1, 5):
        columns = serving.columns(
            name, rows, holes=way != "json"
        )  # JSON of this client has no missing number
        expected = serving.app.plane.find(name).predictor.predict(columns)
        result = _asked(serving, name, columns, way)
        for field in serving.manifest(name).outputs:
            found = result.as_numpy(field.name)
            assert found.shape == (rows,)
            if field.type is FieldType.STRING:
                texts = [text.decode() if isinstance(text, bytes) else text for text in found]
                assert texts == [text or "" for text in expected[field.name]]
            else:
                np.testing.assert_array_equal(found, expected[field.name], err_msg=field.name)


def _asked(serving: Serving, name: str, columns: dict[str, NDArray], way: str) -> Any:
    kind = triton_grpc if way == "grpc" else triton_http
    types = {field.name: DATATYPES[field.type] for field in serving.manifest(name).inputs}
    inputs = []
    for key, values in columns.items():
        tensor = kind.InferInput(key, [len(values)], types[key])
        how = {} if way == "grpc" else {"binary_data": way == "binary"}
        tensor.set_data_from_numpy(values.astype(KINDS[types[key]]), **how)
        inputs.append(tensor)
    if way == "grpc":
        with triton_grpc.InferenceServerClient(serving.grpc) as client:
            return client.infer(name, inputs)
    outputs = [
        triton_http.InferRequestedOutput(field.name, binary_data=way == "binary")
        for field in serving.manifest(name).outputs
    ]
    with triton_http.InferenceServerClient(serving.url.removeprefix("http://")) as client:
        return client.infer(name, inputs, outputs=outputs)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_metadata_states_names_datatypes_and_shapes_alike(serving: Serving, name: str) -> None:
    with triton_http.InferenceServerClient(serving.url.removeprefix("http://")) as client:
        over_http = client.get_model_metadata(name)
        assert client.is_model_ready(name)
    with triton_grpc.InferenceServerClient(serving.grpc) as client:
        over_grpc = client.get_model_metadata(name, as_json=True)
        assert client.is_model_ready(name)
    manifest = serving.manifest(name)
    for part, fields in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        wanted = [(field.name, DATATYPES[field.type], -1) for field in fields]
        for told in (over_http, over_grpc):
            assert [(t["name"], t["datatype"], *map(int, t["shape"])) for t in told[part]] == wanted


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_contributions_add_up_and_intervals_are_in_order(serving: Serving, name: str) -> None:
    records = [serving.record(name, row) for row in range(2)]
    reply = httpx.post(
        f"{serving.url}/models/{name}/predict?explain=true",
        json={"records": records},
        trust_env=False,
        timeout=60,
    )
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert set(answer.get("unexplained", {})) == SILENT.get(name, set())
    estimators = {estimator.name for estimator in serving.manifest(name).estimators}
    for row in answer["predictions"]:
        # Of an estimator with several answers, each has an account: "<estimator>.<answer>".
        explained = {account.partition(".")[0] for account in row["explanation"]}
        assert explained == estimators - SILENT.get(name, set())
        for told in row["explanation"].values():
            total = told["base"] + sum(told["contributions"].values())
            assert total == pytest.approx(told["raw"], rel=1e-5, abs=1e-5)
        if {"lower", "upper"} <= row.keys():
            middle = row.get("forecast", row.get("lifetime_hours"))
            assert row["lower"] <= (row["lower"] if middle is None else middle) <= row["upper"]
        if "probability" in row:
            assert 0 <= row["probability"] <= 1
    outputs = {field.name for field in serving.manifest(name).outputs}
    assert all(outputs <= row.keys() for row in answer["predictions"])


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_mlflows_shape_and_csv_are_answered_alike(serving: Serving, name: str) -> None:
    record = serving.record(name, 0)
    url = f"{serving.url}/models/{name}/invocations"
    split = {"dataframe_split": {"columns": list(record), "data": [list(record.values())]}}
    csv = ",".join(record) + "\n" + ",".join(str(value) for value in record.values()) + "\n"
    with httpx.Client(trust_env=False, timeout=60) as http:
        found = [
            http.post(url, json=split),
            http.post(url, json={"dataframe_records": [record]}),
            http.post(url, content=csv, headers={"Content-Type": "text/csv"}),
        ]
    assert [reply.status_code for reply in found] == [200] * 3, [reply.text for reply in found]
    first, *others = (reply.json()["predictions"] for reply in found)
    assert all(other == first for other in others)
