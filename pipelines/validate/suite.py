"""Great Expectations suites, made from a data set's contract.

Two suites: one over the rows, whose failures send single rows to quarantine, and one over a
one-row summary of the batch, whose failures stop the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from feature_repo.datasets import Column, ColumnRole, ColumnType, Dataset
from pipelines.ingest.steps import UNPARSED

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations import Expectation

SLICE_END = "slice_end"

# Columns of the summary.
ROWS = "rows"
QUARANTINED_SHARE = "quarantined_share"
DUPLICATE_SHARE = "duplicate_share"
MISSING_SHARE = "missing_share_of_"


def row_suite(dataset: Dataset) -> ExpectationSuite:
    """What each row must be: complete, within limits, parsed, unique by key, not from the future.

    Frames to validate have the data set's columns, ``unparsed`` and ``slice_end``.
    """
    import great_expectations as gx
    import great_expectations.expectations as gxe

    expectations: list[Expectation] = [
        expectation for column in dataset.columns for expectation in _of_column(column)
    ]
    expectations += [
        gxe.ExpectColumnValuesToBeNull(column=UNPARSED, severity="warning"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=list(dataset.key), severity="warning")
        if len(dataset.key) > 1
        else gxe.ExpectColumnValuesToBeUnique(column=dataset.key[0], severity="warning"),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A=SLICE_END,
            column_B=dataset.event_time,
            or_equal=True,
            ignore_row_if="either_value_is_missing",
            severity="warning",
        ),
    ]
    return gx.ExpectationSuite(name=f"{dataset.name}_rows", expectations=expectations)


def batch_suite(dataset: Dataset, rows: int) -> ExpectationSuite:
    """What a batch must be as a whole, over its summary of one row.

    Args:
        dataset: Its ``limits`` are the bounds.
        rows: Size of the batch; the shares of a small one are judged only where they are 1.
    """
    import great_expectations as gx
    import great_expectations.expectations as gxe

    limits = dataset.limits
    small = rows < limits.judged_from_rows

    def at_most(column: str, share: float) -> Expectation:
        return gxe.ExpectColumnValuesToBeBetween(
            column=column, max_value=1.0 if small else share, strict_max=small, severity="critical"
        )

    expectations = [
        gxe.ExpectColumnValuesToBeBetween(column=ROWS, min_value=limits.min_rows, severity="critical")
    ]
    if rows:
        expectations.append(at_most(QUARANTINED_SHARE, limits.max_quarantined_share))
    if not small:
        expectations.append(at_most(DUPLICATE_SHARE, limits.max_duplicate_share))
        expectations += [
            gxe.ExpectColumnValuesToBeBetween(
                column=MISSING_SHARE + column.name,
                max_value=limits.max_missing_share
                if column.role is ColumnRole.GAUGE and column.nullable
                else 1.0,
                # A column of which each value is missing was not sent at all.
                strict_max=column.role is not ColumnRole.GAUGE or not column.nullable,
                severity="critical",
            )
            for column in judged_columns(dataset)
        ]
    return gx.ExpectationSuite(name=f"{dataset.name}_batch", expectations=expectations)


def judged_columns(dataset: Dataset) -> tuple[Column, ...]:
    """Columns whose missing values are counted: gauges, counters, and what may not be missing."""
    measured = (ColumnRole.GAUGE, ColumnRole.COUNTER)
    return tuple(column for column in dataset.columns if column.role in measured or not column.nullable)


def _of_column(column: Column) -> Iterator[Expectation]:
    import great_expectations.expectations as gxe

    if not column.nullable:
        yield gxe.ExpectColumnValuesToNotBeNull(column=column.name, severity="warning")
    is_number = column.type in {ColumnType.FLOAT, ColumnType.INTEGER}
    if is_number and not (column.minimum is None and column.maximum is None):
        yield gxe.ExpectColumnValuesToBeBetween(
            column=column.name, min_value=column.minimum, max_value=column.maximum, severity="warning"
        )
    if column.allowed is not None:
        yield gxe.ExpectColumnValuesToBeInSet(
            column=column.name, value_set=list(column.allowed), severity="warning"
        )
