"""TLS, keys over gRPC, and the port of the administration, with the server as it runs."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headrace.serving_api import ServingApi
from pipelines.adapters import serving_client, webhooks
from pipelines.adapters.registry import Registry
from pipelines.errors import ProcessError
from pipelines.settings import Settings
from serving import keys, process
from serving.app import Server, create_app
from serving.grpc.messages import SERVICE
from serving.grpc.server import GrpcServer
from serving.keys import Scope

pytestmark = pytest.mark.integration  # servers on ports

NOW = datetime.datetime.now(datetime.UTC)
BODY = {"records": [{"cpu": 1, "cores": 1}]}
PATH = "/models/tiny/predict"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for loopback that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "headrace")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - datetime.timedelta(hours=1))
        .not_valid_after(NOW + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
        return found


@pytest.fixture
def started(
    settings: Settings,
    fill_cache: Callable[..., Path],
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., object]:
    """The server on ports of its own, by :func:`serving.process.serve`; its sockets are closed to end it."""
    import uvicorn

    @contextmanager
    def start(**given: object) -> Iterator[tuple[Settings, Server]]:
        fill_cache(settings, {"production": "1"})
        wanted = settings.model_copy(update={"serving_port": port(), "serving_grpc_port": port()} | given)
        servers: list[uvicorn.Server] = []
        made = uvicorn.Server.__init__

        def remembered(self: uvicorn.Server, config: uvicorn.Config) -> None:
            made(self, config)
            servers.append(self)

        monkeypatch.setattr(uvicorn.Server, "__init__", remembered)
        app = create_app(wanted, Registry("http://127.0.0.1:9"))
        app.transports.append(GrpcServer(app.plane, app.repository, wanted, app.metrics, access=app.access))
        listeners = process.listen(wanted)
        thread = threading.Thread(target=process.serve, args=(app, wanted, *listeners))
        thread.start()
        try:
            wait_until(lambda: bool(servers) and servers[0].started and app.plane.readiness().ready)
            yield wanted, app
        finally:
            servers[0].should_exit = True
            thread.join(timeout=30)
            for listener in listeners:
                listener.close()

    return start


def test_both_transports_speak_tls_by_the_settings(
    started: Callable[..., object], certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    given = {"serving_tls_certificate": cert, "serving_tls_key": key, "serving_tls_authority": cert}
    with started(**given) as (settings, _):  # type: ignore[attr-defined]
        assert settings.serving.startswith("https://")
        assert ServingApi(settings).version("tiny") == "1"
        assert ServingApi(settings).predict("tiny", BODY)["version"] == "1"
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(f"{settings.serving}/v2", trust_env=False)
        with pytest.raises(httpx.TransportError):
            httpx.get(settings.serving.replace("https", "http"), trust_env=False)
        trusted = {"ssl": True, "root_certificates": str(cert)}
        with triton.InferenceServerClient(f"localhost:{settings.serving_grpc_port}", **trusted) as client:
            assert client.is_model_ready("tiny")
        plain = triton.InferenceServerClient(f"localhost:{settings.serving_grpc_port}")
        with plain as client, pytest.raises(triton.InferenceServerException):
            client.is_server_live(client_timeout=3)
        # What is older than TLS 1.2 is not spoken.
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        connected = socket.create_connection(("127.0.0.1", settings.serving_port))
        with connected, pytest.raises(ssl.SSLError):
            old.wrap_socket(connected)


def test_a_certificate_that_cannot_be_read_is_said_with_the_setting(
    started: Callable[..., object], settings: Settings, tmp_path: Path
) -> None:
    wrong = tmp_path / "none.pem"
    broken = settings.model_copy(update={"serving_tls_certificate": wrong, "serving_tls_key": wrong})
    with pytest.raises(ProcessError, match=r"none\.pem"):
        GrpcServer(None, None, broken.model_copy(update={"serving_grpc_port": port()}))  # type: ignore[arg-type]
    app = create_app(settings, Registry("http://127.0.0.1:9"))
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ProcessError, match="HEADRACE_SERVING_TLS_CERTIFICATE"),
    ):
        process.serve(app, broken, listener)


def test_grpc_asks_for_the_same_keys(started: Callable[..., object], settings: Settings) -> None:
    path = settings.serving_key_file
    sent = {}
    for name, more in (
        ("tiny", {"models": ("tiny",), "requests_per_second": 0.01, "burst": 1}),
        ("other", {"models": ("other",)}),
        ("admin", {"scopes": (Scope.ADMIN,)}),
    ):
        sent[name] = {"authorization": f"Bearer {keys.new(path, name, now=NOW, **more)[1]}"}  # type: ignore[arg-type]
    with started(serving_keys="required") as (wanted, app):  # type: ignore[attr-defined]
        address = f"127.0.0.1:{wanted.serving_grpc_port}"
        tensor = triton.InferInput("cpu", [1], "FP64")
        tensor.set_data_from_numpy(np.array([1.0]))
        with triton.InferenceServerClient(address) as client:
            assert client.is_server_live()
            for ask in (
                lambda: client.get_model_metadata("tiny"),
                lambda: client.get_server_metadata(),
                lambda: client.get_model_repository_index(),
                lambda: client.load_model("tiny"),
                lambda: client.infer("tiny", [tensor]),
            ):
                with pytest.raises(triton.InferenceServerException) as refused:
                    ask()
                assert "UNAUTHENTICATED" in str(refused.value.status())
            assert client.get_model_metadata("tiny", headers=sent["tiny"]).name == "tiny"
            assert [row.name for row in client.get_model_repository_index(headers=sent["other"]).models] == []
            for ask in (
                lambda: client.get_model_metadata("tiny", headers=sent["other"]),
                lambda: client.unload_model("gone", headers=sent["tiny"]),
                lambda: client.infer("tiny", [tensor], headers=sent["other"]),
            ):
                with pytest.raises(triton.InferenceServerException) as refused:
                    ask()
                assert "PERMISSION_DENIED" in str(refused.value.status())
            client.unload_model("gone", headers=sent["admin"])
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            content = b"\x0a\x04tiny"  # model_name
            for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
                with pytest.raises(grpc.RpcError) as ended:
                    call(content, metadata=tuple(sent["tiny"].items()), timeout=10)
                assert ended.value.code() is code
            assert 90 <= int(dict(ended.value.trailing_metadata())["retry-after"]) <= 100
        text = app.metrics.text().decode()
        assert 'headrace_errors_total{kind="unauthenticated",model="",transport="grpc"} 1.0' in text
        assert 'headrace_errors_total{kind="rate_limited",model="",transport="grpc"} 1.0' in text


def test_a_large_body_without_a_key_is_refused_and_the_connection_goes_on(
    started: Callable[..., object], settings: Settings
) -> None:
    _, text = keys.new(settings.serving_key_file, "any", now=NOW)
    with started(serving_keys="required") as (wanted, _), httpx.Client(trust_env=False, timeout=10) as http:  # type: ignore[attr-defined]
        for _ in range(3):
            assert http.post(f"{wanted.serving}{PATH}", content=b" " * 2**23).status_code == 401
        known = {"Authorization": f"Bearer {text}"}
        assert http.post(f"{wanted.serving}{PATH}", json=BODY, headers=known).status_code == 200


def test_the_administration_is_apart_where_it_has_a_port(
    started: Callable[..., object], settings: Settings
) -> None:
    with started(serving_admin_port=port()) as (wanted, _):  # type: ignore[attr-defined]
        with serving_client.client(wanted) as inference, serving_client.client(wanted, admin=True) as admin:
            for method, path in (
                ("GET", "/metrics"),
                ("POST", "/v2/repository/models/tiny/load"),
                ("POST", "/v2/repository/models/tiny/unload"),
                ("POST", webhooks.PATH),
            ):
                assert inference.request(method, path).status_code == 404, path
                assert admin.request(method, path).status_code != 404, path
            assert inference.post(PATH, json=BODY).status_code == 200
            assert admin.post(PATH, json=BODY).status_code == 404
            for client in (inference, admin):
                assert client.get("/v2/health/ready").status_code == 200
        by_grpc = triton.InferenceServerClient(f"127.0.0.1:{wanted.serving_grpc_port}")
        with by_grpc as client, pytest.raises(triton.InferenceServerException, match="administration"):
            client.load_model("tiny")


def test_an_event_that_mlflow_signed_wakes_the_server(started: Callable[..., object]) -> None:
    with started() as (settings, app):  # type: ignore[attr-defined]
        woken: list[float] = []
        look = app.follower.look
        app.follower.look = lambda: (woken.append(time.monotonic()), look())[1]
        body = json.dumps(
            {
                "entity": "model_version_alias",
                "action": "created",
                "timestamp": NOW.isoformat(),
                "data": {"name": "tiny", "alias": "production", "version": "1"},
            }
        )
        secret = webhooks.secret(settings)
        stamp = str(int(time.time()))
        signed = hmac.new(secret.encode(), f"d-1.{stamp}.{body}".encode(), hashlib.sha256).digest()
        headers = {
            "X-MLflow-Delivery-Id": "d-1",
            "X-MLflow-Timestamp": stamp,
            "X-MLflow-Signature": f"v1,{base64.b64encode(signed).decode()}",
        }
        with serving_client.client(settings) as client:
            time.sleep(0.05)
            asked = time.monotonic()
            assert client.post(webhooks.PATH, content=body, headers=headers).status_code == 204
            assert client.post(webhooks.PATH, content=body).status_code == 401
        deadline = asked + settings.serving_poll_seconds / 2
        while not any(moment > asked for moment in woken):
            assert time.monotonic() < deadline, "it looked only when the next look was due"
            time.sleep(0.005)
