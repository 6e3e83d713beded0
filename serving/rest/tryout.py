"""The form of the server's page: a prediction asked with a browser, answered by the same code as any other."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from pipelines.errors import HeadraceError
from serving.dataplane import DataPlane
from serving.errors import ForbiddenError, MalformedRequestError
from serving.page import Tried
from serving.rest.doors import Body
from serving.rest.predict import PredictDoor
from serving.rest.replies import encoded, error_reply

_FIELDS = {"entity", "at", "records"}
_SAME_SITE = {b"same-origin", b"none"}


def refuse_other_sites(headers: Mapping[bytes, bytes]) -> None:
    """A form of another site, sent by this browser, asks for nothing here.

    Raises:
        ForbiddenError: browsers say that the request is such a one.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None and site not in _SAME_SITE:
        raise ForbiddenError("this form is answered to the server's own page only")


def read_form(content: bytes) -> dict[str, str]:
    """The fields that were filled in.

    Raises:
        MalformedRequestError: it is no such form.
    """
    try:
        fields = parse_qs(content.decode(), strict_parsing=bool(content), max_num_fields=len(_FIELDS))
    except ValueError as error:
        raise MalformedRequestError(f"the form cannot be read: {error}") from error
    if unknown := sorted(fields.keys() - _FIELDS):
        raise MalformedRequestError(f"the form has a field {unknown[0][:40]!r}; it takes {sorted(_FIELDS)}")
    return {name: values[-1].strip() for name, values in fields.items()}


def ask(plane: DataPlane, model: str, given: Mapping[str, str]) -> Tried:
    """Predict and explain, and count and log it as any request is; what is refused is told, with its reason.

    Raises:
        ModelNotFoundError: no such model is in production here.
    """
    door, version, began = PredictDoor(plane), plane.find(model), time.perf_counter()
    try:
        body = Body(encoded(_request(given)), {}, b"explain=true")
        answered = door.read(version, body).answer()
    except HeadraceError as error:
        status = error_reply(error, door.refusal).status
        plane.refused(version, status, time.perf_counter() - began, "rest", error)
        return Tried(model, given, None, str(error))
    plane.answered(answered.answer, time.perf_counter() - began, "rest")
    return Tried(model, given, json.loads(answered.content))


def _request(given: Mapping[str, str]) -> dict[str, Any]:
    """The body of ``/models/{model}/predict`` that the form stands for."""
    if "records" not in given:
        return {"entities": [given.get("entity", "")]} | ({"at": given["at"]} if given.get("at") else {})
    try:
        record = json.loads(given["records"])
    except (ValueError, RecursionError) as error:
        raise MalformedRequestError(f"the inputs are no JSON: {error}") from error
    return {"records": [record]}
