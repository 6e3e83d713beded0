"""The batch as a whole: what is counted over it, and what is said when it stops the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from feature_repo.datasets import Dataset
from pipelines.ingest.steps import ROW_IDENTITY
from pipelines.validate.steps import REASONS, in_words
from pipelines.validate.suite import DUPLICATE_SHARE, MISSING_SHARE, QUARANTINED_SHARE, ROWS, judged_columns

if TYPE_CHECKING:
    from pipelines.validate.checkpoint import Failure

_EXAMPLES = 3
_EXPECTATIONS = 5


class Tally:
    """Counts over the chunks of one batch, and some of its rows as examples."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.rows = 0
        self.broken = 0
        self.duplicates = 0
        self._missing: Counter[str] = Counter()
        self._findings: Counter[tuple[str, str | None]] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(
        self, rows: pl.DataFrame, findings: pl.DataFrame, broken: pl.DataFrame, duplicates: pl.DataFrame
    ) -> None:
        """Count one chunk: its rows, and what :mod:`pipelines.validate.steps` found in it."""
        self.rows += rows.height
        self.broken += broken.height
        self.duplicates += duplicates.height
        for expectation, column, count in findings.group_by("expectation", "column").len().iter_rows():
            self._findings[expectation, column] += count
        self._keep(QUARANTINED_SHARE, rows, broken)
        self._keep(DUPLICATE_SHARE, rows, duplicates)
        self._keep(ROWS, rows, rows)
        for column in judged_columns(self._dataset):
            lacking = rows.filter(pl.col(column.name).is_null())
            self._missing[column.name] += lacking.height
            self._keep(MISSING_SHARE + column.name, rows, lacking)

    @classmethod
    def together(cls, tallies: Sequence[Tally]) -> Tally:
        """The counts of several parts of one batch as of one."""
        whole = cls(tallies[0]._dataset)
        for each in tallies:
            whole.rows += each.rows
            whole.broken += each.broken
            whole.duplicates += each.duplicates
            whole._missing.update(each._missing)
            whole._findings.update(each._findings)
            for kind, rows in each._examples.items():
                kept = whole._examples.setdefault(kind, [])
                kept += rows[: _EXAMPLES - len(kept)]
        return whole

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "rows": self.rows,
            "broken": self.broken,
            "duplicates": self.duplicates,
            "missing": dict(self._missing),
            "findings": [[*about, count] for about, count in self._findings.items()],
            "examples": self._examples,
        }

    @classmethod
    def of_dict(cls, dataset: Dataset, told: dict[str, Any]) -> Tally:
        """What :meth:`to_dict` made."""
        tally = cls(dataset)
        tally.rows, tally.broken, tally.duplicates = told["rows"], told["broken"], told["duplicates"]
        tally._missing.update(told["missing"])
        tally._findings.update({(name, column): count for name, column, count in told["findings"]})
        tally._examples = {kind: list(rows) for kind, rows in told["examples"].items()}
        return tally

    def summary(self) -> pl.DataFrame:
        """One row: ``rows``, the shares of broken and duplicate rows, and of missing values."""
        rows = max(self.rows, 1)
        return pl.DataFrame(
            {
                ROWS: [self.rows],
                QUARANTINED_SHARE: [self.broken / rows],
                DUPLICATE_SHARE: [self.duplicates / rows],
            }
            | {
                MISSING_SHARE + column.name: [self._missing[column.name] / rows]
                for column in judged_columns(self._dataset)
            }
        )

    def explain(self, failures: list[Failure], where: str, docs_url: str) -> str:
        """The message of a batch that is broken as a whole, for the last lines of a log."""
        lines = [f"{where}: the batch is broken as a whole, none of its {self.rows:,} rows was let through."]
        shown: set[str] = set()
        for failure in failures:
            lines.append(
                f"  {failure.expectation}({failure.column}{_bounds(failure)}): {self._count(failure.column)}"
            )
            if failure.column == QUARANTINED_SHARE:
                lines += self._most_frequent()
        for failure in failures:
            for example in self._examples.get(failure.column, ()):
                if example not in shown and len(shown) < _EXAMPLES:
                    shown.add(example)
                    lines.append(f"  row: {example}")
        lines.append(f"Data Docs: {docs_url}")
        lines.append(
            "What to do (docs/data-quality.md, 'A batch was stopped'): if the source sent what it should not, mend it "
            "and read the window again (headrace reload); if these rows are as they should be, change the "
            f"columns or limits of {self._dataset.name} in the source's profile. Then run this step again."
        )
        return "\n".join(lines)

    def _keep(self, kind: str, rows: pl.DataFrame, concerned: pl.DataFrame) -> None:
        kept = self._examples.setdefault(kind, [])
        wanted = concerned.head(_EXAMPLES - len(kept))
        if wanted.is_empty():
            return
        whole = wanted if REASONS not in wanted.columns else rows.join(wanted, on=ROW_IDENTITY, how="inner")
        for row in whole.sort(ROW_IDENTITY).iter_rows(named=True):
            because = "; ".join(row.get(REASONS) or ())
            kept.append(in_words(row, self._dataset) + (f" -> {because}" if because else ""))

    def _count(self, column: str) -> str:
        if column == ROWS:
            return f"the batch has {self.rows:,} rows"
        counts = {
            QUARANTINED_SHARE: (self.broken, "are broken"),
            DUPLICATE_SHARE: (self.duplicates, "are duplicates"),
        }
        name = column.removeprefix(MISSING_SHARE)
        count, what = counts.get(column, (self._missing[name], f"have no value of {name}"))
        return f"{count:,} of {self.rows:,} rows ({count / self.rows:.1%}) {what}"

    def _most_frequent(self) -> list[str]:
        return [
            f"    {expectation}({column or 'several columns'}): {count:,} rows"
            for (expectation, column), count in self._findings.most_common(_EXPECTATIONS)
        ]


def _bounds(failure: Failure) -> str:
    texts = []
    if "min_value" in failure.bounds:
        texts.append(f" >= {failure.bounds['min_value']:g}")
    if "max_value" in failure.bounds:
        strictly = "<" if failure.bounds.get("strict_max") else "<="
        texts.append(f" {strictly} {failure.bounds['max_value']:g}")
    return "".join(texts)
