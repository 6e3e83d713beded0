"""What people look at: an Evidently report of the check, on the MLflow run and in Evidently's own pages.

Evidently draws and shows; whether a column has drifted is the calibrated test's word, which the report
takes over column by column through a statistical test of that name. Its figures are of a sample of
at most :data:`ROWS` rows on each side, because drawing costs far more than testing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.monitor import gauges
from pipelines.monitor.records import Check

if TYPE_CHECKING:
    import polars as pl

    from pipelines.lineage.record import Training
    from pipelines.monitor.drift import Finding
    from pipelines.monitor.observe import Observed
    from pipelines.monitor.reference import Kept
    from pipelines.settings import Settings

ROWS = 2_000
COLUMNS = 50
METHOD = "calibrated"


def publish(
    check: Check,
    found: Mapping[str, Sequence[Finding]],
    kept: Kept,
    observed: Observed,
    training: Training,
    settings: Settings,
) -> str:
    """Draw the report, keep it on the training run and in the workspace, and set the gauges.

    Returns:
        Address of the HTML page on the MLflow run; empty where there was nothing to draw.
    """
    from pipelines.adapters import tracking
    from pipelines.snapshot.job import load

    gauges.write(check, found["features"], settings)
    shown = [finding for finding in found["features"] if finding.p_value is not None]
    shown = sorted(shown, key=lambda each: (not each.drifted, -each.importance))[:COLUMNS]
    if not shown or not observed.rows.height:
        return ""
    rows, _ = load(training.snapshot, settings)
    columns = [finding.column for finding in shown]
    snapshot = drawn(_sample(observed.rows, columns), _sample(rows, columns), shown)
    name = f"{check.registered_name}-{check.version}-{check.window.end:%Y-%m-%dT%H%M}Z"
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        page = Path(folder) / f"{name}.html"
        snapshot.save_html(str(page))
        client = tracking.client(settings)
        client.log_artifact(training.run_id, str(page), "monitor")
        experiment = client.get_run(training.run_id).info.experiment_id
    _to_workspace(snapshot, check, name, settings)
    return (
        f"{settings.tracking}/#/experiments/{experiment}/runs/{training.run_id}/artifacts/monitor/{name}.html"
    )


def history(checks: Sequence[Check], asks_from: float | None, run_id: str, settings: Settings) -> None:
    """The drift of a version over its checks as one plot on its training run; nothing for a single check.

    Args:
        checks: Of one version, the newest last.
        asks_from: Drift score above which a training is asked for.
    """
    import numpy as np

    from models.profile_plots import drift_over_time
    from pipelines.adapters import tracking

    if len(checks) < 2:
        return
    figure = drift_over_time(
        np.array([check.window.end.replace(tzinfo=None) for check in checks], dtype="datetime64[us]"),
        np.array([np.nan if check.drift_score is None else check.drift_score for check in checks]),
        np.array([check.alarm for check in checks]),
        asks_from,
    )
    tracking.client(settings).log_figure(run_id, figure, "monitor/drift_over_time.png")


def drawn(current: pl.DataFrame, reference: pl.DataFrame, shown: Sequence[Finding]) -> Any:
    """An Evidently snapshot with one calibrated test per column.

    Args:
        current: Columns of ``shown``.
        reference: The same columns, of training.
    """
    import polars as pl
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    methods = {finding.column: _registered(finding) for finding in shown}
    texts = [finding.column for finding in shown if current.schema[finding.column] == pl.String]
    # Evidently cannot draw a column that has no values at all on one side.
    drawable = [name for name in methods if current[name].count() > 0 and reference[name].count() > 0]
    definition = DataDefinition(
        numerical_columns=[name for name in drawable if name not in texts],
        categorical_columns=[name for name in drawable if name in texts],
    )
    sides = [
        Dataset.from_pandas(side.select(drawable).to_pandas(), data_definition=definition)
        for side in (current, reference)
    ]
    report = Report(
        [
            DataDriftPreset(
                columns=drawable,
                per_column_method={name: methods[name] for name in drawable},
                per_column_threshold={finding.column: 1.0 for finding in shown if finding.column in drawable},
                drift_share=1e-9,  # the data set has drifted where any column has; not where half of them have
            ),
            DataSummaryPreset(columns=drawable[:10]),
        ]
    )
    return report.run(*sides)


def _registered(finding: Finding) -> str:
    """Name of a statistical test of Evidently's that says what the calibrated test said of this column."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    name = f"{METHOD}:{finding.column}"
    score = finding.adjusted if finding.adjusted is not None else 1.0

    def calibrated(reference: Any, current: Any, kind: Any, threshold: float) -> tuple[float, bool]:
        return score, finding.drifted

    test = StatTest(
        name=name,
        display_name=f"{METHOD} p-value: {finding.detail}",
        allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
        default_threshold=1.0,
    )
    register_stattest(test, calibrated)
    return name


def _sample(rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    some = rows.select(columns)
    return some.sample(ROWS, seed=0) if some.height > ROWS else some


def _to_workspace(snapshot: Any, check: Check, name: str, settings: Settings) -> None:
    """Add the report to the model's project, once: a rerun finds its mark."""
    from evidently.ui.workspace import Workspace

    folder = settings.evidently_workspace
    mark = folder / "shown" / name
    if mark.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    place = Workspace.create(str(folder))
    known = [project for project in place.list_projects() if project.name == check.registered_name]
    project = known[0] if known else place.create_project(check.registered_name, check.model)
    place.add_run(
        project.id,
        snapshot,
        name=f"version {check.version}, until {check.window.end:%Y-%m-%d %H:%M}Z: {check.cause.value}",
    )
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
