"""Everything that is no prediction: health, metadata, the repository, metrics, and pages for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from models.manifest import InputField, OutputField
from pipelines.errors import HeadraceError
from serving.access import KEY
from serving.dataplane import DataPlane
from serving.keys import Key, Scope
from serving.metrics import CONTENT_TYPE, ServingMetrics
from serving.page import HEADERS, Places, Tried, overview
from serving.plan import DATATYPES
from serving.recent import Recent
from serving.repository import Repository
from serving.rest import openapi, tryout
from serving.rest.bodies import Bodies
from serving.rest.doors import parsed, validated
from serving.rest.replies import JSON_HEADER, Reply, encoded, error_reply, failure_reply
from serving.schemas import IndexRequest

#: Of the Open Inference Protocol, by Triton's names.
EXTENSIONS = ("binary_tensor_data", "model_repository")
ADMIN_HEADER = "x-headrace-admin-token"

_REFUSAL = 400  # the protocol knows no other status for a body that does not fit


class Pages:
    """All endpoints of one server but those for predictions.

    Args:
        recent: The last minutes, for the page.
        places: Where the page leads to.
    """

    def __init__(
        self,
        plane: DataPlane,
        repository: Repository,
        metrics: ServingMetrics,
        bodies: Bodies,
        *,
        recent: Recent,
        places: Places,
    ) -> None:
        self._plane = plane
        self._repository = repository
        self._metrics = metrics
        self._bodies = bodies
        self._recent = recent
        self._places = places

    def application(self, lifespan: Any) -> FastAPI:
        """The endpoints, with the API's page, which loads nothing from elsewhere."""
        app: FastAPI = FastAPIOffline(
            docs_url="/docs",
            redoc_url=None,
            title="Headrace",
            version=installed_version("headrace"),
            description="Answers with the versions that MLflow's aliases name.",
            lifespan=lifespan,
            exception_handlers={HTTPException: _http_error, HeadraceError: _refused, Exception: _own_error},
        )
        app.include_router(self._router())
        openapi.complete(app)
        return app

    def _router(self) -> APIRouter:
        router = APIRouter()
        protocol: list[str | Enum] = [openapi.PROTOCOL]
        operations: list[str | Enum] = ["Operations"]
        unknown, unready = openapi.errors(401, 403, 404), openapi.states(200, 503)
        router.add_api_route(
            "/v2", self.server, tags=protocol, summary="Server metadata", responses=openapi.errors(401)
        )
        router.add_api_route("/v2/health/live", self.live, tags=protocol, summary="Is the process alive?")
        router.add_api_route(
            "/v2/health/ready",
            self.ready,
            tags=protocol,
            summary="Does every model that should serve answer its own sample?",
            responses=unready,
        )
        for prefix, suffix in (
            ("/v2/models/{name}", ""),
            ("/v2/models/{name}/versions/{version}", ", by version"),
        ):
            router.add_api_route(
                prefix, self.metadata, tags=protocol, summary=f"Model metadata{suffix}", responses=unknown
            )
            router.add_api_route(
                f"{prefix}/ready",
                self.model_ready,
                tags=protocol,
                summary=f"Is it ready?{suffix}",
                responses=unready | unknown,
            )
        router.add_api_route(
            "/v2/repository/index",
            self.index,
            methods=["POST"],
            tags=protocol,
            summary="What is loaded, and what should be",
            responses=openapi.errors(400, 401, 408, 413, 415),
            openapi_extra=openapi.body_of(IndexRequest, required=False),
        )
        for action, summary in (
            ("load", "Look at the registry now, and load what its alias names"),
            ("unload", "Refused while the registry's alias names a version"),
        ):
            router.add_api_route(
                f"/v2/repository/models/{{name}}/{action}",
                getattr(self, action),
                methods=["POST"],
                tags=protocol,
                summary=summary,
                responses=openapi.errors(400, 401, 403, 404),
            )
        router.add_api_route(
            "/metrics",
            self.metrics,
            tags=operations,
            summary="For Prometheus",
            response_class=Response,
            responses={
                200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
                **openapi.errors(401, 403, 404),
            },
        )
        router.add_api_route("/", self.overview, include_in_schema=False, response_class=HTMLResponse)
        router.add_api_route(
            "/models/{name}/try",
            self.tried,
            methods=["POST"],
            include_in_schema=False,
            response_class=HTMLResponse,
        )
        return router

    async def server(self) -> Response:
        told = {"name": "headrace", "version": installed_version("headrace"), "extensions": EXTENSIONS}
        return _json(told)

    async def live(self) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        readiness = await run_in_threadpool(self._plane.readiness)
        status = 200 if readiness.ready else 503
        if not _may_observe(request):
            return _json({"ready": readiness.ready}, status)
        content = {
            "ready": readiness.ready,
            "reasons": readiness.reasons,
            "warnings": readiness.warnings,
            "models": {
                name: {alias: asdict(state) for alias, state in aliases.items()}
                for name, aliases in readiness.models.items()
            },
        }
        return _json(content, status)

    async def metadata(self, name: str, version: str | None = None) -> Response:
        found = self._plane.find(name, version)
        loaded = {live.version for live in self._plane.table.live().get(name, {}).values()}
        manifest = found.predictor.manifest
        content = {
            "name": name,
            "versions": sorted(loaded, key=int),
            "platform": "headrace_"
            + "_".join(sorted({estimator.runtime for estimator in manifest.estimators})),
            "inputs": [_tensor_metadata(field) for field in manifest.inputs],
            "outputs": [_tensor_metadata(field) for field in manifest.outputs],
            "parameters": {
                "version": found.version,
                "manifest_sha256": found.manifest_sha256,
                "head": manifest.head.kind,
                "lineage": manifest.lineage,
            },
        }
        return _json(content)

    async def model_ready(self, name: str, version: str | None = None) -> Response:
        found = self._plane.find(name, version)
        problem = await run_in_threadpool(self._plane.model_ready, found)
        content: dict[str, Any] = {"name": name, "version": found.version, "ready": problem is None}
        return _json(content | ({"error": problem} if problem else {}), 503 if problem else 200)

    async def index(self, request: Request) -> Response:
        headers = dict(request.scope["headers"])
        content, held = await self._bodies.read(await request.receive(), headers, request.receive)
        self._bodies.release(held)
        only_ready = validated(IndexRequest, parsed(content)).ready if content else False
        rows = await run_in_threadpool(self._repository.index, only_ready=only_ready)
        key = request.scope.get(KEY)
        shown = [
            row for row in rows if key is None or key.may(Scope.OBSERVE) or key.may(Scope.PREDICT, row.name)
        ]
        return _json([row._asdict() for row in shown])

    async def load(self, request: Request, name: str) -> Response:
        self._admit(request)
        version = await run_in_threadpool(self._repository.load, name)
        return _json({"name": name, "version": version})

    async def unload(self, request: Request, name: str) -> Response:
        self._admit(request)
        await run_in_threadpool(self._repository.unload, name)
        return _json({"name": name})

    async def overview(self) -> HTMLResponse:
        return await self._page(None)

    async def tried(self, request: Request, name: str) -> HTMLResponse:
        headers = dict(request.scope["headers"])
        tryout.refuse_other_sites(headers)
        content, held = await self._bodies.read(await request.receive(), headers, request.receive)
        self._bodies.release(held)
        return await self._page(
            await run_in_threadpool(tryout.ask, self._plane, name, tryout.read_form(content))
        )

    async def _page(self, tried: Tried | None) -> HTMLResponse:
        readiness = await run_in_threadpool(self._plane.readiness)
        live = self._plane.table.live()
        return HTMLResponse(overview(readiness, live, self._recent, self._places, tried), headers=HEADERS)

    async def metrics(self) -> Response:
        return Response(await run_in_threadpool(self._metrics.text), media_type=CONTENT_TYPE)

    def _admit(self, request: Request) -> None:
        if KEY in request.scope:
            return  # the caller's key is one for administrators: it was held against the path
        host = request.client.host if request.client is not None else None
        self._repository.admit(host, request.headers.get(ADMIN_HEADER, ""), f"the header {ADMIN_HEADER}")


def _may_observe(request: Request) -> bool:
    """Whether a caller is told more than whether the server is ready."""
    if KEY not in request.scope:
        return True
    key: Key | None = request.scope[KEY]
    return key is not None and key.may(Scope.OBSERVE)


def _json(content: Any, status: int = 200) -> Response:
    return _response(Reply(status, encoded(content)))


def _response(reply: Reply) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers or (JSON_HEADER,)}
    return Response(reply.content, reply.status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as all other errors."""
    assert isinstance(error, HTTPException)
    response = _json({"error": str(error.detail)}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HeadraceError)
    return _response(error_reply(error, _REFUSAL))


async def _own_error(_: Request, error: Exception) -> Response:
    """Starlette logs the traceback after this."""
    return _response(failure_reply(error))


def _tensor_metadata(field: InputField | OutputField) -> dict[str, Any]:
    said: Mapping[str, Any] = field.model_dump(mode="json", exclude={"name", "type"}, exclude_none=True)
    return {
        "name": field.name,
        "datatype": DATATYPES[field.type],
        "shape": [-1],
        "parameters": {key: value for key, value in said.items() if value != ""},
    }
