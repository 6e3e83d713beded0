"""``/models/{m}/invocations``: the shapes that MLflow's scoring server takes, and Arrow streams.

JSON of one of ``dataframe_split``, ``dataframe_records``, ``instances`` or ``inputs``; CSV with a
header line; or an Arrow IPC stream, which is answered with one. Unlike MLflow's, the server refuses
columns that the model does not take: a misspelt optional one would silently count as missing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from models.manifest import FieldType, InputField
from pipelines.adapters.runtimes import Rows
from pipelines.errors import InvalidRequestError
from serving.dataplane import DataPlane
from serving.errors import MalformedRequestError, UnsupportedMediaError
from serving.plan import Plan
from serving.rest import arrow
from serving.rest.doors import Answered, Body, Call, parsed, records_of
from serving.rest.replies import encoded
from serving.validation import check_rows, column_of, refuse_unknown, shown
from serving.versions import LoadedVersion

_SHAPES = ("dataframe_split", "dataframe_records", "instances", "inputs")
_JSON_TYPES = frozenset({b"", b"application/json", b"application/x-www-form-urlencoded"})  # the last: curl -d
_MISSING = frozenset({"", "nan", "null", "none", "na"})
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class InvocationsDoor:
    """Tables in several shapes."""

    refusal = 422

    def __init__(self, plane: DataPlane, max_rows: int) -> None:
        self._plane = plane
        self._max_rows = max_rows

    def read(self, version: LoadedVersion, body: Body) -> Call:
        kind = body.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        plan = version.plan
        if kind == arrow.MEDIA_TYPE:
            rows = arrow.rows_of(plan, body.content, self._max_rows)
            return InvocationsCall(self._plane, version, rows, as_arrow=True)
        if kind == b"text/csv":
            names, lists = _csv(body.content)
            return self._call(version, self._table(plan, names, lists))
        if kind not in _JSON_TYPES:
            raise UnsupportedMediaError(
                f"content-type {kind.decode('latin-1')[:80]!r} is not taken; application/json, text/csv or "
                f"{arrow.MEDIA_TYPE.decode()} is wanted"
            )
        return self._call(version, self._json(version, parsed(body.content)))

    def _call(self, version: LoadedVersion, rows: Rows) -> Call:
        return InvocationsCall(self._plane, version, rows)

    def _json(self, version: LoadedVersion, document: Any) -> Rows:
        if type(document) is not dict:
            raise MalformedRequestError(f"the body is {shown(document)}, an object is wanted")
        given = [shape for shape in _SHAPES if shape in document]
        if len(given) != 1:
            raise InvalidRequestError(
                f"the body has {given or sorted(map(str, document))[:5]}; one of {list(_SHAPES)} is wanted",
                "body",
            )
        (shape,), plan = given, version.plan
        if unknown := sorted(document.keys() - {shape, "params"}):
            raise InvalidRequestError(
                f"the body has {unknown[0][:40]!r} beside {shape!r}; nothing else is taken", "body"
            )
        if document.get("params"):
            raise InvalidRequestError("the model takes no params", "params")
        content = document[shape]
        if shape == "dataframe_split":
            return self._split(plan, content)
        if shape == "inputs" and type(content) is dict:
            return self._columns(plan, content)
        if type(content) is not list:
            raise InvalidRequestError(f"{shape} is {shown(content)}, a list is wanted", shape)
        if shape != "dataframe_records" and content and type(content[0]) is list:
            return self._table(plan, [field.name for field in plan.inputs], content, shape)
        return self._plane.rows_of_records(version, content, shape)

    def _split(self, plan: Plan, content: Any) -> Rows:
        if type(content) is not dict or not {"columns", "data"} <= content.keys() <= {
            "columns",
            "data",
            "index",
        }:
            raise InvalidRequestError(
                f"dataframe_split is {shown(content)}, an object with columns and data is wanted",
                "dataframe_split",
            )
        names, lists = content["columns"], content["data"]
        if type(names) is not list or not all(type(name) is str for name in names):
            raise InvalidRequestError("dataframe_split.columns: a list of names is wanted", "columns")
        if type(lists) is not list:
            raise InvalidRequestError(
                f"dataframe_split.data is {shown(lists)}, a list of rows is wanted", "data"
            )
        return self._table(plan, names, lists, "data")

    def _table(self, plan: Plan, names: Sequence[str], rows: list[Any], where: str = "data") -> Rows:
        check_rows(len(rows), self._max_rows, where)
        short = plan.of_table(names, rows)
        if short is not None:
            return short
        for place, row in enumerate(rows):
            if type(row) is not list or len(row) != len(names):
                came = f"{len(row)} values" if type(row) is list else shown(row)
                raise InvalidRequestError(
                    f"row {place} is {came}, a list of {len(names)} values is wanted", where
                )
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        if len(columns) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRequestError(f"column {twice[:80]!r} is given twice", twice[:80])
        return self._columns(plan, columns)

    def _columns(self, plan: Plan, columns: dict[str, Any]) -> Rows:
        known = set(plan.positions)
        if unknown := columns.keys() - known:
            refuse_unknown(min(unknown), known, "the table")
        # One row may come without its brackets, as MLflow takes it.
        lists = {name: values if type(values) is list else [values] for name, values in columns.items()}
        lengths = {len(values) for values in lists.values()}
        if len(lengths) > 1:
            raise InvalidRequestError(
                f"the columns have {sorted(lengths)} rows; as many in each are wanted", "inputs"
            )
        (rows,) = lengths or {0}
        check_rows(rows, self._max_rows, "inputs")
        return plan.of_columns(
            {
                field.name: column_of(field, _cells(field, lists.get(field.name), rows))
                for field in plan.inputs
            }
        )


class InvocationsCall:
    __slots__ = ("_arrow", "_plane", "_rows", "_version", "rows")

    def __init__(self, plane: DataPlane, version: LoadedVersion, rows: Rows, as_arrow: bool = False) -> None:
        self._plane, self._version, self._rows, self._arrow = plane, version, rows, as_arrow
        self.rows = 0 if as_arrow else len(rows)

    def answer(self) -> Answered:
        answer = self._plane.predict(self._version, self._rows)
        if self._arrow:
            return Answered(answer, arrow.stream_of(answer), ((b"content-type", arrow.MEDIA_TYPE),))
        columns = [answer.outputs[name].tolist() for name in answer.asked]
        content = {
            "predictions": records_of(answer.asked, columns),
            "model_version": self._version.version,
            "prediction_ids": list(answer.prediction_ids),
        }
        return Answered(answer, encoded(content))


def _csv(content: bytes) -> tuple[list[str], list[list[Any]]]:
    """Names and rows of a CSV text; cells are strings yet."""
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedRequestError(f"the body is not CSV in UTF-8: {error}") from error
    rows: list[list[Any]] = [[_Cell(cell) for cell in line] for line in lines[1:] if line]
    if not lines or not lines[0]:
        raise MalformedRequestError("the body has no line; a line with the names of the columns is wanted")
    return lines[0], rows


class _Cell(str):
    """A cell of CSV, whose type is told by its column only."""

    __slots__ = ()


def _cells(field: InputField, values: list[Any] | None, rows: int) -> list[Any]:
    if values is None:
        return [None] * rows
    return [_read(field, value) if type(value) is _Cell else value for value in values]


def _read(field: InputField, cell: str) -> Any:
    """The value of a cell; one that cannot be read stays text, and is refused as such."""
    text = cell.strip()
    if text.lower() in _MISSING:
        return None
    match field.type:
        case FieldType.STRING:
            return str(cell)
        case FieldType.BOOLEAN:
            return _TRUTH.get(text.lower(), text)
        case _:
            try:
                return float(text)
            except ValueError:
                return text
