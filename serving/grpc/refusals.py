"""How calls end that are not answered: errors as gRPC says them."""

from __future__ import annotations

import logging
import math
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from pipelines.errors import HeadraceError, InvalidRequestError
from serving.errors import (
    BusyError,
    EntityNotFoundError,
    FeaturesUnavailableError,
    ForbiddenError,
    MalformedRequestError,
    ModelNotFoundError,
    RateLimitedError,
    UnauthenticatedError,
)
from serving.logs import REQUEST_ID

FIELD_METADATA = "headrace-field"
REQUEST_ID_METADATA = "x-request-id"
_RETRY_AFTER = "retry-after"

# What requests are counted as, so that both transports can be read together.
_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
}

log = logging.getLogger(__name__)


def read(name: str, kind: Any, content: bytes) -> Any:
    """The bytes as a message of this kind.

    Raises:
        MalformedRequestError: they are none.
    """
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise MalformedRequestError(f"the request is no {name}Request: {error}") from error


def status_of(error: HeadraceError) -> grpc.StatusCode:
    """What a call ends with."""
    match error:
        case ModelNotFoundError() | EntityNotFoundError():
            return grpc.StatusCode.NOT_FOUND
        case InvalidRequestError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case UnauthenticatedError():
            return grpc.StatusCode.UNAUTHENTICATED
        case ForbiddenError():
            return grpc.StatusCode.PERMISSION_DENIED
        case BusyError() | RateLimitedError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case FeaturesUnavailableError():
            return grpc.StatusCode.UNAVAILABLE if error.installed else grpc.StatusCode.UNIMPLEMENTED
        case _:
            return grpc.StatusCode.INTERNAL


def http_status_of(error: HeadraceError) -> int:
    """What REST would have answered, for the metrics."""
    return 429 if isinstance(error, RateLimitedError) else _HTTP.get(status_of(error), 500)


def refuse(context: grpc.ServicerContext, error: HeadraceError) -> NoReturn:
    """End the call with an error; the field that it is about, or how long to wait, goes with it as metadata."""
    told = [(REQUEST_ID_METADATA, REQUEST_ID.get())]
    if isinstance(error, InvalidRequestError) and error.field is not None:
        told.append((FIELD_METADATA, quote(error.field)))
    if isinstance(error, RateLimitedError):
        told.append((_RETRY_AFTER, str(math.ceil(error.seconds))))
    context.set_trailing_metadata(told)
    code = status_of(error)
    if code is grpc.StatusCode.INTERNAL:
        log.error("a call failed: %s", error)
    context.abort(code, str(error))
    raise AssertionError("abort raises")


def fail(context: grpc.ServicerContext) -> NoReturn:
    """End the call with an error of ours: the log says what it was, the client learns nothing of it."""
    context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why")
    raise AssertionError("abort raises")
