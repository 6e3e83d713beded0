"""The gRPC server: threads, limits, health, reflection."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import enable_server_reflection

from pipelines.errors import ProcessError
from pipelines.settings import Settings
from serving import tls
from serving.access import Access
from serving.dataplane import DataPlane
from serving.grpc.health import HealthService
from serving.grpc.messages import POOL, SERVICE
from serving.grpc.service import InferenceService
from serving.metrics import ServingMetrics
from serving.repository import Repository
from serving.tracing import Tracer

# Each call holds a thread from its first byte on, in grpcio: with fewer than there may be calls, some that never
# send the rest would hold up all others. Few of them work at a time (InferenceService).
_CALLS = 512
_CALLS_PER_CONNECTION = 128
_GRACE_SECONDS = 10.0
_METADATA_BYTES = 16 * 2**10

log = logging.getLogger(__name__)


class GrpcServer:
    """Serves the data plane on ``serving_grpc_port``.

    Args:
        metrics: Where it shows how busy it is.
        access, tracer: As REST has them.
        shared: Other processes of this server listen on the same port.

    Raises:
        ProcessError: the port is taken, or certificate and key cannot be read.
    """

    def __init__(
        self,
        plane: DataPlane,
        repository: Repository,
        settings: Settings,
        metrics: ServingMetrics | None = None,
        *,
        access: Access | None = None,
        tracer: Tracer | None = None,
        shared: bool = False,
    ) -> None:
        self._health = HealthService(plane)
        service = InferenceService(
            plane,
            repository,
            access=access,
            tracer=tracer,
            admin_apart=bool(settings.serving_admin_port),
            logs_requests=settings.serving_access_log,
        )
        if metrics is not None:
            metrics.watch("grpc", lambda: service.under_way, lambda: service.waiting)
        self._server = grpc.server(
            ThreadPoolExecutor(_CALLS, thread_name_prefix="grpc"),
            handlers=[service.handlers()],
            maximum_concurrent_rpcs=_CALLS,
            options=(
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_concurrent_streams", _CALLS_PER_CONNECTION),
                ("grpc.max_receive_message_length", settings.serving_max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", _METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
                # Clients that say nothing are asked whether they live, and dropped where they do not answer.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", int(settings.serving_client_seconds * 1000)),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
        )
        add_HealthServicer_to_server(self._health, self._server)
        enable_server_reflection((SERVICE, HEALTH, REFLECTION), self._server, pool=POOL)
        address = _address(settings.bind_host, settings.serving_grpc_port)
        credentials = _credentials(settings)
        try:
            self.port = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError as error:
            raise ProcessError(
                f"cannot listen on {address} for gRPC. Stop what listens there, or set HEADRACE_SERVING_GRPC_PORT to "
                "another port (0: no gRPC)"
            ) from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        log.info("serving gRPC on port %d", self.port)

    def stop(self) -> None:
        """Take no more calls; those that are under way are answered first."""
        self._health.stop()
        self._server.stop(_GRACE_SECONDS).wait()


def _credentials(settings: Settings) -> Any:
    """For TLS; None without."""
    found = tls.certificate(settings)
    if found is None:
        return None
    chain, key = found
    return grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
