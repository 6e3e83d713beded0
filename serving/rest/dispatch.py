"""The server as an ASGI callable: predictions are answered here, all else by another application.

A prediction of one row costs tens of microseconds; a framework's routing, dependency injection and
thread pool cost several times that. So the path is looked up in a cache, the body is read by
the version's plan, and only what would hold up the event loop goes to a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import copy_context
from functools import lru_cache
from typing import Any, NamedTuple

from pipelines.errors import HeadraceError
from serving.access import KEY, Access, is_admin
from serving.dataplane import DataPlane
from serving.errors import ModelNotFoundError
from serving.logs import REQUEST_ID, access_log, request_id
from serving.rest.bodies import Bodies
from serving.rest.doors import Answered, Body, Door
from serving.rest.replies import JSON_HEADER, Header, Reply, encoded, error_reply, failure_reply
from serving.rollout import Trial
from serving.rollout.sticky import key_of
from serving.threads import Threads
from serving.tracing import Tracer
from serving.versions import LoadedVersion

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# What the event loop may spend on one request: whatever else came meanwhile waits as long. A hand-over
# to a thread and back costs 0.05 ms at the median, but 1.7 ms at the 99th percentile.
INLINE_SECONDS = 0.002
# JSON of this size is parsed and checked in a quarter of that.
INLINE_BYTES = 64 * 1024

_PATH = re.compile(
    r"/(?:v2/models/(?P<m>[^/]+)(?:/versions/(?P<v>[^/]+))?/(?P<infer>infer)"
    r"|models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/(?P<action>predict|invocations))"
)
_LONGEST_LOGGED = 80
_REQUEST_ID = b"x-request-id"
_ELSEWHERE = "predictions are not answered on the port of the administration"

log = logging.getLogger(__name__)


class Route(NamedTuple):
    action: str
    name: str
    version: str | None


@lru_cache(maxsize=1024)
def route_of(path: str) -> Route | None:
    """What a path asks for; None: no prediction."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    part = found.groupdict()
    return Route(part["infer"] or part["action"], part["m"] or part["name"], part["v"] or part["version"])


