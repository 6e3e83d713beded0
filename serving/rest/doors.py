"""What a door is: it reads a body for a version, and knows how to answer it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from pipelines.errors import InvalidRequestError
from serving.dataplane import Answer
from serving.errors import MalformedRequestError
from serving.rest.replies import JSON_HEADER, Header
from serving.validation import shown
from serving.versions import LoadedVersion

Model = TypeVar("Model", bound=BaseModel)


class Body(NamedTuple):
    """What came: the content, the headers by lower-case name, and the query as it stands in the address."""

    content: bytes
    headers: Mapping[bytes, bytes]
    query: bytes


class Answered(NamedTuple):
    """A prediction, and how it is told."""

    answer: Answer
    content: bytes
    headers: Sequence[Header] = (JSON_HEADER,)


class Call(Protocol):
    """A request that was read and found in order.

    Attributes:
        rows: How many; 0 where answering waits for something else than the processor.
    """

    rows: int

    def answer(self) -> Answered: ...


class Door(Protocol):
    """One way of asking.

    Attributes:
        refusal: Status for a body that is in order, but does not fit the model.
    """

    refusal: int

    def read(self, version: LoadedVersion, body: Body) -> Call:
        """The request; refuses what does not fit the model.

        Raises:
            InvalidRequestError: the body is refused.
        """
        ...


def parsed(content: bytes | memoryview) -> Any:
    """A JSON document.

    Raises:
        MalformedRequestError: it is none.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        found = _with_nan(bytes(content))
        if found is None:
            raise MalformedRequestError(f"the body is not JSON: {error}") from error
        return found


def validated(kind: type[Model], document: Any) -> Model:
    """The document as an object of this kind.

    Raises:
        InvalidRequestError: it has another shape; the place and what stands there are named.
    """
    if not isinstance(document, dict):
        raise MalformedRequestError(f"the body is {shown(document)}, an object is wanted")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        came = "" if first["type"] in {"missing", "value_error"} else f" (it is {shown(first['input'])})"
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(f"{place or 'body'}: {message}{came}", place[:80] or None) from error


def records_of(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """One object per row."""
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _with_nan(content: bytes) -> Any:
    """The body where NaN or infinity is all that is wrong with it: no JSON, but many clients write it.

    Validation refuses such a value as any other, and so names its field. None: it is not that.
    """
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError):
        return None
