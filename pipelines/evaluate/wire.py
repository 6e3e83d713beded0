"""Requests and answers of the Open Inference Protocol, as a client writes and reads them.

In JSON, and with the protocol's binary tensor data extension, in which numbers travel as
little-endian bytes behind a header in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from models.manifest import FieldType, InputField, OutputField

_DATATYPES = {
    FieldType.DOUBLE: "FP64",
    FieldType.LONG: "INT64",
    FieldType.STRING: "BYTES",
    FieldType.BOOLEAN: "BOOL",
}
_HEADER_LENGTH = "inference-header-content-length"
_BYTES_OF_FP64 = 8


class Wire(StrEnum):
    """How tensors travel."""

    JSON = "JSON"
    BINARY = "binary tensors"


class Body(NamedTuple):
    """A request's content and headers."""

    content: bytes
    headers: dict[str, str]


def request(
    inputs: Sequence[InputField],
    outputs: Sequence[OutputField],
    rows: Sequence[Mapping[str, Any]],
    wire: Wire,
) -> Body:
    """A request with one tensor per input that any of the rows has.

    In binary, floating-point numbers travel as bytes both ways, None as NaN; all else as JSON.
    """
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for field in inputs:
        if not any(field.name in row for row in rows):
            continue
        tensor = {"name": field.name, "shape": [len(rows)], "datatype": _DATATYPES[field.type]}
        values = [row.get(field.name) for row in rows]
        if wire is Wire.BINARY and field.type is FieldType.DOUBLE:
            blobs.append(np.array(values, dtype="<f8").tobytes())
            tensors.append({**tensor, "parameters": {"binary_data_size": len(blobs[-1])}})
        else:
            tensors.append({**tensor, "data": values})
    asked = [
        {
            "name": field.name,
            "parameters": {"binary_data": wire is Wire.BINARY and field.type is FieldType.DOUBLE},
        }
        for field in outputs
    ]
    header = json.dumps({"inputs": tensors, "outputs": asked}).encode()
    if wire is Wire.JSON:
        return Body(header, {"content-type": "application/json"})
    headers = {"content-type": "application/octet-stream", _HEADER_LENGTH: str(len(header))}
    return Body(b"".join((header, *blobs)), headers)


def answers(content: bytes, headers: Mapping[str, str]) -> dict[str, list[Any]]:
    """Outputs of an answer by name, one value per row; headers by lower-case name.

    Raises:
        ValueError: the answer is not as the protocol has it.
    """
    length = int(headers.get(_HEADER_LENGTH, len(content)))
    place = length
    found: dict[str, list[Any]] = {}
    for tensor in json.loads(content[:length])["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[tensor["name"]] = tensor["data"]
            continue
        blob = content[place : place + size]
        if len(blob) != size or size % _BYTES_OF_FP64 or tensor["datatype"] != _DATATYPES[FieldType.DOUBLE]:
            raise ValueError(f"output {tensor['name']!r} is not of {size} bytes of FP64")
        found[tensor["name"]] = np.frombuffer(blob, dtype="<f8").tolist()
        place += size
    return found