class Dispatcher:
    """Routes requests.

    Args:
        doors: By the last part of the path.
        pages: Answers everything that is no prediction, and follows the server's life.
        access: Holds callers against their keys; None where nobody needs one.
        tracer: None where nothing is traced.
        admin_port: Where alone the administration is answered (:func:`serving.access.is_admin`); 0: everywhere.
        logs_requests: Whether each request is a line of the log.
    """

    def __init__(
        self,
        plane: DataPlane,
        doors: Mapping[str, Door],
        bodies: Bodies,
        pages: Application,
        *,
        access: Access | None = None,
        tracer: Tracer | None = None,
        admin_port: int = 0,
        logs_requests: bool = False,
    ) -> None:
        self._plane = plane
        self._doors = doors
        self._bodies = bodies
        self._pages = pages
        self._access = access
        self._tracer = tracer
        self._admin_port = admin_port
        self._logs_requests = logs_requests
        self._threads = Threads(max(4, os.cpu_count() or 1), "predict")
        self.under_way = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread."""
        return self._threads.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = route_of(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._page(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(_REQUEST_ID)
        identity = request_id(given.decode("latin-1") if given else "")
        REQUEST_ID.set(identity)
        began = time.perf_counter()
        self.under_way += 1
        try:
            if self._admin_port and scope["server"][1] == self._admin_port:
                reply = error_reply(ModelNotFoundError(_ELSEWHERE), 404)
            elif scope["method"] != "POST":
                refused = {"error": f"{scope['method']} is not taken here, POST is wanted"}
                reply = Reply(405, encoded(refused), (JSON_HEADER, (b"allow", b"POST")))
            elif self._tracer is None:
                reply = await self._reply(route, scope, headers, receive, identity if given else "")
            else:
                reply = await self._traced(self._tracer, route, scope, headers, receive, identity)
        finally:
            self.under_way -= 1
        await _send(reply, identity, send)
        if self._logs_requests:
            _log_request(scope, reply.status, time.perf_counter() - began)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _reply(
        self, route: Route, scope: Scope, headers: dict[bytes, bytes], receive: Receive, identity: str
    ) -> Reply:
        """Read, decide, answer and count; every error of the client becomes an answer that names the field."""
        door = self._doors[route.action]
        found: LoadedVersion | None = None
        held = 0
        began = time.perf_counter()
        try:
            if self._access is not None:
                shown = headers.get(b"authorization", b"").decode("latin-1")
                scope[KEY] = self._access.predict(shown, route.name)
            message = await receive()
            content = self._bodies.at_once(message, headers)
            if content is None:
                content, held = await self._bodies.read(message, headers, receive)
                began = time.perf_counter()
            found = self._plane.find(route.name, route.version)
            body = Body(content, headers, scope["query_string"])
            trial = self._plane.rollouts.of(found) if route.version is None else None
            if trial is None:
                answered = await self._answered(door, found, body)
            else:
                answered = await self._tried(trial, door, body)
            self._plane.answered(answered.answer, time.perf_counter() - began, "rest", identity)
            return Reply(200, answered.content, answered.headers)
        except HeadraceError as error:
            reply = error_reply(error, door.refusal)
            refusal: Exception = error
            if reply.status >= 500:
                log.error(
                    "a request for %s was answered with %d: %s",
                    *(route.name[:_LONGEST_LOGGED], reply.status, error),
                )
        except Exception as error:
            log.exception("a request for %s failed", route.name[:_LONGEST_LOGGED])
            reply = failure_reply(error)
            refusal = error
        finally:
            self._bodies.release(held)
        self._plane.refused(found, reply.status, time.perf_counter() - began, "rest", refusal)
        return reply

    async def _traced(
        self,
        tracer: Tracer,
        route: Route,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        identity: str,
    ) -> Reply:
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        about = {"headrace.model": route.name[:_LONGEST_LOGGED], "headrace.request_id": identity}
        with tracer.request(f"POST {route.action}", carrier, about) as span:
            reply = await self._reply(route, scope, headers, receive, identity)
            span.set_attribute("http.response.status_code", reply.status)
            if reply.status >= 500:
                tracer.failed(span, f"answered with {reply.status}")
        return reply

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Anything but a prediction."""
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        identity = request_id(headers.get(_REQUEST_ID, b"").decode("latin-1"))
        REQUEST_ID.set(identity)
        began, status = time.perf_counter(), 500

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (_REQUEST_ID, identity.encode("latin-1"))]
            await send(message)

        try:
            self._let_pass(scope, headers)
        except HeadraceError as error:
            reply = error_reply(error, 400)
            status = reply.status
            await _send(reply, identity, send)
        else:
            await self._pages(scope, receive, send_with_id)
        if self._logs_requests:
            _log_request(scope, status, time.perf_counter() - began)

    def _let_pass(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        path = scope["path"]
        if self._admin_port and is_admin(path) and scope["server"][1] != self._admin_port:
            raise ModelNotFoundError(
                f"{path[:_LONGEST_LOGGED]} is answered on the port of the administration only"
            )
        if self._access is not None:
            scope[KEY] = self._access.page(path, headers.get(b"authorization", b"").decode("latin-1"))

    async def _answered(self, door: Door, version: LoadedVersion, body: Body) -> Answered:
        """Answer by a version, on the loop where that is quick."""
        if len(body.content) > INLINE_BYTES:
            return await self._in_thread(lambda: door.read(version, body).answer())
        call = door.read(version, body)
        if call.rows and self._plane.seconds_of(version, call.rows) <= INLINE_SECONDS:
            return call.answer()
        return await self._in_thread(call.answer)

    async def _tried(self, trial: Trial, door: Door, body: Body) -> Answered:
        """Answer by champion or challenger, and by the champion where the challenger fails."""
        version, _ = trial.order(key_of(body.content, body.headers, trial.entity_input))
        began = time.perf_counter()
        try:
            answered = await self._answered(door, version, body)
        except Exception as error:
            if version is trial.champion:
                if not isinstance(error, HeadraceError):
                    trial.failed(time.perf_counter() - began)
                raise
            seconds = time.perf_counter() - began
            answered = await self._answered(door, trial.champion, body)
            trial.fell_back(error, seconds)
            return answered
        trial.answered(
            answered.answer,
            time.perf_counter() - began,
            lambda other: door.read(other, body).answer().answer,
            len(body.content),
        )
        return answered

    async def _in_thread(self, work: Callable[[], Answered]) -> Answered:
        # With the request's context: lines of the log there name it too.
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)


async def _send(reply: Reply, identity: str, send: Send) -> None:
    headers: list[Header] = [
        *reply.headers,
        (b"content-length", str(len(reply.content)).encode()),
        (_REQUEST_ID, identity.encode("latin-1")),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.content})


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    key, client = scope.get(KEY), scope.get("client")
    access_log.info(
        "%s %s %d",
        *(scope["method"], scope["path"], status),
        extra={
            "transport": "rest",
            "status": status,
            "seconds": round(seconds, 6),
            "client": client[0] if client else "",
            "key": key.id if key is not None else "",
        },
    )
