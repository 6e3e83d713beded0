"""train_<model>: from raw telemetry to a proved version in production, one DAG per model of the catalogue."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from dags.approval import PromotionApproval, answer_of
from dags.defaults import DAY, cron_or_asset, retrain_asset, task_defaults, window_form, window_params
from dags.links import GateReport, VersionPage, show
from models.catalogue import CATALOGUE
from models.specs import ModelSpec
from pipelines.promote.approval import needed
from pipelines.promote.records import Override
from pipelines.references import Window
from pipelines.settings import load_settings
from pipelines.sources.profile import load_profile

MANUAL = """
**{question}**

Ingests and validates the window's telemetry, builds features, tunes, trains, judges the candidate against its
bounds, the baselines and the version now serving, and moves the alias `production` if the gate is passed.

Each task can be cleared and run again: it neither loses nor doubles anything.

Runs on its schedule, by hand, and when monitoring asks for it: then `take` holds the open request, and `close` writes down
what came of it (`headrace monitor {name}`). An event that comes twice finds no request, and the run is skipped.

| if this task fails | look at |
|---|---|
| take | data are broken, and nothing is learned from them: its log names what. Mend it, or start the DAG by hand |
| validate | the last lines of its log name the expectation, the counts and a few rows; mend the source |
| snapshot | too few outcomes in the window: widen it |
| evaluate | its log; a stored model that does not reproduce its own sample is refused |
| approve | nothing: it waits for a person, {within} at most; no answer is a refusal, and nothing is promoted |
| promote *skipped* | the gate was not passed, or a person refused; the reasons are in its log and on the version in MLflow |

