"""ingest_<dataset>: rows of a window into the lake, sifted; one DAG per data set of the configured source."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, dag, get_current_context, task

from dags.defaults import LOOK_BACK_SLICES, schedule, task_defaults, window_form, window_params
from feature_repo.datasets import Dataset
from pipelines.references import Layer
from pipelines.settings import load_settings
from pipelines.sources.profile import SourceProfile, load_profile

MANUAL = """
**{description}**

Appends the rows that arrived in the window to `raw`, exactly once however often this is run, and sifts them:
good rows to `clean`, the others to `quarantine` with the reason. A batch that is broken as a whole stops the run;
the last lines of the log of *validate* say what and where.

Parameters: `window_start` and `window_end` (ISO dates, UTC, whole slices of {slice}; empty: the {look_back} slices before
the run).
"""


def ingest_dag(profile: SourceProfile, dataset: Dataset) -> DAG:
    clean = Asset(f"{dataset.name}_clean", uri=f"headrace://{profile.table(Layer.CLEAN, dataset.name)}")

    @dag(
        dag_id=f"ingest_{dataset.name}",
        description=dataset.description,
        schedule=schedule(dataset.schedule),
        catchup=False,
        max_active_runs=1,
        default_args=task_defaults("platform"),
        params=window_form(),
        doc_md=MANUAL.format(
            description=dataset.description, slice=dataset.slice, look_back=LOOK_BACK_SLICES
        ),
        tags=["ingest", profile.name],
    )
    def chain() -> None:
        @task
        def window() -> dict[str, str]:
            context = get_current_context()
            return window_params(
                context["params"],
                context["dag_run"].run_after,
                LOOK_BACK_SLICES * dataset.slice,
                dataset.slice,
            )

        @task
        def ingest(window: dict[str, str]) -> dict[str, Any]:
            from pipelines.ingest import job
            from pipelines.references import Window

            settings = load_settings()
            return job.run(
                settings.source, dataset.name, Window.parse(window["start"], window["end"]), settings
            ).to_xcom()

        @task(outlets=[clean])
        def validate(ingested: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import IngestRef
            from pipelines.validate import job

            return job.run(IngestRef.from_xcom(ingested), load_settings()).to_xcom()

        validate(ingest(window()))

    return chain()


_profile = load_profile(load_settings().source)
for _dataset in _profile.datasets:
    globals()[f"ingest_{_dataset.name}"] = ingest_dag(_profile, _dataset)
