"""Answers and errors as bytes with a status."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from pipelines.errors import HeadraceError, InvalidRequestError
from serving.errors import (
    BusyError,
    EntityNotFoundError,
    FeaturesUnavailableError,
    ForbiddenError,
    MalformedRequestError,
    ModelNotFoundError,
    RateLimitedError,
    SlowClientError,
    TooLargeError,
    UnauthenticatedError,
    UnsupportedMediaError,
)

Header = tuple[bytes, bytes]

JSON_HEADER: Header = (b"content-type", b"application/json")

_RETRY_AFTER: Header = (b"retry-after", b"1")
_CLOSE: Header = (b"connection", b"close")
_CHALLENGE: Header = (b"www-authenticate", b'Bearer realm="headrace"')


class Reply(NamedTuple):
    """What goes back to the client."""

    status: int
    content: bytes
    headers: Sequence[Header] = (JSON_HEADER,)


def encoded(content: Any) -> bytes:
    """JSON; NaN becomes null."""
    try:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        # A path may hold half of a surrogate pair, which is no Unicode; this writes it as an escape.
        return json.dumps(content).encode()


def error_reply(error: HeadraceError, refusal: int) -> Reply:
    """An error in the protocol's shape, with the field that it is about.

    Args:
        refusal: Status where the body is in order, but does not fit the model.
    """
    content = {"error": str(error)}
    if isinstance(error, InvalidRequestError) and error.field is not None:
        content["field"] = error.field
    headers = [JSON_HEADER]
    if isinstance(error, BusyError):
        headers.append(_RETRY_AFTER)
    if isinstance(error, RateLimitedError):
        headers.append((b"retry-after", str(math.ceil(error.seconds)).encode()))
    if isinstance(error, UnauthenticatedError):
        headers.append(_CHALLENGE)
    if isinstance(error, TooLargeError | SlowClientError | BusyError):
        headers.append(_CLOSE)  # the rest of the body is not waited for
    return Reply(_status(error, refusal), encoded(content), headers)


def failure_reply(error: Exception) -> Reply:
    """An error of ours: the log says what it was, the client learns nothing of it."""
    return Reply(500, encoded({"error": f"the server failed ({type(error).__name__}); its log says why"}))


def _status(error: HeadraceError, refusal: int) -> int:
    match error:
        case ModelNotFoundError() | EntityNotFoundError():
            return 404
        case TooLargeError():
            return 413
        case UnsupportedMediaError():
            return 415
        case SlowClientError():
            return 408
        case MalformedRequestError():
            return 400
        case InvalidRequestError():
            return refusal
        case UnauthenticatedError():
            return 401
        case ForbiddenError():
            return 403
        case RateLimitedError():
            return 429
        case BusyError():
            return 503
        case FeaturesUnavailableError():
            return 503 if error.installed else 501
        case _:
            return 500
