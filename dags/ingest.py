"""ingest_<dataset>: rows of a window into the lake, sifted; one DAG per data set of the configured source."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, dag, get_current_context, task

from dags import assets, notes
from dags.defaults import LOOK_BACK_SLICES, run_defaults, schedule, window_form, window_params
from dags.links import DataDocs, show
from dags.pages import data_docs_page
from feature_repo.datasets import Dataset
from pipelines.references import Layer
from pipelines.settings import load_settings
from pipelines.sources.profile import SourceProfile, load_profile

MANUAL = """
**{description}**

Appends the rows that arrived in the window to `raw`, exactly once however often this is run, and sifts them:
good rows to `clean`, the others to `quarantine` with the reason. The note of *validate* has the counts, its details a
link to Data Docs.

Each run looks back over {look_back} slices of {slice}: what an outage left out comes in by itself, what is there already is
not read again.

| if this task fails | look at |
|---|---|
| ingest | is the source there, and may this machine read it? Tries go on for some minutes by themselves |
| validate | a batch is broken as a whole: its note and the last lines of its log say what and where. Mend the source, then `headrace reload {name} --window-start … --window-end …`, and clear *validate* |

With `HEADRACE_ENTITY_BUCKETS` above 1 each step is a task per bucket of entities: *judge* decides on all of them together,
as *validate* does alone, and *copy* brings the good rows to `clean`.

**Trigger by hand**: the time window is in whole slices, UTC. **Past windows**: trigger it with the window, or backfill
(*Trigger → Backfill*, or `airflow backfill create`): both append each row once.
"""

WITHIN = timedelta(hours=6)


def ingest_dag(profile: SourceProfile, dataset: Dataset) -> DAG:
    raw, clean = (assets.table(profile, layer, dataset.name) for layer in (Layer.RAW, Layer.CLEAN))

    @dag(
        dag_id=f"ingest_{dataset.name}",
        dag_display_name=f"Ingest {dataset.name}",
        description=dataset.description,
        schedule=schedule(dataset.schedule),
        params=window_form(),
        doc_md=MANUAL.format(
            description=dataset.description,
            name=dataset.name,
            slice=dataset.slice,
            look_back=LOOK_BACK_SLICES,
        ),
        tags=["ingest", profile.name],
        **run_defaults("platform", WITHIN),
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

        @task(outlets=[raw])
        def ingest(window: dict[str, str]) -> dict[str, Any]:
            from pipelines.ingest import job
            from pipelines.references import Window

            settings = load_settings()
            span = Window.parse(window["start"], window["end"])
            found = job.run(settings.source, dataset.name, span, settings)
            notes.note(f"{found.raw.rows_added:,} new rows of {span}.")
            return found.to_xcom()

        @task(inlets=[raw], outlets=[clean])
        def validate(ingested: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import IngestRef
            from pipelines.validate import job

            found = job.run(IngestRef.from_xcom(ingested), load_settings())
            notes.note(notes.of_validation(found, data_docs_page(found.source, found.dataset)), on_run=True)
            return found.to_xcom()

        @task
        def buckets() -> list[int]:
            from pipelines.ingest import job

            settings = load_settings()
            return list(range(job.buckets(settings.source, dataset.name, settings)))

        @task(map_index_template="{{ bucket }}")
        def ingest_bucket(window: dict[str, str], bucket: int) -> dict[str, Any]:
            from pipelines.ingest import job
            from pipelines.references import Window

            get_current_context()["bucket"] = bucket
            settings = load_settings()
            span = Window.parse(window["start"], window["end"])
            return job.run(settings.source, dataset.name, span, settings, buckets=[bucket]).to_xcom()

        @task(outlets=[raw])
        def ingested(parts: list[dict[str, Any]]) -> dict[str, Any]:
            """All buckets are there: one reference for what comes after."""
            from pipelines.references import IngestRef

            found = [IngestRef.from_xcom(part) for part in parts]
            added = sum(each.raw.rows_added for each in found)
            notes.note(f"{added:,} new rows of {found[0].window}, in {len(found)} buckets.")
            return found[-1].to_xcom()

        @task(map_index_template="{{ bucket }}")
        def sift(ingested: dict[str, Any], bucket: int) -> dict[str, Any]:
            from pipelines.references import IngestRef
            from pipelines.validate import job

            get_current_context()["bucket"] = bucket
            return job.sift(IngestRef.from_xcom(ingested), load_settings(), bucket).to_xcom()

        @task(inlets=[raw])
        def judge(ingested: dict[str, Any], sifted: list[dict[str, Any]]) -> dict[str, Any]:
            """Good enough as a whole? If not, nothing goes on."""
            from pipelines.references import IngestRef
            from pipelines.validate import job

            parts = [job.SiftedRef.from_xcom(part) for part in sifted]
            found = job.judge(IngestRef.from_xcom(ingested), parts, load_settings())
            notes.note(f"{found.rows_added:,} rows of {dataset.name} go to quarantine.", on_run=True)
            return found.to_xcom()

        @task(map_index_template="{{ bucket }}", outlets=[clean])
        def copy(ingested: dict[str, Any], bucket: int) -> dict[str, Any]:
            from pipelines.references import IngestRef
            from pipelines.validate import job

            get_current_context()["bucket"] = bucket
            return job.copy(IngestRef.from_xcom(ingested), load_settings(), bucket).to_xcom()

        if load_settings().entity_buckets == 1:
            validated = validate(ingest(window()))
            show(validated, DataDocs("validate"))
            return
        parts = buckets()
        whole = ingested(ingest_bucket.partial(window=window()).expand(bucket=parts))
        judged = judge(whole, sift.partial(ingested=whole).expand(bucket=parts))
        show(judged, DataDocs("judge"))
        judged >> copy.partial(ingested=whole).expand(bucket=parts)

    return chain()


_profile = load_profile(load_settings().source)
for _dataset in _profile.datasets:
    globals()[f"ingest_{_dataset.name}"] = ingest_dag(_profile, _dataset)
