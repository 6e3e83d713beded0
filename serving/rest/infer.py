"""``/v2/models/{m}/infer``: the Open Inference Protocol, with its binary tensor data extension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from models.manifest import FieldType
from pipelines.adapters.runtimes import Rows
from pipelines.errors import InvalidRequestError
from serving.dataplane import Answer, DataPlane
from serving.errors import MalformedRequestError
from serving.plan import DATATYPES
from serving.rest.doors import Answered, Body, Call, parsed, validated
from serving.rest.replies import Header, encoded
from serving.schemas import InferRequest, InferTensor
from serving.tensors import BINARY_TYPES, Tensor, bytes_of_texts
from serving.versions import LoadedVersion

HEADER_LENGTH = b"inference-header-content-length"
_BINARY_HEADER: Header = (b"content-type", b"application/octet-stream")
_PLAIN = frozenset({"id", "inputs"})


class InferDoor:
    """Tensors in, tensors out; either may be JSON or binary."""

    refusal = 400

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def read(self, version: LoadedVersion, body: Body) -> Call:
        if HEADER_LENGTH not in body.headers:
            document = parsed(body.content)
            if type(document) is dict and document.keys() <= _PLAIN and _named(document):
                rows = version.plan.of_tensors(document.get("inputs"))
                if rows is not None:
                    return RowsCall(self._plane, version, document.get("id"), rows)
            return TensorsCall(self._plane, version, validated(InferRequest, document), b"")
        header, data = _split(body.content, body.headers[HEADER_LENGTH])
        document = parsed(header)
        if type(document) is dict and "outputs" not in document and _named(document):
            rows = version.plan.of_doubles(document.get("inputs"), data)
            if rows is not None and (parameters := document.get("parameters")) in (None, _ALL_BINARY):
                return RowsCall(self._plane, version, document.get("id"), rows, bool(parameters))
        return TensorsCall(self._plane, version, validated(InferRequest, document), data)


_ALL_BINARY = {"binary_data_output": True}


class RowsCall:
    """The short way: all inputs, all outputs."""

    __slots__ = ("_binary", "_identity", "_plane", "_rows", "_version", "rows")

    def __init__(
        self, plane: DataPlane, version: LoadedVersion, identity: str | None, rows: Rows, binary: bool = False
    ) -> None:
        self._plane, self._version, self._identity, self._rows = plane, version, identity, rows
        self._binary = binary
        self.rows = len(rows)

    def answer(self) -> Answered:
        answer = self._plane.predict(self._version, self._rows)
        return _told(answer, self._identity, answer.asked if self._binary else ())


class TensorsCall:
    """The general way."""

    def __init__(
        self, plane: DataPlane, version: LoadedVersion, request: InferRequest, data: bytes | memoryview
    ) -> None:
        self._plane, self._version, self._request = plane, version, request
        self._tensors = _tensors(request.inputs, data)
        self.rows = max((tensor.shape[0] for tensor in self._tensors if tensor.shape), default=0)

    def answer(self) -> Answered:
        request = self._request
        asked = [output.name for output in request.outputs or ()]
        answer = self._plane.infer(self._version, self._tensors, asked or None)
        wish = _flag(request.parameters, "binary_data_output")
        wishes = {
            output.name: _flag(output.parameters, "binary_data", wish) for output in request.outputs or ()
        }
        return _told(answer, request.id, [name for name in answer.asked if wishes.get(name, wish)])


def _named(document: dict[str, Any]) -> bool:
    return type(document.get("id")) in {str, type(None)}


def _flag(parameters: dict[str, Any] | None, name: str, otherwise: bool = False) -> bool:
    if parameters is None or name not in parameters:
        return otherwise
    value = parameters[name]
    if type(value) is not bool:
        raise InvalidRequestError(
            f"parameter {name!r} is {str(value)[:40]!r}, true or false is wanted", "parameters"
        )
    return value


def _split(content: bytes, header_length: bytes) -> tuple[memoryview, memoryview]:
    """The JSON header and the binary data behind it."""
    if not header_length.isdigit() or len(header_length) > 12 or int(header_length) > len(content):
        raise MalformedRequestError(
            f"Inference-Header-Content-Length is {header_length.decode('latin-1')[:40]!r}, a number of bytes from 0 to "
            f"{len(content)} (the length of the body) is wanted"
        )
    whole, end = memoryview(content), int(header_length)
    return whole[:end], whole[end:]


def _tensors(inputs: Sequence[InferTensor], data: bytes | memoryview) -> list[Tensor]:
    """The request's tensors, each with its part of the binary data."""
    found, place = [], 0
    for tensor in inputs:
        size = (tensor.parameters or {}).get("binary_data_size")
        values: Any = tensor.data
        if size is not None:
            if type(size) is not int or size < 0 or place + size > len(data):
                raise InvalidRequestError(
                    f"input {tensor.name[:80]!r} has binary_data_size {str(size)[:40]!r}, but {len(data) - place} bytes of "
                    "binary data are left for it",
                    tensor.name[:80],
                )
            if values is not None:
                raise InvalidRequestError(
                    f"input {tensor.name[:80]!r} has both data and binary_data_size; one is wanted",
                    tensor.name[:80],
                )
            values = data[place : place + size]
            place += size
        elif values is None:
            raise InvalidRequestError(
                f"input {tensor.name[:80]!r} has neither data nor the parameter binary_data_size (shared memory is not offered)",
                tensor.name[:80],
            )
        found.append(Tensor(tensor.name, tensor.datatype, tensor.shape, values))
    if place != len(data):
        raise InvalidRequestError(
            f"the request has {len(data)} bytes of binary data, but its inputs take {place}", "inputs"
        )
    return found


def _told(answer: Answer, identity: str | None, binary: Sequence[str]) -> Answered:
    version = answer.version
    types = {field.name: field.type for field in version.predictor.manifest.outputs}
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name in answer.asked:
        values, kind = answer.outputs[name], types[name]
        output: dict[str, Any] = {"name": name, "datatype": DATATYPES[kind], "shape": [len(values)]}
        if name in binary:
            blobs.append(_binary(kind, values))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = values.tolist()
        outputs.append(output)
    content: dict[str, Any] = {
        "model_name": version.name,
        "model_version": version.version,
        "outputs": outputs,
        "parameters": {"prediction_ids": list(answer.prediction_ids)},
    }
    if identity is not None:
        content["id"] = identity
    header = encoded(content)
    if not binary:
        return Answered(answer, header)
    length: Header = (HEADER_LENGTH, str(len(header)).encode())
    return Answered(answer, b"".join((header, *blobs)), (_BINARY_HEADER, length))


def _binary(kind: FieldType, values: NDArray) -> bytes:
    if kind is FieldType.STRING:
        return bytes_of_texts([text or "" for text in values.tolist()])
    return values.astype(BINARY_TYPES[DATATYPES[kind]]).tobytes()
