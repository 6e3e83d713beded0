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
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

from pipelines.errors import HeadraceError
from serving.dataplane import DataPlane
from serving.rest.bodies import Bodies
from serving.rest.doors import Answered, Body, Door
from serving.rest.replies import JSON_HEADER, Header, Reply, encoded, error_reply, failure_reply
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
    """

    def __init__(
        self, plane: DataPlane, doors: Mapping[str, Door], bodies: Bodies, pages: Application
    ) -> None:
        self._plane = plane
        self._doors = doors
        self._bodies = bodies
        self._pages = pages
        self._threads = ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="predict")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = route_of(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._pages(scope, receive, send)
            return
        if scope["method"] != "POST":
            refused = {"error": f"{scope['method']} is not taken here, POST is wanted"}
            reply = Reply(405, encoded(refused), (JSON_HEADER, (b"allow", b"POST")))
        else:
            reply = await self._reply(route, scope, receive)
        headers: list[Header] = [*reply.headers, (b"content-length", str(len(reply.content)).encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.content})

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _reply(self, route: Route, scope: Scope, receive: Receive) -> Reply:
        """Read, decide, answer and count; every error of the client becomes an answer that names the field."""
        door = self._doors[route.action]
        found: LoadedVersion | None = None
        held = 0
        began = time.perf_counter()
        try:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            message = await receive()
            content = self._bodies.at_once(message, headers)
            if content is None:
                content, held = await self._bodies.read(message, headers, receive)
                began = time.perf_counter()
            found = self._plane.find(route.name, route.version)
            body = Body(content, headers, scope["query_string"])
            if len(content) > INLINE_BYTES:
                answered = await self._in_thread(lambda: door.read(found, body).answer())
            else:
                call = door.read(found, body)
                if call.rows and self._plane.seconds_of(found, call.rows) <= INLINE_SECONDS:
                    answered = call.answer()
                else:
                    answered = await self._in_thread(call.answer)
            request_id = headers.get(b"x-request-id")
            self._plane.answered(
                answered.answer,
                time.perf_counter() - began,
                "rest",
                request_id.decode("latin-1") if request_id else "",
            )
            return Reply(200, answered.content, answered.headers)
        except HeadraceError as error:
            reply = error_reply(error, door.refusal)
            if reply.status >= 500:
                log.error(
                    "a request for %s was answered with %d: %s",
                    *(route.name[:_LONGEST_LOGGED], reply.status, error),
                )
        except Exception as error:
            log.exception("a request for %s failed", route.name[:_LONGEST_LOGGED])
            reply = failure_reply(error)
        finally:
            self._bodies.release(held)
        self._plane.refused(found, reply.status, time.perf_counter() - began)
        return reply

    async def _in_thread(self, work: Callable[[], Answered]) -> Answered:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
