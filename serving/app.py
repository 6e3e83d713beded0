"""The server, put together and run."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.errors import ProcessError
from pipelines.settings import Settings
from serving import webhook
from serving.cache import VersionCache
from serving.clients import watched_protocol
from serving.dataplane import DataPlane
from serving.features import FeatureLookup, OnlineStore
from serving.follower import Follower
from serving.metrics import ServingMetrics
from serving.prediction_log import PredictionLog
from serving.repository import Repository
from serving.rest.bodies import Bodies
from serving.rest.dispatch import Dispatcher
from serving.rest.doors import Door
from serving.rest.infer import InferDoor
from serving.rest.invocations import InvocationsDoor
from serving.rest.pages import Pages
from serving.rest.predict import PredictDoor
from serving.versions import VersionTable

_REGISTRY_TIMEOUT_SECONDS = 5.0
_GRACE_SECONDS = 10

log = logging.getLogger(__name__)


class Transport(Protocol):
    """Another way to the data plane than HTTP, in the same process."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Server(Dispatcher):
    """The server as an ASGI application.

    Attributes:
        follower: Keeps what it answers with.
        plane, repository: What transports ask.
        transports: Started and stopped with the application.
    """

    follower: Follower
    plane: DataPlane
    repository: Repository
    transports: list[Transport]


def create_app(settings: Settings, registry: Registry, features: FeatureLookup | None = None) -> Server:
    """The server. It follows the registry from its start-up to its shutdown.

    Args:
        features: Where features of entities come from; default is Feast's online store.
    """
    table, metrics = VersionTable(), ServingMetrics()
    predictions = PredictionLog.of(settings)
    metrics.registry.register(predictions.metrics())
    follower = Follower(
        registry,
        VersionCache(settings.home / "serving", Trust.of(settings)),
        table,
        poll_seconds=settings.serving_poll_seconds,
        names=[name.strip() for name in settings.serving_models.split(",") if name.strip()],
        on_failure=metrics.load_failed,
    )
    metrics.follow(follower, table)
    plane = DataPlane(
        table,
        follower,
        features or OnlineStore(settings),
        metrics,
        predictions,
        default_source=settings.source,
        max_rows=settings.serving_max_rows,
    )
    bodies = Bodies(
        settings.serving_max_body_bytes, settings.serving_max_held_bytes, settings.serving_client_seconds
    )
    repository = Repository(table, follower, settings.serving_admin_token)
    pages = Pages(
        plane,
        repository,
        metrics,
        bodies,
        version_page=registry.version_page,
        tracking_url=registry.url,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        predictions.start()
        follower.start()
        for transport in server.transports:
            transport.start()
        yield
        for transport in server.transports:
            await run_in_threadpool(transport.stop)
        follower.stop()
        registry.close()
        server.close()
        predictions.stop()  # last: it keeps what was answered until now

    doors: dict[str, Door] = {
        "infer": InferDoor(plane),
        "predict": PredictDoor(plane),
        "invocations": InvocationsDoor(plane, settings.serving_max_rows),
    }
    application = pages.application(lifespan)
    application.include_router(webhook.router(settings, follower.wake))
    server = Server(plane, doors, bodies, application)
    server.follower, server.plane, server.transports = follower, plane, []
    server.repository = repository
    return server


def serve(app: Server, settings: Settings, listener: socket.socket) -> None:
    """Answer on a socket that listens, until SIGTERM or SIGINT; requests that are under way are answered first."""
    config = uvicorn.Config(
        app,
        http=watched_protocol(settings.serving_client_seconds),  # type: ignore[arg-type]
        limit_concurrency=settings.serving_max_connections,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    # What is there now stays: a full collection that walks over all of it holds up every request.
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=[listener])


def run(settings: Settings) -> None:
    """Serve by the settings until SIGTERM or SIGINT.

    Raises:
        ProcessError: the port is taken.
    """
    _set_up_logging(settings.log_level)
    listener = _listen(settings.bind_host, settings.serving_port)
    app = create_app(settings, Registry(settings.tracking, _REGISTRY_TIMEOUT_SECONDS))
    if settings.serving_grpc_port:
        from serving.grpc.server import GrpcServer

        app.transports.append(GrpcServer(app.plane, app.repository, settings))
    log.info("serving on %s, following %s", settings.serving, settings.tracking)
    serve(app, settings, listener)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ProcessError(
            f"cannot listen on {host} port {port}: {error.strerror}. Stop what listens there, "
            "or set HEADRACE_SERVING_PORT to another port"
        ) from error


def _set_up_logging(level: str) -> None:
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler])
    # One line per look at the registry would bury all others.
    logging.getLogger("httpx").setLevel(logging.WARNING)
