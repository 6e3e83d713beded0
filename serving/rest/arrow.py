"""Arrow IPC streams, for large batches. Needs the extra ``arrow``; the server runs without."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import FieldType, InputField
from pipelines.adapters.runtimes import Rows
from pipelines.errors import InvalidRequestError
from serving.dataplane import Answer
from serving.errors import MalformedRequestError, UnsupportedMediaError
from serving.plan import Plan
from serving.tensors import checked_numbers
from serving.validation import check_rows, column_of, refuse_unknown

MEDIA_TYPE = b"application/vnd.apache.arrow.stream"

_WORDS = {FieldType.STRING: "strings", FieldType.BOOLEAN: "truth values"}


def rows_of(plan: Plan, content: bytes, max_rows: int) -> Rows:
    """Checked rows of a stream; a null counts as missing.

    Raises:
        InvalidRequestError: a column does not fit its input.
        MalformedRequestError: the content is no Arrow stream.
        UnsupportedMediaError: pyarrow is not installed.
    """
    table = _table(_pyarrow(), content)
    names = table.column_names
    for name in names:
        if name not in plan.positions:
            refuse_unknown(name, set(plan.positions), "the stream")
        if names.count(name) > 1:
            raise InvalidRequestError(f"column {name!r} is given twice", name)
    check_rows(table.num_rows, max_rows, "the stream")
    for field in plan.inputs:
        if field.required and field.name not in names:
            raise InvalidRequestError(f"column {field.name!r} is missing; it is required", field.name)
    if len(names) == len(plan.inputs) and {str(kind) for kind in table.schema.types} == {"double"}:
        short = plan.of_numbers(
            np.column_stack([table.column(field.name).to_numpy() for field in plan.inputs])
        )
        if short is not None:
            return short
    return plan.of_columns(
        {name: _column(plan.inputs[plan.positions[name]], table.column(name)) for name in names}
    )


def stream_of(answer: Answer) -> bytes:
    """A stream with the id of each prediction and the outputs; its metadata name model and version."""
    pyarrow = _pyarrow()
    columns = {"prediction_id": list(answer.prediction_ids)} | {
        name: answer.outputs[name] for name in answer.asked
    }
    table = pyarrow.table(columns).replace_schema_metadata(
        {"model": answer.version.name, "version": answer.version.version}
    )
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise UnsupportedMediaError(
            "Arrow streams need pyarrow, which is not installed here: install headrace[arrow] beside the server, "
            "or send JSON or binary tensors"
        ) from error
    return pyarrow  # type: ignore[no-any-return]


def _table(pyarrow: ModuleType, content: bytes) -> Any:
    try:
        with pyarrow.ipc.open_stream(content) as reader:
            table = reader.read_all()
        # Offsets in a stream may point anywhere: what is read must have been looked at first.
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: a column's name
        raise MalformedRequestError(f"the body is no Arrow stream: {str(error)[:200]}") from error
    return table


def _column(field: InputField, column: Any) -> NDArray:
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    match field.type:
        case FieldType.STRING:
            fits = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_null(kind)
        case FieldType.BOOLEAN:
            fits = kinds.is_boolean(kind)
        case FieldType.LONG:
            fits = kinds.is_integer(kind)
        case FieldType.DOUBLE:
            fits = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_null(kind)
    if not fits:
        raise InvalidRequestError(
            f"column {field.name!r} is of {kind}, {_WORDS.get(field.type, 'numbers')} are wanted", field.name
        )
    if field.type in _WORDS:
        return column_of(field, column.to_pylist())
    return checked_numbers(field, np.asarray(column.to_numpy(), dtype=np.float64), len(column))
