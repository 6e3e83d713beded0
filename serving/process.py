"""One process of the server: its sockets, its transports, its end."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from pipelines.adapters.registry import Registry
from pipelines.errors import ProcessError
from pipelines.settings import PREFIX, Settings
from serving import tls
from serving.app import Server, Shared, create_app
from serving.clients import watched_protocol

GRACE_SECONDS = 10
LOAD_SECONDS = 20.0

_REGISTRY_TIMEOUT_SECONDS = 5.0
_BACKLOG = 2048
_LOOK_SECONDS = 0.1
_SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


def listen(settings: Settings) -> list[socket.socket]:
    """The sockets for HTTP: that of the predictions and, where it is apart, that of the administration.

    Raises:
        ProcessError: a port is taken.
    """
    return [_listen(settings.bind_host, settings.serving_port, "SERVING_PORT"), *listen_for_admin(settings)]


def listen_for_admin(settings: Settings) -> list[socket.socket]:
    """The socket of the administration, where it is apart.

    Raises:
        ProcessError: its port is taken.
    """
    if not settings.serving_admin_port:
        return []
    return [_listen(settings.serving_admin_host, settings.serving_admin_port, "SERVING_ADMIN_PORT")]


def listen_beside(settings: Settings) -> socket.socket:
    """One of several sockets for predictions on the same port; the kernel spreads new connections over them.

    Raises:
        ProcessError: the port is taken by somebody else.
    """
    return _listen(settings.bind_host, settings.serving_port, "SERVING_PORT", beside=True)


def run(
    settings: Settings,
    listeners: list[socket.socket],
    shared: Shared | None = None,
) -> None:
    """Serve by the settings until SIGTERM or SIGINT.

    Args:
        listeners: Without that for predictions, where the port is shared.
        shared: With the other processes of this server; None: this is the only one.

    Raises:
        SettingsError: as :func:`serving.app.create_app`.
        ProcessError: the port for gRPC is taken, or certificate and key cannot be read.
    """
    app = create_app(settings, Registry(settings.tracking, _REGISTRY_TIMEOUT_SECONDS), shared=shared)
    add_grpc(app, settings, shared=shared is not None)
    if shared is not None:
        signal.signal(signal.SIGUSR1, lambda *_: app.follower.wake())
        if shared.admitted is not None:
            _load(app)
            shared.admitted()
        else:
            threading.Thread(
                target=_tell_when_ready, args=(app, shared.loaded), name="first-look", daemon=True
            ).start()
        listeners = [listen_beside(settings), *listeners]
    log.info("serving on %s, following %s", settings.serving, settings.tracking)
    serve(app, settings, *listeners)


def add_grpc(app: Server, settings: Settings, *, shared: bool = False) -> None:
    """Let the application answer over gRPC too, where the settings give it a port.

    Args:
        shared: Other processes of this server listen on the same port.

    Raises:
        ProcessError: the port is taken, or certificate and key cannot be read.
    """
    if not settings.serving_grpc_port:
        return
    from serving.grpc.server import GrpcServer

    app.transports.append(
        GrpcServer(
            app.plane,
            app.repository,
            settings,
            app.metrics,
            access=app.access,
            tracer=app.tracer,
            shared=shared,
        )
    )


def serve(app: Server, settings: Settings, *listeners: socket.socket) -> None:
    """Answer on sockets that listen, until SIGTERM or SIGINT; requests that are under way are answered first.

    Raises:
        ProcessError: certificate and key cannot be read, or do not fit each other; or the application did not start.
    """
    chain, key = tls.certificate(settings) or (None, None)
    config = uvicorn.Config(
        app,
        http=watched_protocol(settings.serving_client_seconds),  # type: ignore[arg-type]
        limit_concurrency=settings.serving_max_connections,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=chain,
        ssl_keyfile=key,
    )
    # A thread that works in Python (it loads a version, or mirrors requests) keeps the interpreter for this long each
    # time that the event loop wants it back: Python's own 5 ms would be what a request costs.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # What is there now stays: a full collection that walks over all of it holds up every request.
    gc.collect()
    gc.freeze()
    try:
        uvicorn.Server(config).run(sockets=list(listeners))
    except SystemExit as end:  # uvicorn's way to say that the application did not start
        raise ProcessError("the server did not start; the log above says why") from end


def _load(app: Server) -> None:
    """Load what the registry names, or what served last, before anything is asked; for so long at most."""

    def look_and_settle() -> None:
        app.follower.look()
        app.follower.settle()

    first = threading.Thread(target=look_and_settle, name="first-look", daemon=True)
    first.start()
    first.join(LOAD_SECONDS)


def _tell_when_ready(app: Server, loaded: Callable[[], None]) -> None:
    """Call when the application, which listens already, has loaded what it should; or after as long as may take."""
    ends = time.monotonic() + LOAD_SECONDS
    while not app.plane.readiness().ready and time.monotonic() < ends:
        time.sleep(_LOOK_SECONDS)
    loaded()


def _listen(host: str, port: int, setting: str, *, beside: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=beside)
    except OSError as error:
        raise ProcessError(
            f"cannot listen on {host} port {port}: {error.strerror}. Stop what listens there, "
            f"or set {PREFIX}{setting} to another port"
        ) from error
