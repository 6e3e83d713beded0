"""What can be known of a version before the first request: how its inputs are read and checked at speed.

Here lies the short way for bodies that are as they should be. Whatever is out of the ordinary (a
field too many, a string where a number belongs, an optional input that is left out) gets None here
and goes the general way (:mod:`serving.validation`, :mod:`serving.tensors`), which either finds it in
order after all or says what is wrong. Both ways make the same rows of the same body.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter, le
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import FieldType, InputField
from pipelines.adapters.exports import Export
from pipelines.adapters.runtimes import Rows, to_column

DATATYPES = {
    FieldType.DOUBLE: "FP64",
    FieldType.LONG: "INT64",
    FieldType.STRING: "BYTES",
    FieldType.BOOLEAN: "BOOL",
}
_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
TAKEN = {
    FieldType.DOUBLE: frozenset({"FP64", "FP32", "FP16"}) | _INTEGERS,
    FieldType.LONG: _INTEGERS,
    FieldType.STRING: frozenset({"BYTES"}),
    FieldType.BOOLEAN: frozenset({"BOOL"}),
}

_NUMBERS = frozenset({float, int})
_NUMBERS_OR_NONE = frozenset({float, int, type(None)})
_TEXT_OR_NONE = frozenset({str, type(None)})
_LARGEST = float(np.finfo(np.float64).max)  # a limit that only infinity passes


class Plan:
    """How rows of one version are read.

    Args:
        inputs: The manifest's inputs, whose order is that of the rows.
    """

    def __init__(self, inputs: Sequence[InputField]) -> None:
        self.inputs = tuple(inputs)
        self.positions = {field.name: position for position, field in enumerate(inputs)}
        self._names = tuple(self.positions)
        self._taken = tuple(TAKEN[field.type] for field in inputs)
        self._texts = [field for field in inputs if field.type is FieldType.STRING]
        self._numbers = [
            place for place, field in enumerate(inputs) if field.type in {FieldType.DOUBLE, FieldType.LONG}
        ]
        # Truth values in JSON are of another type than numbers; few models take any.
        self._short = len(self._numbers) + len(self._texts) == len(inputs) and bool(self._numbers)
        self._all_numbers = not self._texts
        self._width = len(inputs)
        self._values = _getter([inputs[place].name for place in self._numbers])
        asked = [inputs[place] for place in self._numbers]
        self._minimum = tuple(-_LARGEST if field.minimum is None else field.minimum for field in asked)
        self._maximum = tuple(_LARGEST if field.maximum is None else field.maximum for field in asked)
        self._whole = tuple(place for place, field in enumerate(asked) if field.type is FieldType.LONG)
        self._packed = struct.Struct(f"={len(asked)}d")
        self._required = np.array([field.required for field in asked], dtype=np.bool_)

    def of_records(self, records: Sequence[Any]) -> Rows | None:
        """Rows of JSON objects that name every input and nothing else."""
        if not self._short:
            return None
        try:
            rows = [self._values(record) for record in records]
            texts = {field.name: [record[field.name] for record in records] for field in self._texts}
        except (KeyError, TypeError, IndexError):
            return None
        # Each has every input: where one has more, the sum is too large.
        if sum(map(len, records)) != self._width * len(rows):
            return None
        return self._rows(rows, texts)

    def of_table(self, names: Sequence[str], rows: Sequence[Any]) -> Rows | None:
        """Rows of lists whose columns are named once."""
        if not self._short or not self._all_numbers or tuple(names) != self._names:
            return None
        width = len(names)
        if not all(type(row) is list and len(row) == width for row in rows):
            return None
        return self._rows(rows, {})

    def of_tensors(self, tensors: Any) -> Rows | None:
        """Rows of an ``infer`` request's tensors in JSON: one flat tensor per input, all of them."""
        if not self._short or type(tensors) is not list or len(tensors) != len(self.inputs):
            return None
        columns: list[list[Any] | None] = [None] * len(tensors)
        positions, taken, count = self.positions, self._taken, -1
        try:
            for tensor in tensors:
                place, data = positions[tensor["name"]], tensor["data"]
                if tensor["datatype"] not in taken[place] or type(data) is not list:
                    return None
                if count < 0:
                    count, shapes = len(data), ([len(data)], [len(data), 1])
                if tensor["shape"] not in shapes or len(data) != count or "parameters" in tensor:
                    return None
                columns[place] = data
        except (KeyError, TypeError):
            return None
        if None in columns:  # one was given twice
            return None
        texts = {field.name: columns[self.positions[field.name]] for field in self._texts}
        numbers = [columns[place] for place in self._numbers]
        return self._rows(list(zip(*numbers, strict=True)), texts)

    def of_doubles(self, tensors: Any, content: bytes | memoryview) -> Rows | None:
        """Rows of an ``infer`` request's tensors in binary: FP64 throughout, one per input, all of them."""
        if not self._short or not self._all_numbers or type(tensors) is not list:
            return None
        width = len(self.inputs)
        count, rest = divmod(len(content), 8 * width)
        if rest or not count or len(tensors) != width:
            return None
        shapes, parameters = ([count], [count, 1]), {"binary_data_size": 8 * count}
        try:
            places = [self.positions[tensor["name"]] for tensor in tensors]
            for tensor in tensors:
                if (
                    tensor["datatype"] != "FP64"
                    or tensor["shape"] not in shapes
                    or tensor["parameters"] != parameters
                    or "data" in tensor
                ):
                    return None
        except (KeyError, TypeError):
            return None
        if len(set(places)) != width or any("FP64" not in self._taken[place] for place in places):
            return None
        numbers = np.empty((count, width))
        numbers[:, places] = np.frombuffer(content, dtype="<f8").reshape(width, count).T
        return self.of_numbers(numbers)

    def of_columns(self, columns: Mapping[str, NDArray]) -> Rows:
        """Rows of checked columns, as :mod:`serving.validation` makes them; an absent optional one is missing."""
        count = len(next(iter(columns.values())))
        matrix = np.full((count, len(self.inputs)), np.nan)
        texts: dict[str, list[str | None]] = {}
        for place, field in enumerate(self.inputs):
            column = columns.get(field.name)
            if field.type is FieldType.STRING:
                texts[field.name] = [None] * count if column is None else column.tolist()
            elif column is not None:
                matrix[:, place] = column
        return Rows(matrix, texts)

    def of_numbers(self, numbers: NDArray[np.float64]) -> Rows | None:
        """Rows of a matrix (n, n_inputs) in the order of the inputs, where all of those are numbers."""
        if not self._short or not self._all_numbers:
            return None
        if len(numbers) == 1 and (one := self._one(numbers[0].tolist())) is not None:
            return Rows(one)
        return Rows(numbers) if self._fit(numbers) else None

    def _rows(self, rows: Sequence[Sequence[Any]], texts: Mapping[str, Any]) -> Rows | None:
        """Check n tuples of numbers, and strings by input."""
        for field in self._texts:
            values = texts[field.name]
            if not set(map(type, values)) <= _TEXT_OR_NONE or (field.required and None in values):
                return None
        numbers = self._one(rows[0]) if len(rows) == 1 else self._several(rows)
        if numbers is None:
            return None
        if self._all_numbers:
            return Rows(numbers)
        matrix = np.full((len(rows), len(self.inputs)), np.nan)
        matrix[:, self._numbers] = numbers
        return Rows(matrix, texts)

    def _one(self, row: Sequence[Any]) -> NDArray[np.float64] | None:
        """One row, shape (1, n_numbers). For so few values the interpreter is faster than NumPy."""
        if not set(map(type, row)) <= _NUMBERS:
            return self._several([row])
        if not (all(map(le, self._minimum, row)) and all(map(le, row, self._maximum))):
            return None
        for place in self._whole:
            if row[place] % 1:
                return None
        return np.frombuffer(self._packed.pack(*row)).reshape(1, -1)

    def _several(self, rows: Sequence[Sequence[Any]]) -> NDArray[np.float64] | None:
        """Shape (n, n_numbers)."""
        if not set(map(type, chain.from_iterable(rows))) <= _NUMBERS_OR_NONE or not rows:
            return None
        try:
            numbers = np.array(rows, dtype=np.float64)
        except OverflowError:  # an integer beyond the largest double
            return None
        # NaN itself is no JSON, though some clients write it: only null is missing there.
        if np.isnan(numbers).sum() != sum(row.count(None) for row in rows):
            return None
        return numbers if self._fit(numbers) else None

    def _fit(self, numbers: NDArray[np.float64]) -> bool:
        """Whether all are in range, whole where they should be, and there where they must be."""
        with np.errstate(invalid="ignore"):
            if (numbers < self._minimum).any() or (numbers > self._maximum).any():
                return False
            absent = np.isnan(numbers)
            if (absent & self._required).any():
                return False
            whole = numbers[:, self._whole]
            return bool(((whole == np.trunc(whole)) | absent[:, self._whole]).all())


def _getter(names: Sequence[str]) -> Callable[[Any], Sequence[Any]]:
    """The values of these keys, as a tuple."""
    if len(names) == 1:
        (name,) = names
        return lambda record: (record[name],)
    return itemgetter(*names) if names else lambda record: ()


def seconds_per_row(export: Export, plan: Plan) -> tuple[float, float]:
    """What one row alone costs, and each row of a batch: the least of a few runs over the stored sample."""
    fields, sample = plan.inputs, export.sample.rows
    rows = plan.of_columns(
        {field.name: to_column(field, [row.get(field.name) for row in sample]) for field in fields}
    )
    first = Rows(rows.matrix[:1], {name: texts[:1] for name, texts in rows.texts.items()})
    return _least_seconds(export, first), _least_seconds(export, rows) / len(rows)


def _least_seconds(export: Export, rows: Rows, runs: int = 5) -> float:
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        export.predictor.predict_rows(rows)
        took.append(time.perf_counter() - began)
    return min(took)
