"""The methods of ``inference.GRPCInferenceService``: requests in, responses or errors out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from models.manifest import InputField, OutputField
from pipelines.errors import HeadraceError, InvalidRequestError
from serving.dataplane import Answer, DataPlane
from serving.errors import (
    BusyError,
    EntityNotFoundError,
    FeaturesUnavailableError,
    ForbiddenError,
    MalformedRequestError,
    ModelNotFoundError,
)
from serving.grpc.messages import METHODS, REQUEST_VIEW, REQUESTS, RESPONSES, SERVICE
from serving.grpc.tensors import Forms, response_of, tensors_of, typed_rows
from serving.plan import DATATYPES
from serving.repository import Repository
from serving.versions import LoadedVersion

ADMIN_METADATA = "x-headrace-admin-token"
FIELD_METADATA = "headrace-field"
_EXTENSIONS = ("model_repository",)

# What requests are counted as, so that both transports can be read together.
_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
}

log = logging.getLogger(__name__)


class InferenceService:
    """Translates between the protocol's messages and the data plane."""

    def __init__(self, plane: DataPlane, repository: Repository) -> None:
        self._plane = plane
        self._repository = repository
        self._forms = Forms()

    def handlers(self) -> grpc.GenericRpcHandler:
        """For ``grpc.Server.add_generic_rpc_handlers``."""
        methods: dict[str, Callable[[Any, grpc.ServicerContext], Any]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        # Requests are parsed here, not by gRPC: what is no message is the client's error, not ours.
        found = {
            name: grpc.unary_unary_rpc_method_handler(
                self._infer if name == "ModelInfer" else _answering(name, methods[name]),
                response_serializer=RESPONSES[name].SerializeToString,
            )
            for name in METHODS
        }
        return grpc.method_handlers_generic_handler(SERVICE, found)

    def _infer(self, content: bytes, context: grpc.ServicerContext) -> Any:
        found: LoadedVersion | None = None
        began = time.perf_counter()
        try:
            view = _read("ModelInfer", REQUEST_VIEW, content)
            # Found once: the whole request is answered by this version, whatever switches meanwhile.
            found = self._plane.find(view.model_name, view.model_version or None)
            answer = self._answer(found, view, content)
            response = response_of(found, answer, view.id, raw=bool(view.raw_input_contents))
        except HeadraceError as error:
            self._plane.refused(found, _HTTP.get(_status(error), 500), time.perf_counter() - began)
            _refuse(context, error)
        except Exception:
            log.exception("a request for a prediction failed")
            self._plane.refused(found, 500, time.perf_counter() - began)
            _fail(context)
        self._plane.answered(answer, time.perf_counter() - began, transport="grpc", request_id=view.id)
        return response

    def _answer(self, version: LoadedVersion, view: Any, content: bytes) -> Answer:
        """Predict: the usual requests by a short way, all others by the general one."""
        usual = self._forms.read(version, view)
        if usual is not None:
            rows, asked = usual
            return self._plane.predict(version, rows, self._plane.checked_outputs(version, asked))
        request = _read("ModelInfer", REQUESTS["ModelInfer"], content)
        asked = [output.name for output in request.outputs]
        typed = typed_rows(version.plan, request)
        if typed is not None:
            return self._plane.predict(version, typed, self._plane.checked_outputs(version, asked))
        return self._plane.infer(version, tensors_of(request), asked)

    def _server_live(self, request: Any, context: grpc.ServicerContext) -> Any:
        return RESPONSES["ServerLive"](live=True)

    def _server_ready(self, request: Any, context: grpc.ServicerContext) -> Any:
        return RESPONSES["ServerReady"](ready=self._plane.readiness().ready)

    def _model_ready(self, request: Any, context: grpc.ServicerContext) -> Any:
        version = self._plane.find(request.name, request.version or None)
        return RESPONSES["ModelReady"](ready=self._plane.model_ready(version) is None)

    def _server_metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return RESPONSES["ServerMetadata"](
            name="headrace", version=installed_version("headrace"), extensions=_EXTENSIONS
        )

    def _model_metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        found = self._plane.find(request.name, request.version or None)
        manifest = found.predictor.manifest
        loaded = {live.version for live in self._plane.table.live().get(found.name, {}).values()}
        runtimes = sorted({estimator.runtime for estimator in manifest.estimators})
        response = RESPONSES["ModelMetadata"](
            name=found.name,
            versions=sorted(loaded | {found.version}, key=int),
            platform="headrace_" + "_".join(runtimes),
        )
        response.parameters["version"].string_param = found.version
        response.parameters["manifest_sha256"].string_param = found.manifest_sha256
        for tensors, fields in ((response.inputs, manifest.inputs), (response.outputs, manifest.outputs)):
            for field in fields:
                _describe(tensors.add(), field)
        return response

    def _index(self, request: Any, context: grpc.ServicerContext) -> Any:
        response = RESPONSES["RepositoryIndex"]()
        for row in self._repository.index(only_ready=request.ready):
            response.models.add(**row._asdict())
        return response

    def _load(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._admit(context)
        self._repository.load(request.model_name)
        return RESPONSES["RepositoryModelLoad"]()

    def _unload(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._admit(context)
        self._repository.unload(request.model_name)
        return RESPONSES["RepositoryModelUnload"]()

    def _admit(self, context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata())
        self._repository.admit(
            _host(context.peer()), metadata.get(ADMIN_METADATA, ""), f"the metadata {ADMIN_METADATA}"
        )


def _answering(
    name: str, method: Callable[[Any, grpc.ServicerContext], Any]
) -> Callable[[bytes, grpc.ServicerContext], Any]:
    def answer(content: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return method(_read(name, REQUESTS[name], content), context)
        except HeadraceError as error:
            _refuse(context, error)
        except Exception:
            log.exception("%s failed", name)
            _fail(context)

    return answer


def _read(name: str, kind: Any, content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise MalformedRequestError(f"the request is no {name}Request: {error}") from error


def _status(error: HeadraceError) -> grpc.StatusCode:
    match error:
        case ModelNotFoundError() | EntityNotFoundError():
            return grpc.StatusCode.NOT_FOUND
        case InvalidRequestError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case ForbiddenError():
            return grpc.StatusCode.PERMISSION_DENIED
        case BusyError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case FeaturesUnavailableError():
            return grpc.StatusCode.UNAVAILABLE if error.installed else grpc.StatusCode.UNIMPLEMENTED
        case _:
            return grpc.StatusCode.INTERNAL


def _refuse(context: grpc.ServicerContext, error: HeadraceError) -> NoReturn:
    """End the call with an error; the field that it is about goes with it as metadata."""
    if isinstance(error, InvalidRequestError) and error.field is not None:
        context.set_trailing_metadata(((FIELD_METADATA, quote(error.field)),))
    code = _status(error)
    if code is grpc.StatusCode.INTERNAL:
        log.error("a call failed: %s", error)
    context.abort(code, str(error))
    raise AssertionError("abort raises")


def _fail(context: grpc.ServicerContext) -> NoReturn:
    """End the call with an error of ours: the log says what it was, the client learns nothing of it."""
    context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why")
    raise AssertionError("abort raises")


def _describe(tensor: Any, field: InputField | OutputField) -> None:
    tensor.name, tensor.datatype = field.name, DATATYPES[field.type]
    tensor.shape.append(-1)
    told = field.model_dump(mode="json", exclude={"name", "type"}, exclude_none=True)
    for key, value in told.items():
        if isinstance(value, bool):
            tensor.parameters[key].bool_param = value
        elif isinstance(value, int | float):
            tensor.parameters[key].double_param = value
        elif value:
            tensor.parameters[key].string_param = value if isinstance(value, str) else ", ".join(value)


def _host(peer: str) -> str:
    """Address of ``ipv4:127.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
