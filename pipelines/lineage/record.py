"""Where a version came from: one record per version, written by train, never changed.

The record is logged with the training run before the version is registered, and copied from there
into the lake's table of all records under the version's number. A process that is killed in
between leaves a record that the next run of the same work copies.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import Field, ValidationError

from feature_repo.datasets import Frozen
from pipelines.errors import LineageError
from pipelines.lineage.code import Code, Environment, code, environment
from pipelines.references import SnapshotRef, StudyRef, Window

if TYPE_CHECKING:
    from pipelines.adapters.lake import Lake
    from pipelines.settings import Settings
    from pipelines.snapshot.job import SnapshotManifest

#: Artifact of a training run.
ARTIFACT = "lineage.json"
TABLE = "lineage/versions"


class DagRun(Frozen):
    """The run of a DAG that trained."""

    dag_id: str
    run_id: str


class Training(Frozen):
    """All that a training took."""

    model: str
    registered_name: str
    trained_at: datetime
    run_id: str
    snapshot: SnapshotRef
    window: Window
    grid: str | None
    tables: dict[str, int] = Field(
        description="Version of each lake table that the snapshot read, by its path."
    )
    features: dict[str, str] = Field(description="View of each input; empty for what the caller gives.")
    study: str
    params: dict[str, float | int | str | bool]
    seed: int
    code: Code
    environment: Environment
    dag_run: DagRun | None


class Lineage(Frozen):
    """A registered version, and the training that it came from."""

    version: str
    training: Training

    @property
    def registered_name(self) -> str:
        return self.training.registered_name


def of_training(
    registered_name: str, manifest: SnapshotManifest, snapshot: SnapshotRef, study: StudyRef
) -> Training:
    """The record of a training that runs in this process."""
    return Training(
        model=manifest.model,
        registered_name=registered_name,
        trained_at=datetime.now(UTC),
        run_id=study.run_id,
        snapshot=snapshot,
        window=manifest.window,
        grid=manifest.spec.grid,
        tables=manifest.table_versions,
        features={field.name: manifest.feature_views.get(field.name, "") for field in manifest.inputs},
        study=study.study,
        params=study.best_params,
        seed=manifest.seed,
        code=code(),
        environment=environment(),
        dag_run=dag_run(),
    )


def keep(lake: Lake, lineage: Lineage) -> bool:
    """Add a version's record once; returns whether it was added now."""
    import polars as pl

    row = pl.DataFrame(
        {
            "registered_name": [lineage.registered_name],
            "version": [lineage.version],
            "record": [lineage.model_dump_json()],
        }
    )
    work = f"lineage:{lineage.registered_name}:{lineage.version}:{lineage.training.run_id}"
    return lake.append(TABLE, row, work=[work]).rows_added > 0


def keep_from_run(settings: Settings, version: str, run_id: str) -> bool:
    """Copy the record that training logged with its run under the version's number.

    Returns:
        Whether it was added now. Also False where the run has none: code trained it that kept none.
    """
    import mlflow

    from pipelines.adapters import tracking
    from pipelines.adapters.lake import Lake

    client = tracking.client(settings)
    if ARTIFACT not in {found.path for found in client.list_artifacts(run_id)}:
        return False
    training = Training.model_validate_json(mlflow.artifacts.load_text(f"runs:/{run_id}/{ARTIFACT}"))
    return keep(Lake.of(settings), Lineage(version=version, training=training))


def read(lake: Lake, registered_name: str | None = None) -> list[Lineage]:
    """All records, or those of one model, in the order of training.

    Raises:
        LineageError: a record cannot be read.
    """
    import polars as pl

    if not lake.exists(TABLE):
        return []
    rows = lake.scan(TABLE)
    if registered_name is not None:
        rows = rows.filter(pl.col("registered_name") == registered_name)
    try:
        found = [Lineage.model_validate_json(text) for text in rows.collect()["record"]]
    except ValidationError as error:
        raise LineageError(f"{lake.address(TABLE)} holds a record that cannot be read: {error}") from error
    return sorted(found, key=lambda lineage: lineage.training.trained_at)


def find(lake: Lake, registered_name: str, version: str) -> Lineage:
    """The record of one version.

    Raises:
        LineageError: there is none.
    """
    known = read(lake, registered_name)
    for lineage in known:
        if lineage.version == version:
            return lineage
    versions = [lineage.version for lineage in known]
    raise LineageError(
        f"no lineage of version {version} of {registered_name}; there is that of {versions or 'none'}. Versions that "
        "`headrace train` or train_<model> registers have one; others were registered by other means"
    )


def dag_run() -> DagRun | None:
    """The DAG run that this process works for: Airflow tells a task in its environment."""
    dag_id, run_id = os.environ.get("AIRFLOW_CTX_DAG_ID"), os.environ.get("AIRFLOW_CTX_DAG_RUN_ID")
    return DagRun(dag_id=dag_id, run_id=run_id) if dag_id and run_id else None


def dag_run_page(settings: Settings) -> str:
    """Its page in Airflow; empty: this process works for none."""
    ran = dag_run()
    if ran is None:
        return ""
    return f"{settings.airflow}/dags/{quote(ran.dag_id, safe='')}/runs/{quote(ran.run_id, safe='')}"
