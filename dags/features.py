"""features_<source>: clean rows into the offline and the online store, so that entities can be predicted for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, dag, get_current_context, task

from dags import assets, notes
from dags.defaults import DAY, run_defaults, schedule, window_form, window_params
from dags.links import DataDocs, show
from pipelines.references import FeaturesRef, Layer, Window
from pipelines.settings import load_settings
from pipelines.sources.profile import SourceProfile, load_profile

MANUAL = """
Recomputes the feature rows of all grids that new clean rows of the window touch, late ones included, and publishes the
newest row of each entity to the online store. The server refuses to predict for an entity whose features are older than
their TTL (by grid: {ttl}); if it does, look here and at `ingest_<dataset>`.

If it fails, the note says of what; it may be cleared and run again as often as you like. If it succeeds and features are
old all the same, no rows came: look at `ingest_<dataset>`.

**Trigger by hand**: the time window is in UTC (empty: the 24 hours before the run). **Past windows**: trigger it with the
window, or backfill; rows that are there already are replaced, never doubled.
"""

WITHIN = timedelta(hours=6)


def features_dag(profile: SourceProfile) -> DAG:
    @dag(
        dag_id=f"features_{profile.name}",
        dag_display_name=f"Features {profile.name}",
        description=f"Features of {profile.name}, offline and online.",
        schedule=schedule(profile.features_schedule),
        params=window_form(),
        doc_md=MANUAL.format(ttl=", ".join(f"{name}: {grid.ttl}" for name, grid in profile.features.items())),
        tags=["features", profile.name],
        **run_defaults("platform", WITHIN),
    )
    def chain() -> None:
        @task(
            inlets=[assets.table(profile, Layer.CLEAN, dataset.name) for dataset in profile.datasets],
            outlets=[assets.features(profile, grid) for grid in profile.features],
        )
        def features() -> dict[str, Any]:
            from pipelines.features import job

            settings = load_settings()
            return told(job.run(settings.source, window(), settings))

        @task(map_index_template="{{ bucket }}")
        def compute(bucket: int) -> dict[str, Any]:
            from pipelines.features import job

            get_current_context()["bucket"] = bucket
            settings = load_settings()
            return job.run(settings.source, window(), settings, buckets=[bucket]).to_xcom()

        @task(
            inlets=[assets.table(profile, Layer.CLEAN, dataset.name) for dataset in profile.datasets],
            outlets=[assets.features(profile, grid) for grid in profile.features],
        )
        def publish(parts: list[dict[str, Any]]) -> dict[str, Any]:
            from pipelines.features import job
            from pipelines.references import FeaturesRef

            built = job.together([FeaturesRef.from_xcom(part) for part in parts])
            return told(job.publish(built, load_settings()))

        def window() -> Window:
            context = get_current_context()
            border = min(dataset.slice for dataset in profile.datasets)
            span = window_params(context["params"], context["dag_run"].run_after, max(DAY, border), border)
            return Window.parse(span["start"], span["end"])

        def told(found: FeaturesRef) -> dict[str, Any]:
            added = ", ".join(f"{name} {table.rows_added:,}" for name, table in found.views.items())
            notes.note(
                f"Rows of {found.window}: {added}. Published online: {found.online_rows:,}.", on_run=True
            )
            return found.to_xcom()

        buckets = load_settings().entity_buckets
        if buckets == 1:
            show(features(), DataDocs("features"))
        else:
            show(publish(compute.expand(bucket=list(range(buckets)))), DataDocs("publish"))

    return chain()


_profile = load_profile(load_settings().source)
globals()[f"features_{_profile.name}"] = features_dag(_profile)