Parameters: `window_start` and `window_end` (ISO dates, UTC, whole days; empty: the {days} days before the run),
`source` (a profile; empty: the configured one), `trials` (empty: {trials}). `override_by` and `override_reason`
promote this run's candidate on your word, whatever its gate says: both go to the ledger and on the version.
"""


def train_dag(spec: ModelSpec) -> DAG:
    a_person_decides = needed(spec, load_settings())

    @dag(
        dag_id=f"train_{spec.name}",
        description=spec.question,
        schedule=cron_or_asset(spec.schedule, retrain_asset(spec.name)),
        catchup=False,
        max_active_runs=1,
        default_args=task_defaults(spec.owner),
        params={
            **window_form(),
            "source": Param(
                None, type=["null", "string"], description="Source profile, where not the configured one."
            ),
            "trials": Param(
                None, type=["null", "integer"], minimum=1, maximum=1000, description="Tuning trials."
            ),
            "override_by": Param(
                None, type=["null", "string"], description="Your name, to promote without a passed gate."
            ),
            "override_reason": Param(
                None, type=["null", "string"], description="Why; it goes to the ledger with your name."
            ),
        },
        doc_md=MANUAL.format(
            question=spec.question,
            name=spec.name,
            days=spec.training_window.days,
            trials=spec.tuning.trials,
            within=f"{spec.approval.within.total_seconds() / 3600:g} hours",
        ),
        tags=["train", spec.name],
    )
    def chain() -> None:
        @task
        def take() -> dict[str, Any]:
            """Hold the request that this run works for."""
            from datetime import UTC, datetime

            from pipelines.monitor import retrain

            context = get_current_context()
            kind = context["dag_run"].run_type
            taken = retrain.take(
                spec.name,
                _source(),
                context["run_id"],
                by_event=kind == "asset_triggered",
                by_hand=kind == "manual",
                at=datetime.now(UTC),
                settings=load_settings(),
            )
            if taken.number is None:
                raise AirflowSkipException(taken.reason)
            return taken.to_xcom()

        @task
        def close(taken: dict[str, Any]) -> str | None:
            """End the request with what came of it, however far the run came."""
            from datetime import UTC, datetime

            from pipelines.monitor import retrain
            from pipelines.references import VerdictRef

            context = get_current_context()
            verdict, promoted = (context["ti"].xcom_pull(task_ids=name) for name in ("evaluate", "promote"))
            return retrain.close(
                retrain.TakenRef.from_xcom(taken),
                context["run_id"],
                VerdictRef.from_xcom(verdict) if verdict else None,
                promoted is not None,
                datetime.now(UTC),
                load_settings(),
            )

        @task
        def plan() -> list[dict[str, str]]:
            """One request per data set; the window is the same in each."""
            context = get_current_context()
            _override()  # half of one is refused now, not after hours
            window = window_params(context["params"], context["dag_run"].run_after, spec.training_window, DAY)
            return [window | {"dataset": name} for name in load_profile(_source()).spec_of(spec).datasets]

        @task(map_index_template="{{ dataset_name }}")
        def ingest(request: dict[str, str]) -> dict[str, Any]:
            from pipelines.ingest import job

            get_current_context()["dataset_name"] = request["dataset"]
            return job.run(_source(), request["dataset"], _window(request), load_settings()).to_xcom()

        @task(map_index_template="{{ dataset_name }}")
        def validate(ingested: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import IngestRef
            from pipelines.validate import job

            get_current_context()["dataset_name"] = ingested["dataset"]
            return job.run(IngestRef.from_xcom(ingested), load_settings()).to_xcom()

        @task
        def features(requests: list[dict[str, str]]) -> dict[str, Any]:
            from pipelines.features import job

            grid = load_profile(_source()).spec_of(spec).grid
            return job.run(_source(), _window(requests[0]), load_settings(), grids=[grid]).to_xcom()

        @task
        def snapshot(built: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import FeaturesRef
            from pipelines.snapshot import job

            return job.run(spec.name, FeaturesRef.from_xcom(built), load_settings()).to_xcom()

        @task
        def tune(snapshot: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import SnapshotRef
            from pipelines.tune import job

            trials = get_current_context()["params"]["trials"]
            return job.run(SnapshotRef.from_xcom(snapshot), load_settings(), trials).to_xcom()

        @task
        def train(snapshot: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import SnapshotRef, StudyRef
            from pipelines.train import job

            return job.run(
                SnapshotRef.from_xcom(snapshot), StudyRef.from_xcom(study), load_settings()
            ).to_xcom()

        @task
        def evaluate(candidate: dict[str, Any]) -> dict[str, Any]:
            from pipelines.evaluate import job
            from pipelines.references import CandidateRef

            return job.run(CandidateRef.from_xcom(candidate), load_settings()).to_xcom()

        @task
        def promote(verdict: dict[str, Any]) -> dict[str, Any]:
            from pipelines.promote import job
            from pipelines.references import VerdictRef

            context = get_current_context()
            answered = context["ti"].xcom_pull(task_ids="approve") if a_person_decides else None
            promotion = job.run(
                VerdictRef.from_xcom(verdict),
                f"airflow: {context['run_id']}",
                load_settings(),
                approval=answer_of(answered) if answered else None,
                override=_override(),
            )
            if promotion.production != verdict["candidate"]["version"]:
                raise AirflowSkipException(f"not promoted: {promotion.reason}")
            return promotion.to_xcom()

        taken = take()
        requests = plan()
        taken >> requests
        built = features(requests)
        validate.expand(ingested=ingest.expand(request=requests)) >> built
        training_set = snapshot(built)
        candidate = train(training_set, tune(training_set))
        verdict = evaluate(candidate)
        promoted = promote(verdict)
        show(candidate, VersionPage("train"))
        show(verdict, GateReport("evaluate"), VersionPage("train"))
        show(promoted, GateReport("evaluate"), VersionPage("train"))
        if a_person_decides:
            approve = PromotionApproval(
                task_id="approve",
                verdict_from="evaluate",
                response_timeout=spec.approval.within,
                execution_timeout=None,  # it bounds the work, and the wait has a bound of its own
            )
            verdict >> approve >> promoted
        # A teardown: its own success does not make a failed run a successful one.
        promoted >> close(taken).as_teardown(setups=taken)

    return chain()


def _window(request: dict[str, str]) -> Window:
    return Window.parse(request["start"], request["end"])


def _override() -> Override | None:
    params = get_current_context()["params"]
    return Override.of(params["override_by"], params["override_reason"])


def _source() -> str:
    return get_current_context()["params"]["source"] or load_settings().source


for _spec in CATALOGUE.values():
    globals()[f"train_{_spec.name}"] = train_dag(load_profile(load_settings().source).spec_of(_spec))
