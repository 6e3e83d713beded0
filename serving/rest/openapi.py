"""The API's description: what FastAPI finds of its own endpoints, and the doors beside it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.rest.arrow import MEDIA_TYPE
from serving.schemas import (
    ErrorReply,
    IndexRequest,
    InferReply,
    InferRequest,
    InvocationsReply,
    InvocationsRequest,
    LabelsReply,
    LabelsRequest,
    PredictReply,
    PredictRequest,
)

PROTOCOL = "Open Inference Protocol"
PEOPLE = "For people"
MLFLOW = "As MLflow's scoring server"

_MEANINGS = {
    400: "The body is not JSON; or, in the Open Inference Protocol, does not fit the model.",
    401: "An API key is wanted, where the server asks for keys.",
    403: "Only administrators may ask for this; or the API key is for something else.",
    404: "No such model, version or entity is here.",
    408: "The body did not come in time.",
    413: "The body or the batch is larger than the settings allow.",
    415: "A body of this kind is not taken.",
    422: "The body does not fit the model.",
    429: "The API key sent too many requests; Retry-After says how long to wait.",
    501: "This server has no feature store client.",
    503: "The online store cannot be asked, or too much is under way.",
}
_DOOR_ERRORS = (400, 401, 403, 404, 408, 413, 415, 429, 503)
_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`headrace keys new`), where the server asks for one.",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MODELS: tuple[type[BaseModel], ...] = (
    ErrorReply,
    IndexRequest,
    InferReply,
    InferRequest,
    InvocationsReply,
    InvocationsRequest,
    LabelsReply,
    LabelsRequest,
    PredictReply,
    PredictRequest,
)


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Error answers, as FastAPI takes them."""
    return {code: {"description": _MEANINGS[code], "content": content_of(ErrorReply)} for code in codes}


def states(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Answers whose status is the message: 200 or 503."""
    words = {200: "It is.", 503: "It is not; the body says why."}
    return {
        code: {"description": words[code], "content": {"application/json": {"schema": {"type": "object"}}}}
        for code in codes
    }


def body_of(kind: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Names the body's schema; endpoints read bodies themselves, to limit their size."""
    return {"requestBody": {"required": required, "content": content_of(kind)}}


def complete(app: FastAPI) -> None:
    """Let the application's description tell of the doors, and of all bodies."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            _without_fastapis_own_refusal(schema)
            _, definitions = models_json_schema(
                [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
            )
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components.clear()
            components.update(definitions["$defs"])
            schema["paths"].update(_doors())
            schema["components"]["securitySchemes"] = {"key": _KEY}
            # A server that asks for none says so by taking requests without.
            schema["security"] = [{"key": []}, {}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _doors() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for infix, suffix in (("", ""), ("/versions/{version}", ", by version")):
        paths[f"/v2/models/{{name}}{infix}/infer"] = _door(
            f"Predict from tensors{suffix}",
            PROTOCOL,
            infix,
            body={**content_of(InferRequest), "application/octet-stream": _BINARY},
            answer={**content_of(InferReply), "application/octet-stream": _BINARY},
            codes=_DOOR_ERRORS,
            header="Length of the JSON header, where binary tensor data follow it.",
        )
        paths[f"/models/{{name}}{infix}/predict"] = _door(
            f"Predict from records or entities{suffix}",
            PEOPLE,
            infix,
            body=content_of(PredictRequest),
            answer=content_of(PredictReply),
            codes=(*_DOOR_ERRORS, 422, 501),
            query="Tell what each input adds to the raw answers.",
        )
        stream = {MEDIA_TYPE.decode(): _BINARY}
        paths[f"/models/{{name}}{infix}/invocations"] = _door(
            f"Predict from a table{suffix}",
            MLFLOW,
            infix,
            body={**content_of(InvocationsRequest), "text/csv": {"schema": {"type": "string"}}, **stream},
            answer={**content_of(InvocationsReply), **stream},
            codes=(*_DOOR_ERRORS, 422),
        )
    return paths


def _door(
    summary: str,
    tag: str,
    infix: str,
    *,
    body: dict[str, Any],
    answer: dict[str, Any],
    codes: tuple[int, ...],
    header: str | None = None,
    query: str | None = None,
) -> dict[str, Any]:
    names = ["name", "version"] if infix else ["name"]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    if header is not None:
        parameters.append(
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "required": False,
                "description": header,
                "schema": {"type": "integer", "minimum": 0},
            }
        )
    if query is not None:
        parameters.append(
            {
                "name": "explain",
                "in": "query",
                "required": False,
                "description": query,
                "schema": {"type": "boolean", "default": False},
            }
        )
    responses = {str(code): description for code, description in errors(*sorted(codes)).items()}
    return {
        "post": {
            "summary": summary,
            "tags": [tag],
            "parameters": parameters,
            "requestBody": {"required": True, "content": body},
            "responses": {"200": {"description": "The predictions.", "content": answer}, **responses},
        }
    }


def content_of(kind: type[BaseModel]) -> dict[str, Any]:
    """A body of JSON that is of this kind."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _without_fastapis_own_refusal(schema: dict[str, Any]) -> None:
    """FastAPI promises a 422 wherever a path has a parameter; here any text is a name."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
