"""The methods of ``inference.GRPCInferenceService``: requests in, responses or errors out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib.metadata import version as installed_version
from threading import Lock, Semaphore
from typing import Any

import grpc

from models.manifest import InputField, OutputField
from pipelines.errors import HeadraceError
from serving.access import Access
from serving.dataplane import Answer, DataPlane
from serving.errors import ForbiddenError
from serving.grpc.messages import METHODS, REQUEST_VIEW, REQUESTS, RESPONSES, SERVICE
from serving.grpc.refusals import REQUEST_ID_METADATA, fail, http_status_of, read, refuse
from serving.grpc.tensors import Forms, response_of, tensors_of, typed_rows
from serving.keys import Scope
from serving.logs import REQUEST_ID, access_log, request_id
from serving.plan import DATATYPES
from serving.repository import Repository
from serving.rollout import Trial
from serving.rollout.sticky import key_of
from serving.tracing import Tracer
from serving.versions import LoadedVersion

ADMIN_METADATA = "x-headrace-admin-token"
_AUTHORIZATION = "authorization"
_OPEN = frozenset({"ServerLive", "ServerReady", "RepositoryModelLoad", "RepositoryModelUnload"})
_OF_MODEL = frozenset({"ModelReady", "ModelMetadata"})
_EXTENSIONS = ("model_repository",)
# Predictions hold the interpreter's lock for most of their time: more threads would only wait for it.
_AT_WORK = 8


log = logging.getLogger(__name__)


class InferenceService:
    """Translates between the protocol's messages and the data plane."""

    def __init__(
        self,
        plane: DataPlane,
        repository: Repository,
        *,
        access: Access | None = None,
        tracer: Tracer | None = None,
        admin_apart: bool = False,
        logs_requests: bool = False,
    ) -> None:
        self._plane = plane
        self._repository = repository
        self._access = access
        self._tracer = tracer
        self._admin_apart = admin_apart
        self._logs_requests = logs_requests
        self._forms = Forms()
        self._counting = Lock()
        self._working = Semaphore(_AT_WORK)
        self.under_way = 0

    @property
    def waiting(self) -> int:
        """Predictions that were read and that nobody works at yet."""
        return max(0, self.under_way - _AT_WORK)

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
                self._counted if name == "ModelInfer" else self._answering(name, methods[name]),
                response_serializer=RESPONSES[name].SerializeToString,
            )
            for name in METHODS
        }
        return grpc.method_handlers_generic_handler(SERVICE, found)

    def _counted(self, content: bytes, context: grpc.ServicerContext) -> Any:
        with self._counting:
            self.under_way += 1
        try:
            given = _metadata(context, REQUEST_ID_METADATA)
            identity = request_id(given)
            REQUEST_ID.set(identity)
            context.set_trailing_metadata(((REQUEST_ID_METADATA, identity),))
            with self._working:
                if not context.is_active():  # the caller went away meanwhile
                    context.abort(grpc.StatusCode.CANCELLED, "nobody waits for the answer")
                if self._tracer is None:
                    return self._infer(content, context, given)
                return self._traced(self._tracer, content, context, identity)
        finally:
            with self._counting:
                self.under_way -= 1

    def _traced(self, tracer: Tracer, content: bytes, context: grpc.ServicerContext, identity: str) -> Any:
        carrier = dict(context.invocation_metadata())
        with tracer.request("ModelInfer", carrier, {"headrace.request_id": identity}) as span:
            try:
                return self._infer(content, context, identity)
            finally:
                code = context.code() or grpc.StatusCode.OK
                span.set_attribute("rpc.grpc.status_code", code.value[0])
                if code is grpc.StatusCode.INTERNAL:
                    tracer.failed(span, "the server failed")

    def _infer(self, content: bytes, context: grpc.ServicerContext, given: str) -> Any:
        """Answer a prediction.

        Args:
            given: The request's id as the caller gave it in the metadata, which wins over that of the message.
        """
        found: LoadedVersion | None = None
        began = time.perf_counter()
        try:
            view = read("ModelInfer", REQUEST_VIEW, content)
            if self._access is not None:
                self._access.predict(_metadata(context, _AUTHORIZATION), view.model_name)
            # Found once: the whole request is answered by this version, whatever switches meanwhile.
            found = self._plane.find(view.model_name, view.model_version or None)
            trial = None if view.model_version else self._plane.rollouts.of(found)
            if trial is None:
                answer = self._answer(found, view, content)
            else:
                answer = self._tried(trial, view, content, context)
                found = answer.version
            response = response_of(found, answer, view.id, raw=bool(view.raw_input_contents))
        except HeadraceError as error:
            code = http_status_of(error)
            self._plane.refused(found, code, time.perf_counter() - began, "grpc", error)
            self._log_call("ModelInfer", code, time.perf_counter() - began, context)
            refuse(context, error)
        except Exception as error:
            log.exception("a request for a prediction failed")
            self._plane.refused(found, 500, time.perf_counter() - began, "grpc", error)
            self._log_call("ModelInfer", 500, time.perf_counter() - began, context)
            fail(context)
        self._plane.answered(answer, time.perf_counter() - began, "grpc", given or view.id)
        self._log_call("ModelInfer", 200, time.perf_counter() - began, context)
        return response

    def _tried(self, trial: Trial, view: Any, content: bytes, context: grpc.ServicerContext) -> Answer:
        """Answer by champion or challenger, and by the champion where the challenger fails."""
        metadata = {key.encode(): _bytes(value) for key, value in context.invocation_metadata()}
        version, _ = trial.order(key_of(content, metadata))
        began = time.perf_counter()
        try:
            answer = self._answer(version, view, content)
        except Exception as error:
            if version is trial.champion:
                if not isinstance(error, HeadraceError):
                    trial.failed(time.perf_counter() - began)
                raise
            seconds = time.perf_counter() - began
            answer = self._answer(trial.champion, view, content)
            trial.fell_back(error, seconds)
            return answer
        trial.answered(
            answer,
            time.perf_counter() - began,
            lambda other: self._answer(other, view, content),
            len(content),
        )
        return answer

    def _answer(self, version: LoadedVersion, view: Any, content: bytes) -> Answer:
        """Predict: the usual requests by a short way, all others by the general one."""
        usual = self._forms.read(version, view)
        if usual is not None:
            rows, asked = usual
            return self._plane.predict(version, rows, self._plane.checked_outputs(version, asked))
        request = read("ModelInfer", REQUESTS["ModelInfer"], content)
        asked = [output.name for output in request.outputs]
        typed = typed_rows(version.plan, request)
        if typed is not None:
            return self._plane.predict(version, typed, self._plane.checked_outputs(version, asked))
        return self._plane.infer(version, tensors_of(request), asked)

    def _answering(
        self, name: str, method: Callable[[Any, grpc.ServicerContext], Any]
    ) -> Callable[[bytes, grpc.ServicerContext], Any]:
        """Answer anything but a prediction."""

        def answer(content: bytes, context: grpc.ServicerContext) -> Any:
            identity = request_id(_metadata(context, REQUEST_ID_METADATA))
            REQUEST_ID.set(identity)
            context.set_trailing_metadata(((REQUEST_ID_METADATA, identity),))
            began, code = time.perf_counter(), 200
            try:
                request = read(name, REQUESTS[name], content)
                self._let_pass(name, request, context)
                return method(request, context)
            except HeadraceError as error:
                code = http_status_of(error)
                refuse(context, error)
            except Exception:
                code = 500
                log.exception("%s failed", name)
                fail(context)
            finally:
                self._log_call(name, code, time.perf_counter() - began, context)

        return answer

    def _let_pass(self, name: str, request: Any, context: grpc.ServicerContext) -> None:
        """Hold the caller against its key; load and unload do so themselves."""
        if self._access is None or name in _OPEN:
            return
        shown = _metadata(context, _AUTHORIZATION)
        if name in _OF_MODEL:
            self._access.allow(shown, Scope.PREDICT, request.name)
        else:
            self._access.identify(shown)

    def _log_call(self, method: str, code: int, seconds: float, context: grpc.ServicerContext) -> None:
        if self._logs_requests:
            access_log.info(
                "%s %d",
                *(method, code),
                extra={
                    "transport": "grpc",
                    "status": code,
                    "seconds": round(seconds, 6),
                    "client": _host(context.peer()),
                },
            )

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
        key = None if self._access is None else self._access.identify(_metadata(context, _AUTHORIZATION))
        for row in self._repository.index(only_ready=request.ready):
            if key is not None and not (key.may(Scope.OBSERVE) or key.may(Scope.PREDICT, row.name)):
                continue
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
        if self._admin_apart:
            raise ForbiddenError(
                "load and unload are answered over HTTP on the port of the administration only"
            )
        if self._access is not None:
            self._access.allow(_metadata(context, _AUTHORIZATION), Scope.ADMIN)
            return
        metadata = dict(context.invocation_metadata())
        self._repository.admit(
            _host(context.peer()), metadata.get(ADMIN_METADATA, ""), f"the metadata {ADMIN_METADATA}"
        )


def _metadata(context: grpc.ServicerContext, name: str) -> str:
    """The first of this name; empty without one."""
    for key, value in context.invocation_metadata():
        if key == name:
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""


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


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _host(peer: str) -> str:
    """Address of ``ipv4:127.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
