"""The server, put together and run."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version as installed_version
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from pipelines.adapters.registry import Registry
from pipelines.errors import ProcessError
from pipelines.settings import Settings
from serving.cache import VersionCache
from serving.dataplane import DataPlane
from serving.features import FeatureLookup, OnlineStore
from serving.follower import Follower
from serving.metrics import ServingMetrics
from serving.rest import RestEndpoints, json_response
from serving.schemas import InferRequest, PredictRequest
from serving.versions import VersionTable

_REGISTRY_TIMEOUT_SECONDS = 5.0
_GRACE_SECONDS = 10

log = logging.getLogger(__name__)


def create_app(settings: Settings, registry: Registry, features: FeatureLookup | None = None) -> FastAPI:
    """The server as an ASGI application. It follows the registry from its start-up to its shutdown.

    Args:
        features: Where features of entities come from; default is Feast's online store.
    """
    table, metrics = VersionTable(), ServingMetrics()
    follower = Follower(
        registry,
        VersionCache(settings.home / "serving"),
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
        default_source=settings.source,
        max_rows=settings.serving_max_rows,
    )
    endpoints = RestEndpoints(
        plane,
        metrics,
        max_body_bytes=settings.serving_max_body_bytes,
        version_page=registry.version_page,
        tracking_url=registry.url,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        follower.start()
        yield
        follower.stop()
        registry.close()

    app = FastAPI(
        title="Headrace",
        version=installed_version("headrace"),
        description="Answers with the versions that MLflow's aliases name.",
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _own_error},
    )
    app.state.follower = follower
    app.include_router(endpoints.router())
    _document_bodies(app)
    return app


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests that are under way are answered first.

    Raises:
        ProcessError: the port is taken.
    """
    _set_up_logging(settings.log_level)
    listener = _listen(settings.bind_host, settings.serving_port)
    app = create_app(settings, Registry(settings.tracking, _REGISTRY_TIMEOUT_SECONDS))
    log.info("serving on %s, following %s", settings.serving, settings.tracking)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE_SECONDS)
    uvicorn.Server(config).run(sockets=[listener])


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


async def _http_error(_: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as all other errors."""
    assert isinstance(error, HTTPException)
    response = json_response({"error": str(error.detail)}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _own_error(_: Request, error: Exception) -> Response:
    """Starlette logs the traceback after this; the client learns nothing of it."""
    return json_response({"error": f"the server failed ({type(error).__name__}); its log says why"}, 500)


def _document_bodies(app: FastAPI) -> None:
    """Put the schemas of the bodies into the API page."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            _, definitions = models_json_schema(
                [(InferRequest, "validation"), (PredictRequest, "validation")],
                ref_template="#/components/schemas/{model}",
            )
            schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        return app.openapi_schema or schema

    app.openapi = openapi  # type: ignore[method-assign]
