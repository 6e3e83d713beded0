"""Tensors of the Open Inference Protocol, whatever brought them, and the columns that they become."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import FieldType, InputField
from pipelines.errors import InvalidRequestError
from serving.plan import DATATYPES, TAKEN, Plan
from serving.validation import check_rows, column_of, refuse_unknown, shown, wanted

#: Element types as the protocol encodes them in binary: little-endian, row-major.
BINARY_TYPES = {
    "BOOL": np.dtype(np.bool_),
    **{
        f"{sign}INT{8 * size}": np.dtype(f"<{sign[:1].lower() or 'i'}{size}")
        for sign in ("U", "")
        for size in (1, 2, 4, 8)
    },
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of a model, n rows.

    Attributes:
        shape: As the client states it; ``[n]`` or ``[n, 1]`` is right.
        data: n values: a list, flat or as ``[[value], …]``, with None where one is missing; or an array; or
            bytes in the protocol's binary form, where NaN is a missing number.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    data: list[Any] | NDArray | bytes | memoryview


def columns_of_tensors(plan: Plan, tensors: Sequence[Tensor], max_rows: int) -> dict[str, NDArray]:
    """Checked columns, one per input that was sent.

    Raises:
        InvalidRequestError: a tensor does not fit its input, or one is missing. The field is named.
    """
    sent: dict[str, NDArray] = {}
    rows: int | None = None
    for tensor in tensors:
        if tensor.name not in plan.positions:
            refuse_unknown(tensor.name, set(plan.positions), "the request")
        if tensor.name in sent:
            raise InvalidRequestError(f"input {tensor.name!r} is given twice", tensor.name)
        field = plan.inputs[plan.positions[tensor.name]]
        _check_form(field, tensor)
        if rows is None:
            rows, first = tensor.shape[0], tensor.name
            check_rows(rows, max_rows, first)
        column = _column(field, tensor)
        if len(column) != rows:
            raise InvalidRequestError(
                f"input {tensor.name!r} has {len(column)} rows, {first!r} has {rows}", tensor.name
            )
        sent[tensor.name] = column
    if not sent:
        raise InvalidRequestError(f"inputs is empty; the model takes {sorted(plan.positions)}", "inputs")
    for field in plan.inputs:
        if field.required and field.name not in sent:
            raise InvalidRequestError(f"input {field.name!r} is missing; it is required", field.name)
    return sent


def texts_of(field: str, content: bytes | memoryview) -> list[str]:
    """Strings of the binary form of BYTES: each its length in four bytes, then itself in UTF-8.

    Raises:
        InvalidRequestError: a length leads beyond the end, or an element is not UTF-8.
    """
    found, place, end = [], 0, len(content)
    while place < end:
        if place + _LENGTH.size > end:
            raise InvalidRequestError(
                f"input {field!r} has {end - place} bytes left where the length of an element belongs", field
            )
        (length,) = _LENGTH.unpack_from(content, place)
        place += _LENGTH.size
        if place + length > end:
            raise InvalidRequestError(
                f"input {field!r} has an element of {length} bytes, but only {end - place} are left", field
            )
        try:
            found.append(str(content[place : place + length], "utf-8"))
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                f"element {len(found)} of input {field!r} is not UTF-8", field
            ) from error
        place += length
    return found


def bytes_of_texts(values: Sequence[str]) -> bytes:
    """The binary form of BYTES."""
    return b"".join(
        part
        for text in values
        for encoded in (text.encode(),)
        for part in (_LENGTH.pack(len(encoded)), encoded)
    )


def _check_form(field: InputField, tensor: Tensor) -> None:
    if tensor.datatype not in TAKEN[field.type]:
        raise InvalidRequestError(
            f"input {field.name!r} has datatype {tensor.datatype[:40]!r}, {DATATYPES[field.type]} is wanted",
            field.name,
        )
    shape = list(tensor.shape)
    if len(shape) not in {1, 2} or shape[1:] not in ([], [1]):
        raise InvalidRequestError(
            f"input {field.name!r} has shape {shape[:10]}, [n] or [n, 1] is wanted", field.name
        )


def _column(field: InputField, tensor: Tensor) -> NDArray:
    data, rows = tensor.data, tensor.shape[0]
    if isinstance(data, bytes | memoryview):
        if field.type is FieldType.STRING:
            data = list[Any](texts_of(field.name, data))
        else:
            data = _array(field, tensor.datatype, data, rows)
    if isinstance(data, list):
        return column_of(field, _values(field, data, rows))
    if field.type is FieldType.STRING:
        return column_of(field, _values(field, data.ravel().tolist(), rows))
    return checked_numbers(field, np.asarray(data).reshape(-1).astype(np.float64), rows)


def _array(field: InputField, datatype: str, content: bytes | memoryview, rows: int) -> NDArray:
    kind = BINARY_TYPES[datatype]
    if len(content) != rows * kind.itemsize:
        raise InvalidRequestError(
            f"input {field.name!r} of {rows} values of {datatype} has {len(content)} bytes of data, "
            f"{rows * kind.itemsize} are wanted",
            field.name,
        )
    if kind == np.bool_:
        # Any byte but 0 and 1 would be a truth value of its own.
        return np.asarray(np.frombuffer(content, dtype=np.uint8) != 0)
    return np.frombuffer(content, dtype=kind)


def checked_numbers(field: InputField, column: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    if len(column) != rows:
        raise InvalidRequestError(
            f"input {field.name!r} has shape [{rows}], but {len(column)} values", field.name
        )
    with np.errstate(invalid="ignore"):
        wrong = np.isinf(column)
        if field.type is FieldType.LONG:
            wrong |= (column != np.trunc(column)) & ~np.isnan(column)
        if field.minimum is not None:
            wrong |= column < field.minimum
        if field.maximum is not None:
            wrong |= column > field.maximum
    if field.required:
        wrong |= np.isnan(column)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise InvalidRequestError(
            f"{field.name!r}: row {place} has {shown(column[place].item())}, {wanted(field)} is wanted",
            field.name,
        )
    return column


def _values(field: InputField, values: list[Any], rows: int) -> list[Any]:
    """The n values, flat."""
    if any(type(value) is list for value in values):
        if not all(type(value) is list and len(value) == 1 for value in values):
            raise InvalidRequestError(
                f"the data of input {field.name!r} are nested, but not as [[value], [value], …]", field.name
            )
        values = [value[0] for value in values]
    if len(values) != rows:
        raise InvalidRequestError(
            f"input {field.name!r} has shape [{rows}], but {len(values)} values", field.name
        )
    return values
