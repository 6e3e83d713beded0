"""score_<model>: a table of the lake, answered by the version in production; one DAG per model of the catalogue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, dag, get_current_context, task

from dags import notes
from dags.defaults import DAY, run_defaults, window_form, window_params
from models.catalogue import CATALOGUE
from models.specs import ModelSpec
from pipelines.settings import load_settings
from pipelines.sources.profile import load_profile, registered_name

MANUAL = """
**{question}**: asked for each row of a table, in a batch.

`plan` pins the versions of the model, of the table and of the features; each mapped `score` answers some of its days.
The predictions are in `scores/{name}/<table>` of the lake, one row per row that was asked, with the model's version, or
with the reason why there is no answer. A task that fails or is killed is cleared and goes on where it was: nothing is
lost or doubled. A day that is scored again by the same version is replaced.

Parameters: `table` (path below the lake, or `path@version`, with the source's entity and `event_time`; empty: the model's
own features), `window_start` and `window_end` (ISO dates, UTC; empty: the day before the run), `all_rows` (no window),
`model_version` (empty: the one in production), `keep` (columns of the table to keep, by comma), `tasks` (over how many
tasks the days are spread).
"""


WITHIN = timedelta(hours=12)


def score_dag(spec: ModelSpec) -> DAG:
    name = registered_name(spec, load_profile(load_settings().source), load_settings().source)

    @dag(
        dag_id=f"score_{spec.name}",
        dag_display_name=f"Score {spec.name}",
        description=f"Predictions of {spec.name} for a whole table.",
        schedule=None,
        params={
            "table": Param(None, type=["null", "string"], description="PATH or PATH@VERSION below the lake."),
            **window_form(),
            "all_rows": Param(False, type="boolean", description="All rows, whatever their time."),
            "model_version": Param(
                None, type=["null", "string"], description="Version, where not production."
            ),
            "keep": Param(None, type=["null", "string"], description="Columns to keep, by comma."),
            "tasks": Param(4, type="integer", minimum=1, maximum=1000, description="Tasks at most."),
        },
        doc_md=MANUAL.format(question=spec.question, name=name),
        tags=["score", spec.name],
        **run_defaults(spec.owner, WITHIN),
    )
    def chain() -> None:
        @task
        def plan() -> dict[str, Any]:
            from pipelines.references import Window
            from pipelines.score import job

            context = get_current_context()
            params = context["params"]
            span = window_params(params, context["dag_run"].run_after, DAY, DAY)
            kept = [column.strip() for column in (params["keep"] or "").split(",") if column.strip()]
            return job.plan(
                name,
                load_settings(),
                table=params["table"],
                window=None if params["all_rows"] else Window.parse(span["start"], span["end"]),
                version=params["model_version"],
                keep=kept,
            ).to_xcom()

        @task
        def spread(planned: dict[str, Any]) -> list[list[str]]:
            """Runs of days, one per task."""
            days = planned["days"]
            tasks = min(len(days), get_current_context()["params"]["tasks"])
            return [days[len(days) * at // tasks : len(days) * (at + 1) // tasks] for at in range(tasks)]

        @task(map_index_template="{{ days }}")
        def score(planned: dict[str, Any], part: list[str]) -> dict[str, Any]:
            from datetime import UTC, date, datetime

            from pipelines.score import job

            get_current_context()["days"] = f"{part[0]} to {part[-1]}"
            found = job.run(
                job.ScorePlan.from_xcom(planned),
                load_settings(),
                datetime.now(UTC),
                days=[date.fromisoformat(day) for day in part],
            )
            refused = f", {found.refused:,} of them without an answer" if found.refused else ""
            notes.note(f"{found.rows:,} rows by version {found.version}{refused}, in `{found.scored.table}`.")
            return found.to_xcom()

        planned = plan()
        score.partial(planned=planned).expand(part=spread(planned))

    return chain()


for _spec in CATALOGUE.values():
    globals()[f"score_{_spec.name}"] = score_dag(load_profile(load_settings().source).spec_of(_spec))
