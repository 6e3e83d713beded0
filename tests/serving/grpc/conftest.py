"""A server over gRPC with two models from its cache."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from fastapi.testclient import TestClient

from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Signer, Trust
from pipelines.settings import load_settings
from serving.app import create_app
from serving.cache import Served, VersionCache
from serving.grpc.server import GrpcServer
from tests.serving.conftest import NOBODY, wait_until
from tests.serving.grpc.asking import MAX_ROWS, Serving, write_net


@pytest.fixture(scope="module")
def serving(
    make_export: Callable[..., Path],
    signing_key: Path,
    trusted_keys: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serving]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = load_settings(
        {},
        home=tmp_path_factory.mktemp("home"),
        trusted_keys=trusted_keys,
        serving_max_rows=MAX_ROWS,
        serving_max_body_bytes=100_000,
        serving_grpc_port=port,
        serving_replica="one",
        prediction_log_flush_seconds=0.01,
    )
    folder = settings.home / "serving"
    make_export(folder / "tiny" / "2", slope=2.0)
    make_export(folder / "tiny" / "3", slope=3.0)
    write_net(folder / "net" / "1")
    Signer(signing_key).sign(folder / "net" / "1", manifest_sha256(folder / "net" / "1"))
    served = [("tiny", "production", "2"), ("tiny", "challenger", "3"), ("net", "production", "1")]
    VersionCache(folder, Trust.of(settings)).note(
        Served(
            name=name, alias=alias, version=version, manifest_sha256=manifest_sha256(folder / name / version)
        )
        for name, alias, version in served
    )
    app = create_app(settings, Registry(NOBODY))
    server = GrpcServer(app.plane, app.repository, settings)
    app.transports.append(server)
    with TestClient(app, raise_server_exceptions=False) as http:
        wait_until(lambda: http.get("/v2/health/ready").status_code == 200)
        address = f"127.0.0.1:{port}"
        with grpc.insecure_channel(address) as channel:
            yield Serving(settings, app.plane, http, address, channel)


@pytest.fixture
def client(serving: Serving) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(serving.address) as client:
        yield client
