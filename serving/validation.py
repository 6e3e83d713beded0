"""From what a client sent to columns that a predictor takes, or a sentence that says what is wrong.

The common case runs column by column at the speed of NumPy; only a column that is refused is
searched for its first culprit.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import FieldType, InputField
from pipelines.adapters.runtimes import to_column
from pipelines.errors import InvalidRequestError
from serving.errors import TooLargeError

_WORDS = {
    FieldType.DOUBLE: "a number",
    FieldType.LONG: "a whole number",
    FieldType.STRING: "a string",
    FieldType.BOOLEAN: "true or false",
}
_TYPES: dict[FieldType, frozenset[type]] = {
    FieldType.DOUBLE: frozenset({float, int}),
    FieldType.LONG: frozenset({float, int}),  # many clients write 3 as 3.0
    FieldType.STRING: frozenset({str}),
    FieldType.BOOLEAN: frozenset({bool}),
}
_LONGEST_SHOWN = 40


def check_rows(count: int, largest: int, field: str) -> None:
    """Raises where a batch is empty or too large."""
    if count < 1:
        raise InvalidRequestError(f"{field} is empty; give at least one row", field)
    if count > largest:
        raise TooLargeError(f"{field} has {count} rows, at most {largest} are taken at once", field)


def columns_of_records(inputs: Sequence[InputField], records: Sequence[Any]) -> dict[str, NDArray]:
    """Columns from a list of JSON objects; an optional field may be absent or null.

    Raises:
        InvalidRequestError: a record does not fit the inputs; field and record are named.
    """
    known = {field.name for field in inputs}
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            raise InvalidRequestError(f"record {position} is {shown(record)}, an object is wanted", "records")
        if not record.keys() <= known:
            refuse_unknown(min(record.keys() - known), known, f"record {position}")
    return {
        field.name: column_of(field, [record.get(field.name) for record in records], "record")
        for field in inputs
    }


def column_of(field: InputField, values: Sequence[Any], row_word: str = "row") -> NDArray:
    """Array of shape (n,) for one input, every value checked.

    Raises:
        InvalidRequestError: a value has the wrong type, is missing, not finite, or out of range.
    """
    kinds = set(map(type, values))
    if not kinds <= _TYPES[field.type] | {NoneType} or (field.required and NoneType in kinds):
        _refuse_first(field, values, row_word, lambda value: _type_problem(field, value))
    try:
        column = to_column(field, values)
    except OverflowError:  # an integer beyond the largest double
        _refuse_first(field, values, row_word, _range_problem_of_integer)
        raise
    if field.type in {FieldType.DOUBLE, FieldType.LONG}:
        _check_numbers(field, column, values, row_word)
    return column


def _check_numbers(field: InputField, column: NDArray, values: Sequence[Any], row_word: str) -> None:
    # Missing values are NaN by now; every comparison below must let those pass, and only those.
    with np.errstate(invalid="ignore"):
        wrong = np.isinf(column)
        if field.type is FieldType.LONG:
            wrong |= column != np.trunc(column)
            wrong &= ~np.isnan(column)
        if field.minimum is not None:
            wrong |= column < field.minimum
        if field.maximum is not None:
            wrong |= column > field.maximum
    wrong |= np.isnan(column) & np.fromiter((value is not None for value in values), np.bool_, len(values))
    if wrong.any():
        position = int(np.argmax(wrong))
        raise InvalidRequestError(
            f"{field.name!r}: {row_word} {position} has {shown(values[position])}, {wanted(field)} is wanted",
            field.name,
        )


def refuse_unknown(name: str, known: set[str], where: str) -> None:
    """Raises InvalidRequestError that names the field, and the known one that is closest."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InvalidRequestError(
        f"{where} has the field {shown(name)}, which the model does not take{hint}; its inputs are {sorted(known)}",
        name[:_LONGEST_SHOWN],
    )


def wanted(field: InputField) -> str:
    """An input in words: what a person should send."""
    words = _WORDS[field.type]
    if field.unit:
        words += f" in {field.unit}"
    match field.minimum, field.maximum:
        case None, None:
            pass
        case minimum, None:
            words += f" of at least {minimum:g}"
        case None, maximum:
            words += f" of at most {maximum:g}"
        case minimum, maximum:
            words += f" from {minimum:g} to {maximum:g}"
    return words if field.required else f"{words}, or null"


def shown(value: Any) -> str:
    """What came, short enough for an error message."""
    match value:
        case None:
            return "null or nothing"
        case True | False:
            return str(value).lower()
        case list():
            return "a list"
        case dict():
            return "an object"
        case str():
            text = repr(value[:_LONGEST_SHOWN])
            return text if len(value) <= _LONGEST_SHOWN else f"{text}…"
        case _:
            return repr(value)[:_LONGEST_SHOWN]


def _refuse_first(
    field: InputField, values: Sequence[Any], row_word: str, problem: Callable[[Any], bool]
) -> None:
    for position, value in enumerate(values):
        if problem(value):
            raise InvalidRequestError(
                f"{field.name!r}: {row_word} {position} has {shown(value)}, {wanted(field)} is wanted",
                field.name,
            )


def _type_problem(field: InputField, value: Any) -> bool:
    return field.required if value is None else type(value) not in _TYPES[field.type]


def _range_problem_of_integer(value: Any) -> bool:
    try:
        return value is not None and math.isinf(float(value))
    except OverflowError:
        return True
