"""The newest check of each model as Prometheus gauges, in files that a text collector reads.

One file per model in ``$HEADRACE_HOME/metrics``, replaced as a whole: the exposition format that the node
exporter's textfile collector takes, and that the server adds to its own ``/metrics``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipelines.monitor.records import Cause, Check

if TYPE_CHECKING:
    from pipelines.monitor.drift import Finding
    from pipelines.settings import Settings

_HELP = {
    "headrace_monitor_check_timestamp_seconds": "End of the newest checked window, Unix time.",
    "headrace_monitor_newest_row_timestamp_seconds": "Newest feature row in the window, Unix time.",
    "headrace_monitor_drift_score": "Share of tested columns that drifted, weighted by importance.",
    "headrace_monitor_tested_columns": "Columns with enough data.",
    "headrace_monitor_drifted_columns": "Columns that drifted.",
    "headrace_monitor_important_drifted_columns": "Drifted columns of at least mean importance.",
    "headrace_monitor_skewed_features": "Features that were served otherwise than the offline store has them.",
    "headrace_monitor_alarm": "1: somebody should look.",
    "headrace_monitor_cause": "1 for what the newest check found.",
    "headrace_monitor_broken_findings": "Findings of broken data.",
    "headrace_monitor_quality": "Metric of the task over labelled predictions, or as estimated before labels.",
    "headrace_monitor_estimate_error": "Of the newest estimate that labels caught up with: estimated less realised.",
    "headrace_monitor_quality_rows": "Predictions behind the realised quality.",
    "headrace_monitor_column_adjusted_p_value": "Of drifted columns, Benjamini-Hochberg.",
}


def folder(settings: Settings) -> Path:
    return settings.home / "metrics"


def write(check: Check, features: Sequence[Finding], settings: Settings) -> Path:
    """Replace the model's file."""
    place = folder(settings)
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"monitor_{quote(check.registered_name, safe='')}.prom"
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(text(check, features), "utf-8")
    part.replace(path)
    return path


def text(check: Check, features: Sequence[Finding] = ()) -> str:
    """The gauges in Prometheus' text format."""
    label = {"model": check.registered_name, "version": check.version}
    rows: list[tuple[str, dict[str, str], float | None]] = [
        ("headrace_monitor_check_timestamp_seconds", label, check.window.end.timestamp()),
        (
            "headrace_monitor_newest_row_timestamp_seconds",
            label,
            check.newest_row.timestamp() if check.newest_row else None,
        ),
        ("headrace_monitor_drift_score", label, check.drift_score),
        ("headrace_monitor_tested_columns", label, check.tested),
        ("headrace_monitor_drifted_columns", label, len(check.drifted)),
        ("headrace_monitor_important_drifted_columns", label, check.important),
        ("headrace_monitor_skewed_features", label, len(check.skewed)),
        ("headrace_monitor_alarm", label, float(check.alarm)),
        ("headrace_monitor_broken_findings", label, len(check.broken)),
        ("headrace_monitor_quality_rows", label, check.realised.rows),
        *(
            ("headrace_monitor_cause", label | {"cause": cause.value}, float(check.cause is cause))
            for cause in Cause
        ),
        *_quality(check, label),
        *(
            (
                "headrace_monitor_estimate_error",
                label | {"metric": each.metric},
                each.estimated - each.realised,
            )
            for each in check.scored
        ),
        *(
            ("headrace_monitor_column_adjusted_p_value", label | {"column": each.column}, each.adjusted)
            for each in features
            if each.drifted
        ),
    ]
    return "\n".join(_lines(rows)) + "\n"


def _quality(check: Check, label: dict[str, str]) -> Iterable[tuple[str, dict[str, str], float | None]]:
    for kind, figures in (("realised", check.realised), ("estimated", check.estimated)):
        for name, value in figures.values.items():
            yield "headrace_monitor_quality", label | {"kind": kind, "metric": name}, value


def _lines(rows: Iterable[tuple[str, dict[str, str], float | None]]) -> Iterable[str]:
    """Rows of one metric stand together, below what it is."""
    kept = [row for row in rows if row[2] is not None]
    for name in dict.fromkeys(row[0] for row in kept):
        yield f"# HELP {name} {_HELP[name]}"
        yield f"# TYPE {name} gauge"
        for other, labels, value in kept:
            if other == name:
                inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
                yield f"{name}{{{inside}}} {value!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
