"""features_<source>: clean rows into the offline and the online store, so that entities can be predicted for."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, dag, get_current_context, task

from dags.defaults import DAY, schedule, task_defaults, window_form, window_params
from pipelines.settings import load_settings
from pipelines.sources.profile import SourceProfile, load_profile

MANUAL = """
Recomputes the feature rows of all grids that new clean rows of the window touch, late ones included, and publishes the
newest row of each entity to the online store. The server refuses to predict for an entity whose features are older than
their TTL (by grid: {ttl}); if it does, look here and at `ingest_<dataset>`.

Parameters: `window_start` and `window_end` (ISO dates, UTC; empty: the 24 hours before the run).
"""


def features_dag(profile: SourceProfile) -> DAG:
    @dag(
        dag_id=f"features_{profile.name}",
        description=f"Features of {profile.name}, offline and online.",
        schedule=schedule(profile.features_schedule),
        catchup=False,
        max_active_runs=1,
        default_args=task_defaults("platform"),
        params=window_form(),
        doc_md=MANUAL.format(ttl=", ".join(f"{name}: {grid.ttl}" for name, grid in profile.features.items())),
        tags=["features", profile.name],
    )
    def chain() -> None:
        @task
        def features() -> dict[str, Any]:
            from pipelines.features import job
            from pipelines.references import Window

            context = get_current_context()
            border = min(dataset.slice for dataset in profile.datasets)
            span = window_params(context["params"], context["dag_run"].run_after, max(DAY, border), border)
            settings = load_settings()
            return job.run(settings.source, Window.parse(span["start"], span["end"]), settings).to_xcom()

        features()

    return chain()


_profile = load_profile(load_settings().source)
globals()[f"features_{_profile.name}"] = features_dag(_profile)
