"""Tensors of a ``ModelInferRequest`` as rows, and answers as a ``ModelInferResponse``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from models.manifest import FieldType
from pipelines.adapters.runtimes import Rows
from pipelines.errors import InvalidRequestError
from serving.dataplane import Answer
from serving.grpc.messages import REQUESTS, RESPONSES
from serving.plan import DATATYPES, TAKEN, Plan
from serving.tensors import BINARY_TYPES, Tensor, bytes_of_texts
from serving.versions import LoadedVersion

# Where the protocol has the values of each datatype. FP16 it has in raw contents only.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_SHOWN = 80
_INPUT = type(REQUESTS["ModelInfer"]().inputs.add())
_OUTPUT = type(REQUESTS["ModelInfer"]().outputs.add())
_MOST_FORMS = 1024
_DOUBLE = BINARY_TYPES["FP64"]


@dataclass(frozen=True, slots=True)
class Form:
    """What the inputs of a usual request say: numbers throughout, each input of the model once.

    Attributes:
        places: Of the tensors among the model's inputs.
        kinds: Element type of each tensor; None: all are FP64, in the order of the inputs.
        rows: Of each tensor.
    """

    places: list[int]
    kinds: list[np.dtype] | None
    rows: int


class Forms:
    """Knows the forms in which requests come: a client says in each the same of its inputs, but for the values.

    Safe to call from several threads.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[bytes, ...]], Form] = {}

    def read(self, version: LoadedVersion, view: Any) -> tuple[Rows, list[str]] | None:
        """Rows and names of asked outputs of a usual request in raw contents.

        None for any other, which goes the general way.

        Args:
            view: A :data:`~serving.grpc.messages.REQUEST_VIEW`.
        """
        raw, inputs = list(view.raw_input_contents), tuple(view.inputs)
        if not raw:
            return None
        key = version.manifest_sha256, inputs
        form = self._known.get(key)
        if form is None:
            try:
                tensors = [_INPUT.FromString(content) for content in inputs]
            except DecodeError:
                return None
            form = _form(version.plan, tensors)
            if form is None or any(tensor.HasField("contents") for tensor in tensors):
                return None
            if len(self._known) >= _MOST_FORMS:
                self._known = {}
            self._known[key] = form
        rows = _rows(version.plan, form, raw)
        try:
            asked = [_OUTPUT.FromString(content).name for content in view.outputs]
        except DecodeError:
            return None
        return None if rows is None else (rows, asked)


def _form(plan: Plan, inputs: Sequence[Any]) -> Form | None:
    names = [tensor.name for tensor in inputs]
    if sorted(names) != sorted(plan.positions):
        return None
    places = [plan.positions[name] for name in names]
    for place, tensor in zip(places, inputs, strict=True):
        if tensor.datatype not in TAKEN[plan.inputs[place].type] or tensor.datatype in {"BYTES", "BOOL"}:
            return None
        if tensor.parameters:
            return None
    rows = inputs[0].shape[0] if inputs[0].shape else 0
    if rows < 1 or any(list(tensor.shape) not in ([rows], [rows, 1]) for tensor in inputs):
        return None
    kinds = [BINARY_TYPES[tensor.datatype] for tensor in inputs]
    plain = set(kinds) == {_DOUBLE} and places == sorted(places)
    return Form(places, None if plain else kinds, rows)


def _rows(plan: Plan, form: Form, raw: Sequence[bytes]) -> Rows | None:
    width, rows = len(form.places), form.rows
    if len(raw) != width:
        return None
    if form.kinds is None:
        if set(map(len, raw)) != {_DOUBLE.itemsize * rows}:
            return None
        numbers = np.frombuffer(b"".join(raw), dtype=_DOUBLE).reshape(width, rows)
        return plan.of_numbers(np.ascontiguousarray(numbers.T))
    matrix = np.empty((rows, width))
    for place, kind, content in zip(form.places, form.kinds, raw, strict=True):
        if len(content) != kind.itemsize * rows:
            return None
        matrix[:, place] = np.frombuffer(content, dtype=kind)
    return plan.of_numbers(matrix)


def typed_rows(plan: Plan, request: Any) -> Rows | None:
    """Rows of a usual request in typed contents; None for any other."""
    inputs = request.inputs
    if request.raw_input_contents or (form := _form(plan, inputs)) is None:
        return None
    columns = []
    for tensor in inputs:
        field = _CONTENTS.get(tensor.datatype)
        columns.append(getattr(tensor.contents, field)[:] if field else [])
        if len(columns[-1]) != form.rows:
            return None
    matrix = np.empty((form.rows, len(form.places)))
    matrix[:, form.places] = np.array(columns, dtype=np.float64).T
    return plan.of_numbers(matrix)


def tensors_of(request: Any) -> list[Tensor]:
    """The tensors of any request.

    Raises:
        InvalidRequestError: the contents are given twice, or not for each input.
    """
    inputs, raw = request.inputs, request.raw_input_contents
    if raw and len(raw) != len(inputs):
        raise InvalidRequestError(
            f"raw_input_contents has {len(raw)} elements for {len(inputs)} inputs", "raw_input_contents"
        )
    found = []
    for position, tensor in enumerate(inputs):
        name = tensor.name[:_SHOWN]
        if "shared_memory_region" in tensor.parameters:
            raise InvalidRequestError(
                f"input {name!r} lies in shared memory, which is not offered: send it", name
            )
        if raw and tensor.HasField("contents"):
            raise InvalidRequestError(
                f"input {name!r} has contents beside raw_input_contents; one is wanted", name
            )
        data = raw[position] if raw else _typed(tensor, name)
        found.append(Tensor(tensor.name, tensor.datatype, list(tensor.shape), data))
    return found


def response_of(version: LoadedVersion, answer: Answer, identity: str, *, raw: bool) -> Any:
    """The answer.

    Args:
        identity: Of the request, as the client gave it.
        raw: Values go into raw contents, as those of the request did.
    """
    response = RESPONSES["ModelInfer"](model_name=version.name, model_version=version.version, id=identity)
    response.parameters["prediction_ids"].string_param = ",".join(answer.prediction_ids)
    types = {field.name: field.type for field in version.predictor.manifest.outputs}
    for name in answer.asked:
        kind, values = types[name], answer.outputs[name]
        output = response.outputs.add(name=name, datatype=DATATYPES[kind], shape=(len(values),))
        if raw:
            response.raw_output_contents.append(_encoded(kind, values))
        else:
            contents = getattr(output.contents, _CONTENTS[DATATYPES[kind]])
            contents.extend(_plain(kind, values))
    return response


def _typed(tensor: Any, name: str) -> list[Any] | NDArray[np.float64]:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidRequestError(
            f"input {name!r} has datatype {tensor.datatype[:_SHOWN]!r}, whose values belong into raw_input_contents",
            name,
        )
    values = getattr(tensor.contents, field)
    if tensor.datatype == "BOOL":
        return list(values)
    if tensor.datatype != "BYTES":
        return np.array(values, dtype=np.float64)  # NaN is a missing number, as in raw contents
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"an element of input {name!r} is not UTF-8", name) from error


def _encoded(kind: FieldType, values: NDArray) -> bytes:
    if kind is FieldType.STRING:
        return bytes_of_texts([text or "" for text in values.tolist()])
    return values.astype(BINARY_TYPES[DATATYPES[kind]]).tobytes()


def _plain(kind: FieldType, values: NDArray) -> list[Any]:
    if kind is FieldType.STRING:
        return [(text or "").encode() for text in values.tolist()]
    return list(values.astype(BINARY_TYPES[DATATYPES[kind]]).tolist())
