"""One row of the table of figures, and the table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        model: Name in the catalogue.
        data: Data set, and which part of it.
        metric: With its unit, and whether lower or higher is better where that is not plain.
        baseline: The naive figure on the same rows of the same run; None: there is none.
        ours: The model's figure.
        coverage: Share of truths in the interval where there is one, else None.
        target: What the issue asks for, in words; empty: no target.
        reached: Whether the target is met; None where there is no target.
        seconds: Wall time of fitting and answering behind the figure.
        note: What the baseline is, the interval of the difference, and the like.
    """

    model: str
    data: str
    metric: str
    baseline: float | None
    ours: float
    seconds: float
    coverage: float | None = None
    target: str = ""
    reached: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the baseline."""
        return self.ours / self.baseline if self.baseline else None


def markdown(rows: Iterable[Row]) -> str:
    """The table, in the order of the rows."""
    lines = [
        "| model | data | metric | baseline | ours | ratio | coverage | target | reached | seconds | note |",
        "|---|---|---|---:|---:|---:|---:|---|---|---:|---|",
    ]
    for row in rows:
        reached = {None: "", True: "yes", False: "**no**"}[row.reached]
        cells = [
            row.model,
            row.data,
            row.metric,
            _figure(row.baseline),
            _figure(row.ours),
            _figure(row.ratio),
            _figure(row.coverage),
            row.target,
            reached,
            f"{row.seconds:.0f}",
            row.note,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
