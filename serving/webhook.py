"""The door for MLflow's registry webhooks: a moved alias is followed at once, not at the next look."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from pipelines.adapters import webhooks
from pipelines.errors import InvalidRequestError
from pipelines.settings import Settings

_LARGEST_BYTES = 65_536


def router(settings: Settings, wake: Callable[[], None]) -> APIRouter:
    """``POST /webhooks/mlflow``.

    Args:
        wake: Called for each event that MLflow has signed.
    """
    doors = APIRouter()

    async def moved(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_BYTES:
                return Response("an event is smaller", 413)
        try:
            event = webhooks.verified(request.headers, body, webhooks.secret(settings))
        except InvalidRequestError as error:
            return Response(str(error), 401 if error.field else 400)
        if event is not None:
            await run_in_threadpool(webhooks.keep, settings, event)
            wake()
        return Response(status_code=204)

    doors.add_api_route(webhooks.PATH, moved, methods=["POST"], include_in_schema=False)
    return doors
