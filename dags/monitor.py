"""monitor_<model>: has what the model sees, says or is worth changed? One DAG per model of the catalogue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import notes
from dags.defaults import DAY, SECTION, retrain_asset, run_defaults, schedule, source_form, window_params
from dags.links import DriftReport, show
from models.catalogue import CATALOGUE
from models.specs import ModelSpec
from pipelines.settings import load_settings
from pipelines.sources.profile import load_profile

MANUAL = """
**{question}** — and is the version that answers it still worth it?

Looks at the windows of {windows} that end with the day before: data quality, drift of features, answers and targets
(calibrated, at a rate of {rate:.1%} per check), realised and estimated quality. What was seen and decided
is in the lake and in `headrace monitor {name}`; the drawn report is on the model's MLflow run, and in Evidently's pages.

| this task | means |
|---|---|
| check *failed* with BrokenDataError | data are broken: its last lines name the columns. Nothing is trained until they are mended and a check passes |
| check *failed* with MonitorError | there is no version in production, or it has no lineage |
| ask *skipped* | no training is asked for; the reason is in the note and the log of *check* |
| ask | a request to train is open; train_{name} takes it. The event may come twice or be lost: the request is in the lake |

Each task can be cleared and run again: a window is checked once. Parameters: `window_end` (ISO date, UTC; empty: the day
before the run), `source` (a profile; empty: the configured one).
"""

WITHIN = timedelta(hours=6)


def monitor_dag(spec: ModelSpec) -> DAG:
    @dag(
        dag_id=f"monitor_{spec.name}",
        dag_display_name=f"Monitor {spec.name}",
        description=f"Is {spec.name} still true?",
        schedule=schedule(spec.monitor.schedule),
        params={
            "window_end": Param(
                None,
                type=["null", "string"],
                format="date",
                title="Until",
                description="Day after the last (UTC).",
                section=SECTION,
            ),
            "source": source_form(),
        },
        doc_md=MANUAL.format(
            question=spec.question,
            name=spec.name,
            windows=" and ".join(f"{window.days} days" for window in spec.monitor.drift.windows),
            rate=spec.monitor.drift.false_alarm_rate,
        ),
        tags=["monitor", spec.name],
        **run_defaults(spec.owner, WITHIN),
    )
    def chain() -> None:
        @task
        def check() -> dict[str, Any]:
            from datetime import datetime

            from pipelines.monitor import job

            context = get_current_context()
            window = window_params(context["params"], context["dag_run"].run_after, DAY, DAY)
            source = context["params"]["source"]
            found = job.run(spec.name, datetime.fromisoformat(window["end"]), load_settings(), source)
            print(f"{found.cause.value}: {found.reason}")
            notes.note(notes.of_check(found), on_run=True)
            return found.to_xcom()

        @task(outlets=[retrain_asset(spec.name)])
        def ask(found: dict[str, Any]) -> int:
            """Wake the training while its request is open; an event that was lost is sent again by the next check."""
            if found["request"] is None:
                raise AirflowSkipException(f"no training is asked for: {found['reason']}")
            return int(found["request"])

        checked = check()
        show(checked, DriftReport("check"))
        ask(checked)

    return chain()


for _spec in CATALOGUE.values():
    globals()[f"monitor_{_spec.name}"] = monitor_dag(load_profile(load_settings().source).spec_of(_spec))
