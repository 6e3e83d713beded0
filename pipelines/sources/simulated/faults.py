"""How rows get lost, late, doubled and broken between a machine and the lake, as real ones do.

A row's fate hangs on what the row is, never on when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import polars as pl

from pipelines.sources.simulated.fleet import DAY
from pipelines.sources.simulated.randomness import Bools, Floats, Ints, Randomness
from pipelines.sources.simulated.telemetry import SAMPLES, STEP

# Hidden columns of a delivered frame; the source takes them off.
ARRIVAL = "_arrival"  # seconds since 1970
BROKEN_COLUMN = "_broken_column"  # name of the one column that holds text where a number belongs
BROKEN_TEXT = "_broken_text"

LONGEST_DELAY = 46 * 3_600  # a copy may come an hour after; all have come within 2 days
DAYS_LATE = 2
_COPY_DELAYS = np.array([0, 60, 300, 3_600])


T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """One way in which a row can be broken."""

    kind: Literal["text", "value", "future", "no_entity", "conflict"]
    column: str = ""
    value: float = 0.0  # value: what stands there; conflict: factor that the second row differs by
    text: str = ""


@dataclass(frozen=True)
class Habits:
    """What goes wrong with the rows of a data set: shares of rows, and the ways to be broken."""

    late: float
    duplicated: float
    broken: float
    faults: tuple[Fault, ...]
    lost: float = 0.0
    incomplete: float = 0.0  # one number is missing


@dataclass(frozen=True)
class Table:
    """Rows of a data set before delivery.

    ``columns`` are arrays of shape (rows,): numbers, times in seconds since 1970, and for the
    columns in ``labels`` the place of their text there (-1: none).
    """

    columns: dict[str, Floats | Ints]
    labels: dict[str, tuple[str, ...]]
    integers: tuple[str, ...]
    entity: str
    identity: tuple[Ints, ...]  # what a row's random numbers hang on
    delay: Ints | None = None  # seconds that rows are held back already

    @property
    def numbers(self) -> list[str]:
        return [name for name in self.columns if name not in self.labels and name != "event_time"]


def deliver(table: Table, habits: Habits, name: str, randomness: Randomness) -> pl.DataFrame:
    """The rows as they come, with the hidden columns; in no order of time."""
    fate = randomness.uniform(f"fate/{name}", *table.identity)
    borders = np.cumsum([habits.broken, habits.duplicated, habits.late, habits.lost, habits.incomplete])
    broken, duplicated, late, lost, incomplete = (
        np.flatnonzero((fate >= low) & (fate < high))
        for low, high in zip([0.0, *borders], borders, strict=False)
    )

    def drawn(stream: str, rows: Ints) -> Floats:
        return randomness.uniform(f"{stream}/{name}", *(values[rows] for values in table.identity))

    columns: dict[str, Floats | Ints] = {column: values.copy() for column, values in table.columns.items()}
    times = table.columns["event_time"].astype(np.int64)
    arrival = times + (0 if table.delay is None else table.delay)
    # From five minutes to nearly two days, each order of magnitude as likely as the next.
    held = STEP * (LONGEST_DELAY / STEP) ** drawn("delay", late)
    arrival[late] = np.maximum(arrival[late], times[late] + held.astype(np.int64))
    for column, rows in _by_choice(table.numbers, drawn("incomplete", incomplete), incomplete):
        columns[column][rows] = np.nan

    which = _by_choice(list(habits.faults), drawn("fault", broken), broken)
    text_of = np.full(len(fate), -1)
    conflicts = []
    for place, (fault, rows) in enumerate(which):
        match fault.kind:
            case "text":
                text_of[rows] = place
            case "value":
                columns[fault.column][rows] = fault.value
            case "future":
                # A clock that is months ahead: beyond the end of any window that one trains on.
                columns["event_time"][rows] += (100 + 300 * drawn("future", rows)).astype(np.int64) * DAY
            case "no_entity":
                columns[table.entity][rows] = -1
            case "conflict":
                conflicts.append((fault, rows))

    frame = _frame(table, columns, arrival).with_columns(
        _labels(text_of, [fault.column for fault, _ in which]).alias(BROKEN_COLUMN),
        _labels(text_of, [fault.text for fault, _ in which]).alias(BROKEN_TEXT),
    )
    later = pl.lit(_COPY_DELAYS[(drawn("copy", duplicated) * len(_COPY_DELAYS)).astype(np.int64)])
    extras = [frame[duplicated].with_columns(pl.col(ARRIVAL) + later)]
    for fault, rows in conflicts:
        other = (pl.col(fault.column) * fault.value).round(3).cast(frame.schema[fault.column])
        extras.append(frame[rows].with_columns(other, pl.col(ARRIVAL) + STEP))
    kept = np.ones(len(fate), dtype=bool)
    kept[lost] = False
    return pl.concat([frame.filter(pl.Series(kept)), *extras])


def collection_gaps(numbers: Ints, day: int, randomness: Randomness) -> tuple[Bools, Ints]:
    """What an unreliable collector does to a day of samples.

    Returns:
        Which samples are lost, and by how many seconds they are late; both (machines, 288).
        Samples held back by one fault come together.
    """
    sample = np.arange(SAMPLES)[None, :]
    spans = {}
    for kind, share, longest in (("lost", 0.18, 12), ("held", 0.08, 10)):
        happens = randomness.uniform(f"gap/{kind}", numbers, day) < share
        first = randomness.choice(SAMPLES, f"gap/{kind}/first", numbers, day)
        length = happens * (1 + randomness.choice(longest, f"gap/{kind}/length", numbers, day))
        spans[kind] = (first[:, None], np.minimum(first + length, SAMPLES)[:, None])
    lost, held = ((sample >= first) & (sample < end) for first, end in spans.values())
    end = spans["held"][1]
    wait = (30 ** randomness.uniform("gap/held/wait", numbers, day) * 3_600).astype(np.int64)[:, None]
    return lost, np.where(held, (end - sample) * STEP + wait, 0)


def _by_choice(options: list[T], drawn: Floats, rows: Ints) -> list[tuple[T, Ints]]:
    chosen = (drawn * len(options)).astype(np.int64)
    return [(option, rows[chosen == place]) for place, option in enumerate(options)]


def _frame(table: Table, columns: dict[str, Floats | Ints], arrival: Ints) -> pl.DataFrame:
    series = []
    for name, values in columns.items():
        if name in table.labels:
            series.append(_labels(values, list(table.labels[name])).alias(name))
        elif name == "event_time":
            series.append((pl.Series(name, values) * 1_000_000).cast(pl.Datetime("us", "UTC")))
        else:
            numbers = pl.Series(name, values, dtype=pl.Float64).fill_nan(None)
            series.append(numbers.cast(pl.Int64) if name in table.integers else numbers)
    return pl.DataFrame([*series, pl.Series(ARRIVAL, arrival, dtype=pl.Int64)])


def _labels(places: Floats | Ints, texts: list[str]) -> pl.Series:
    # Place 0 stands for none.
    known = pl.Series([None, *texts], dtype=pl.String)
    return known.gather(pl.Series(places, dtype=pl.Int64) + 1)
