"""REST: translates requests for the data plane, and its answers and errors into JSON."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from importlib.metadata import version as installed_version
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from models.manifest import InputField, OutputField
from pipelines.errors import HeadraceError, InvalidRequestError
from serving.dataplane import DATATYPES, Answer, DataPlane
from serving.errors import (
    EntityNotFoundError,
    FeaturesUnavailableError,
    MalformedRequestError,
    ModelNotFoundError,
    TooLargeError,
)
from serving.metrics import CONTENT_TYPE, ServingMetrics
from serving.page import overview
from serving.schemas import InferRequest, PredictRequest
from serving.validation import shown
from serving.versions import LoadedVersion

Body = TypeVar("Body", bound=BaseModel)

# What a body that is JSON, but does not fit the model, is answered with: the Open Inference
# Protocol knows 400 only; the other endpoint is as FastAPI's own.
_PROTOCOL_REFUSAL = 400
_PEOPLE_REFUSAL = 422

log = logging.getLogger(__name__)


def json_response(content: Any, status: int = 200) -> Response:
    try:
        body = orjson.dumps(content)
    except orjson.JSONEncodeError:
        # A path may hold half of a surrogate pair, which is no Unicode; this writes it as an escape.
        body = json.dumps(content).encode()
    return Response(body, status, media_type="application/json")


def error_response(error: HeadraceError, refusal: int) -> Response:
    content = {"error": str(error)}
    if isinstance(error, InvalidRequestError) and error.field is not None:
        content["field"] = error.field
    return json_response(content, _status(error, refusal))


def _status(error: HeadraceError, refusal: int) -> int:
    match error:
        case ModelNotFoundError() | EntityNotFoundError():
            return 404
        case TooLargeError():
            return 413
        case MalformedRequestError():
            return 400
        case InvalidRequestError():
            return refusal
        case FeaturesUnavailableError():
            return 503 if error.installed else 501
        case _:
            return 500


class RestEndpoints:
    """All endpoints of one server.

    Args:
        version_page: Address of a version's page in MLflow, by model and version.
        tracking_url: MLflow's address, for people.
    """

    def __init__(
        self,
        plane: DataPlane,
        metrics: ServingMetrics,
        *,
        max_body_bytes: int,
        version_page: Callable[[str, str], str],
        tracking_url: str,
    ) -> None:
        self._plane = plane
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._version_page = version_page
        self._tracking_url = tracking_url

    def router(self) -> APIRouter:
        router = APIRouter()
        protocol: list[str | Enum] = ["Open Inference Protocol"]
        people: list[str | Enum] = ["For people"]
        operations: list[str | Enum] = ["Operations"]
        router.add_api_route("/v2", self.server, tags=protocol, summary="Server metadata")
        router.add_api_route("/v2/health/live", self.live, tags=protocol, summary="Is the process alive?")
        router.add_api_route(
            "/v2/health/ready",
            self.ready,
            tags=protocol,
            summary="Does every model that should serve answer its own sample?",
        )
        for prefix, suffix in (
            ("/v2/models/{name}", ""),
            ("/v2/models/{name}/versions/{version}", ", by version"),
        ):
            router.add_api_route(prefix, self.metadata, tags=protocol, summary=f"Model metadata{suffix}")
            router.add_api_route(
                f"{prefix}/ready", self.model_ready, tags=protocol, summary=f"Is it ready?{suffix}"
            )
            router.add_api_route(
                f"{prefix}/infer",
                self.infer,
                methods=["POST"],
                tags=protocol,
                summary=f"Predict from tensors{suffix}",
                openapi_extra=_body_of(InferRequest),
            )
        for prefix, suffix in (("/models/{name}", ""), ("/models/{name}/versions/{version}", ", by version")):
            router.add_api_route(
                f"{prefix}/predict",
                self.predict,
                methods=["POST"],
                tags=people,
                summary=f"Predict from records or entities{suffix}",
                openapi_extra=_body_of(PredictRequest),
            )
        router.add_api_route("/metrics", self.metrics, tags=operations, summary="For Prometheus")
        router.add_api_route("/", self.overview, include_in_schema=False, response_class=HTMLResponse)
        return router

    # Open Inference Protocol

    async def server(self) -> Response:
        return json_response({"name": "headrace", "version": installed_version("headrace"), "extensions": []})

    async def live(self) -> Response:
        return json_response({"live": True})

    async def ready(self) -> Response:
        readiness = await run_in_threadpool(self._plane.readiness)
        content = {
            "ready": readiness.ready,
            "reasons": readiness.reasons,
            "warnings": readiness.warnings,
            "models": {
                name: {alias: asdict(state) for alias, state in aliases.items()}
                for name, aliases in readiness.models.items()
            },
        }
        return json_response(content, 200 if readiness.ready else 503)

    async def metadata(self, name: str, version: str | None = None) -> Response:
        try:
            found = self._plane.table.find(name, version)
        except ModelNotFoundError as error:
            return error_response(error, _PROTOCOL_REFUSAL)
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
        return json_response(content)

    async def model_ready(self, name: str, version: str | None = None) -> Response:
        try:
            found = self._plane.table.find(name, version)
        except ModelNotFoundError as error:
            return error_response(error, _PROTOCOL_REFUSAL)
        problem = await run_in_threadpool(self._plane.model_ready, found)
        content: dict[str, Any] = {"name": name, "version": found.version, "ready": problem is None}
        return json_response(content | ({"error": problem} if problem else {}), 503 if problem else 200)

    async def infer(self, request: Request, name: str, version: str | None = None) -> Response:
        def decide(found: LoadedVersion, body: InferRequest) -> tuple[Answer, Any]:
            answer = self._plane.infer(found, body)
            content = {
                "model_name": name,
                "model_version": found.version,
                "outputs": _tensors(found, answer),
                "parameters": {"prediction_ids": answer.prediction_ids},
            }
            return answer, content | ({"id": body.id} if body.id is not None else {})

        return await self._answer(request, name, version, InferRequest, decide, _PROTOCOL_REFUSAL)

    # For people

    async def predict(self, request: Request, name: str, version: str | None = None) -> Response:
        # The one place where the server reads the time: a request without one is about now.
        now = datetime.now(UTC)

        def decide(found: LoadedVersion, body: PredictRequest) -> tuple[Answer, Any]:
            given = body.given or [{}]
            if body.entities is not None:
                answer = self._plane.predict_entities(found, body.entities, body.moment(now), given)
            else:
                answer = self._plane.predict_records(found, body.records or [])
            rows: list[dict[str, Any]] = [{"prediction_id": identity} for identity in answer.prediction_ids]
            asked = [{"entity": entity} | values for entity in body.entities or () for values in given]
            for row, named in zip(rows, asked, strict=False):
                row |= named
            for output, values in answer.outputs.items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[output] = value
            return answer, {"model": name, "version": found.version, "predictions": rows}

        return await self._answer(request, name, version, PredictRequest, decide, _PEOPLE_REFUSAL)

    async def overview(self) -> HTMLResponse:
        readiness = await run_in_threadpool(self._plane.readiness)
        live = self._plane.table.live()
        return HTMLResponse(overview(readiness, live, self._version_page, self._tracking_url))

    # Operations

    async def metrics(self) -> Response:
        return Response(await run_in_threadpool(self._metrics.text), media_type=CONTENT_TYPE)

    async def _answer(
        self,
        request: Request,
        name: str,
        version: str | None,
        kind: type[Body],
        decide: Callable[[LoadedVersion, Body], tuple[Answer, Any]],
        refusal: int,
    ) -> Response:
        """Read, decide, answer and count; every error of the client becomes an answer that names the field."""
        found: LoadedVersion | None = None
        rows = 0
        began = time.perf_counter()
        try:
            content = await self._read(request)
            began = time.perf_counter()
            # Found once: the whole request is answered by this version, whatever switches meanwhile.
            found = self._plane.table.find(name, version)
            loaded = found

            def work() -> tuple[Answer, Response]:
                answer, reply = decide(loaded, _parse(kind, content))
                return answer, json_response(reply)

            answer, response = await run_in_threadpool(work)
            rows = len(answer.prediction_ids)
        except HeadraceError as error:
            response = error_response(error, refusal)
            if response.status_code >= 500:
                log.error("a request for %s was answered with %d: %s", name[:80], response.status_code, error)
        seconds = time.perf_counter() - began
        label, answering = (name, found.version) if found else ("", "")
        self._metrics.answered(label, answering, response.status_code, rows, seconds)
        return response

    async def _read(self, request: Request) -> bytes:
        """The whole body, as far as the settings allow.

        Raises:
            TooLargeError: it is larger; the rest is not read.
            MalformedRequestError: the client broke off.
        """
        if "inference-header-content-length" in request.headers:
            raise MalformedRequestError("binary tensors are not taken; send the data as JSON", "inputs")
        too_large = TooLargeError(
            f"the body is larger than {self._max_body_bytes} bytes; send fewer rows at once"
        )
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise too_large
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > self._max_body_bytes:
                    raise too_large
        except ClientDisconnect as error:
            raise MalformedRequestError("the client broke off before the end of the body") from error
        return bytes(body)


def _parse(kind: type[Body], content: bytes) -> Body:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        body = _with_nan(content)
        if body is None:
            raise MalformedRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise MalformedRequestError(f"the body is {shown(body)}, an object is wanted")
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        came = "" if first["type"] in {"missing", "value_error"} else f" (it is {shown(first['input'])})"
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(f"{place or 'body'}: {message}{came}", place[:80] or None) from error


def _with_nan(content: bytes) -> Any:
    """The body where NaN or infinity is all that is wrong with it: no JSON, but many clients write it.

    Validation refuses such a value as any other, and so names its field. None: it is not that.
    """
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError):
        return None


def _body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Names the body's schema for the API page; the endpoints read bodies themselves, to limit their size."""
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def _tensor_metadata(field: InputField | OutputField) -> dict[str, Any]:
    said: Mapping[str, Any] = field.model_dump(mode="json", exclude={"name", "type"}, exclude_none=True)
    return {
        "name": field.name,
        "datatype": DATATYPES[field.type],
        "shape": [-1],
        "parameters": {key: value for key, value in said.items() if value != ""},
    }


def _tensors(version: LoadedVersion, answer: Answer) -> list[dict[str, Any]]:
    types = {field.name: field.type for field in version.predictor.manifest.outputs}
    return [
        {
            "name": name,
            "datatype": DATATYPES[types[name]],
            "shape": list(values.shape),
            "data": values.tolist(),
        }
        for name, values in answer.outputs.items()
    ]
