"""The standard health service, which tells readiness as it is."""

from __future__ import annotations

from threading import Event, Lock, Thread
from typing import Any

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serving.dataplane import DataPlane
from serving.grpc.messages import SERVICE

_LOOK_SECONDS = 1.0


class HealthService(HealthServicer):
    """SERVING while every model that should serve reproduces its own sample.

    It answers for the whole server (the empty name) and for the inference service.
    """

    def __init__(self, plane: DataPlane) -> None:
        super().__init__()
        self._plane = plane
        self._stopped = Event()
        self._starting = Lock()
        self._looking: Thread | None = None
        self.set(SERVICE, HealthCheckResponse.NOT_SERVING)
        self.set("", HealthCheckResponse.NOT_SERVING)

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:  # noqa: N802
        """State now."""
        self._look()
        return super().Check(request, context)

    def Watch(self, request: HealthCheckRequest, context: Any, send_response_callback: Any = None) -> Any:  # noqa: N802
        """State now and at each change. Samples are predicted every second once somebody watches, not before."""
        self._look()
        with self._starting:
            if self._looking is None:
                self._looking = Thread(target=self._keep_looking, name="grpc-health", daemon=True)
                self._looking.start()
        return super().Watch(request, context, send_response_callback)

    def stop(self) -> None:
        """Say NOT_SERVING from now on, so that nobody sends new requests."""
        self._stopped.set()
        self.enter_graceful_shutdown()

    def _keep_looking(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        ready = self._plane.readiness().ready
        state = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            self.set(name, state)
