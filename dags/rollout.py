"""rollout_<model>: a challenger from the shadow into production, or out of it; one DAG for each model."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, PokeReturnValue, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import assets, notes
from dags.defaults import run_defaults
from models.catalogue import CATALOGUE
from models.specs import ModelSpec
from pipelines.settings import load_settings
from pipelines.sources.profile import load_profile

LOOK_EVERY = timedelta(seconds=30)

MANUAL = """
Takes a version from the shadow over {steps} of the requests into production, if the server's own figures speak for
it, and withdraws it where they speak against it.

1. *begin* makes the version the challenger, in the shadow: the server answers with the champion and asks the
   challenger beside. Without the parameter `version`: the newest that passed its gate. A challenger that is there
   already goes on as it is, whoever made it one.
2. *advance* looks every {every:g} s, and gives it more when it has held for {hold} and at least {requests} requests
   with errors, latency and quality within the limits of the model's spec. It ends in production, or with the
   challenger withdrawn; then the run ends with a skipped task, whose log says why.

State lives in the registry: alias `challenger`, tag `headrace.traffic` (`shadow`, or a percentage). Change the tag in the
MLflow UI, and the server and this run follow; remove the alias, and the rollout is over. Clear *advance* to go on
after a failure. `headrace rollout status {name}` shows what was seen.
"""


def rollout_dag(spec: ModelSpec) -> DAG:
    """The DAG of one model."""
    plan = spec.rollout

    @dag(
        dag_id=f"rollout_{spec.name}",
        dag_display_name=f"Roll out {spec.name}",
        description=f"A challenger of {spec.name} into production, or out.",
        schedule=None,
        params={
            "model": Param(
                spec.name,
                type="string",
                title="Model",
                description="Name in the registry; of another source: MODEL-SOURCE.",
            ),
            "version": Param(
                None,
                type=["null", "string"],
                pattern="^[1-9][0-9]*$",
                title="Version",
                description="Empty: the newest that passed its gate.",
            ),
            "reason": Param(
                "scheduled rollout",
                type="string",
                minLength=1,
                title="Reason",
                description="It goes to the ledger.",
            ),
        },
        doc_md=MANUAL.format(
            name=spec.name,
            steps=", ".join(f"{step:g} %" for step in plan.steps),
            every=LOOK_EVERY.total_seconds(),
            hold=plan.hold,
            requests=plan.min_requests,
        ),
        tags=["rollout", spec.name],
        **run_defaults(spec.owner, plan.within + timedelta(hours=2)),
    )
    def chain() -> None:
        @task
        def begin() -> str:
            from pipelines.rollout import job

            context = get_current_context()
            params = context["params"]
            at = context["ti"].start_date
            found = job.begin(
                params["model"], params["version"], _who(context), params["reason"], load_settings(), at
            )
            return found.challenger or ""

        @task.sensor(
            poke_interval=LOOK_EVERY.total_seconds(),
            timeout=(plan.within + timedelta(hours=1)).total_seconds(),
            mode="reschedule",
            retries=100,  # MLflow may be away for an hour; what no retry can mend fails at once
            retry_delay=timedelta(seconds=30),
            execution_timeout=timedelta(minutes=10),
        )
        def advance(challenger: str) -> PokeReturnValue:
            from datetime import UTC, datetime

            from pipelines.rollout import job

            context = get_current_context()
            found = job.step(context["params"]["model"], _who(context), load_settings(), datetime.now(UTC))
            print(f"{found.step.value}: {found.reason} {found.figures}")
            return PokeReturnValue(
                is_done=found.over, xcom_value=found.to_xcom() | {"rolled_out": challenger}
            )

        @task(outlets=[assets.production(spec)])
        def outcome(found: dict[str, Any]) -> dict[str, Any]:
            serves = f"Version {found['production']}" if found["production"] else "No version"
            notes.note(f"{serves} is in production: {found['reason']}.", on_run=True)
            if found["production"] != found["rolled_out"]:
                raise AirflowSkipException(f"not in production: {found['reason']}")
            return found

        outcome(advance(begin()))

    return chain()


def _who(context: Any) -> str:
    return f"airflow: {context['run_id']}"


for _spec in CATALOGUE.values():
    globals()[f"rollout_{_spec.name}"] = rollout_dag(load_profile(load_settings().source).spec_of(_spec))
