"""``/models/{m}/labels``: what came of predictions, told by those who know."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from pipelines.errors import HeadraceError
from serving.dataplane import DataPlane
from serving.labels import LabelBook
from serving.rest import openapi
from serving.rest.bodies import Bodies
from serving.rest.doors import parsed, validated
from serving.rest.replies import Reply, encoded, error_reply
from serving.schemas import LabelsReply, LabelsRequest

_REFUSAL = 422


def router(plane: DataPlane, book: LabelBook, bodies: Bodies) -> APIRouter:
    """``POST /models/{name}/labels``."""
    doors = APIRouter()

    def taken(name: str, content: bytes) -> Reply:
        version = plane.find(name, None)
        request = validated(LabelsRequest, parsed(content))
        batch = book.take(version, request, datetime.now(UTC))
        told = LabelsReply(model=name, accepted=len(request.labels), batch=batch)
        return Reply(202, encoded(told.model_dump()))

    async def labels(request: Request, name: str) -> Response:
        held = 0
        try:
            headers = dict(request.scope["headers"])
            content, held = await bodies.read(await request.receive(), headers, request.receive)
            reply = await run_in_threadpool(taken, name, content)
        except HeadraceError as error:
            reply = error_reply(error, _REFUSAL)
        finally:
            bodies.release(held)
        return Response(
            reply.content, reply.status, {key.decode(): value.decode() for key, value in reply.headers}
        )

    doors.add_api_route(
        "/models/{name}/labels",
        labels,
        methods=["POST"],
        tags=[openapi.PEOPLE],
        summary="Say what came of predictions",
        status_code=202,
        responses={
            202: {
                "description": "They are on the disk, and reach the lake with the next run of the DAG predictions.",
                "content": openapi.content_of(LabelsReply),
            },
            **openapi.errors(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        },
        openapi_extra=openapi.body_of(LabelsRequest),
    )
    return doors
