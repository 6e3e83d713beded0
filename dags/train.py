"""train_<model>: from raw telemetry to a proved version in production, one DAG per model of the catalogue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, TaskGroup, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from dags import assets, notes
from dags.approval import PromotionApproval, answer_of
from dags.defaults import (
    DAY,
    SECTION,
    TRAINING_POOL,
    cron_or_asset,
    retrain_asset,
    run_defaults,
    source_form,
    window_form,
    window_params,
)
from dags.links import DataDocs, GateReport, RunPage, ServerPage, VersionPage, show
from dags.pages import data_docs_page
from models.catalogue import CATALOGUE
from models.specs import ModelSpec
from pipelines.promote.approval import needed
from pipelines.promote.records import Override
from pipelines.references import Layer, Window
from pipelines.settings import load_settings
from pipelines.sources.profile import load_profile

_FORCE = "Promote all the same, whatever the gate says"
WITHIN = timedelta(hours=24)  # of a run, beside the time that a person has to answer

MANUAL = """
**{question}** ([model card]({card}))

From the window's telemetry to a proved version in production, in three steps:

1. **Data** — *ingest* appends the rows, *validate* sifts them, *features* builds what the model sees.
2. **Training** — *snapshot* freezes a training set, *tune* searches, *train* registers a candidate in MLflow.
3. **Gate** — *evaluate* judges the candidate against its bounds, the baselines and the version now serving;
   *promote* moves the alias `production` if the gate is passed{asked}.

The run's **note** has the verdict, the notes of its tasks what came of each. Under a task's *details* are links to the run
and the version in MLflow, the gate's report, Data Docs, and the server's page.

Each task can be cleared and run again: it neither loses nor doubles anything. One run at a time; the steps of *Training* and
*evaluate* take a slot of the pool `training`.

Runs on its schedule ({schedule}), by hand, and when monitoring asks for it: then *take* holds the open request, and *close*
writes down what came of it (`headrace monitor {name}`). An event that comes twice finds no request, and the run is skipped.

| if this task fails | look at |
|---|---|
| take | data are broken, and nothing is learned from them: its log names what. Mend it, or start the DAG by hand |
| validate | its note, and the last lines of its log, name the expectation, the counts and a few rows; mend the source, then `headrace reload` |
| snapshot | too few outcomes in the window: widen it |
| tune, train | tries go on by themselves where a server was away. Out of memory: a smaller window, or a larger machine |
| evaluate | its log; a stored model that does not reproduce its own sample is refused |
| approve | nothing: it waits for a person, {within} at most; no answer is a refusal, and nothing is promoted |
| promote *skipped* | the gate was not passed, or a person refused; the reasons are in its note and on the version in MLflow |

**Trigger by hand**: the time window is whole days, UTC (empty: the {days} days before the run); *source* is a profile
(empty: the configured one); *trials* empty is {trials}. *Promote all the same* puts this run's candidate into production on
your word, whatever its gate says: name and reason go to the ledger and on the version.

**Undo**: `headrace rollback {name} --reason "…"`, or move the alias `production` back in MLflow.

**Past windows**: a backfill (*Trigger → Backfill*, or `airflow backfill create`) trains once for each tick of the schedule, on
the window before it. Rows that are there already are not read again.
"""


def train_dag(spec: ModelSpec) -> DAG:
    settings = load_settings()
    profile = load_profile(settings.source)
    grid = profile.grid_name(spec.grid)
    a_person_decides = needed(spec, settings)
    to_answer = spec.approval.within if a_person_decides else timedelta(0)

    @dag(
        dag_id=f"train_{spec.name}",
        dag_display_name=f"Train {spec.name}",
        description=spec.question,
        schedule=cron_or_asset(spec.schedule, retrain_asset(spec.name)),
        params={
            **window_form(),
            "source": source_form(),
            "trials": Param(
                None,
                type=["null", "integer"],
                minimum=1,
                maximum=1000,
                title="Tuning trials",
                description=f"Empty: {spec.tuning.trials}.",
                section=SECTION,
            ),
            "override_by": Param(
                None,
                type=["null", "string"],
                title="Your name",
                description="Goes with the reason: both, or neither.",
                section=_FORCE,
            ),
            "override_reason": Param(
                None,
                type=["null", "string"],
                title="Reason",
                description="It goes to the ledger and on the version, with your name.",
                section=_FORCE,
            ),
        },
        doc_md=MANUAL.format(
            question=spec.question,
            card=f"{settings.tracking}/#/models/{spec.name}",
            name=spec.name,
            asked=", and a person approves" if a_person_decides else "",
            schedule=f"`{spec.schedule}`, UTC" if spec.schedule else "none",
            days=spec.training_window.days,
            trials=spec.tuning.trials,
            within=f"{spec.approval.within.total_seconds() / 3600:g} hours",
        ),
        tags=["train", spec.name],
        **run_defaults(spec.owner, WITHIN + to_answer),
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
        def plan(taken: dict[str, Any]) -> list[dict[str, str]]:
            """One request per data set; the window is the same in each."""
            from pipelines.monitor.retrain import TakenRef

            context = get_current_context()
            _override()  # half of one is refused now, not after hours
            until = TakenRef.from_xcom(taken).newest or context["dag_run"].run_after
            window = window_params(context["params"], until, spec.training_window, DAY)
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
            found = job.run(IngestRef.from_xcom(ingested), load_settings())
            notes.note(notes.of_validation(found, data_docs_page(found.source, found.dataset)))
            return found.to_xcom()

        @task(
            inlets=[assets.table(profile, Layer.CLEAN, name) for name in spec.datasets],
            outlets=[assets.features(profile, grid)],
        )
        def features(requests: list[dict[str, str]]) -> dict[str, Any]:
            from pipelines.features import job

            grid = load_profile(_source()).spec_of(spec).grid
            return job.run(_source(), _window(requests[0]), load_settings(), grids=[grid]).to_xcom()

        @task(inlets=[assets.features(profile, grid)], outlets=[assets.snapshot(spec)], pool=TRAINING_POOL)
        def snapshot(built: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
            from pipelines.monitor.retrain import TakenRef
            from pipelines.references import FeaturesRef
            from pipelines.snapshot import job

            changed_at = TakenRef.from_xcom(taken).changed_at
            found = job.run(spec.name, FeaturesRef.from_xcom(built), load_settings(), changed_at)
            notes.note(notes.of_snapshot(found))
            _tell(assets.snapshot(spec), sha256=found.sha256, source=found.source, rows=found.rows)
            return found.to_xcom()

        @task(pool=TRAINING_POOL)
        def tune(snapshot: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import SnapshotRef
            from pipelines.tune import job

            trials = get_current_context()["params"]["trials"]
            found = job.run(SnapshotRef.from_xcom(snapshot), load_settings(), trials)
            notes.note(notes.of_study(found))
            return found.to_xcom()

        @task
        def open_study(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
            """One share per worker of the study."""
            from pipelines.references import SnapshotRef
            from pipelines.tune import job

            trials = get_current_context()["params"]["trials"]
            shares = job.share_out(
                SnapshotRef.from_xcom(snapshot), load_settings(), trials, settings.tuning_workers
            )
            return [share.to_xcom() for share in shares]

        @task(task_id="tune", pool=TRAINING_POOL)
        def tune_together(share: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import TuningShareRef
            from pipelines.tune import job

            return job.search(TuningShareRef.from_xcom(share), load_settings()).to_xcom()

        @task
        def close_study(shares: list[dict[str, Any]]) -> dict[str, Any]:
            from pipelines.references import TuningShareRef
            from pipelines.tune import job

            found = job.conclude(TuningShareRef.from_xcom(shares[0]), load_settings())
            notes.note(notes.of_study(found))
            return found.to_xcom()

        @task(inlets=[assets.snapshot(spec)], outlets=[assets.versions(spec)], pool=TRAINING_POOL)
        def train(snapshot: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
            from pipelines.references import SnapshotRef, StudyRef
            from pipelines.train import job

            found = job.run(SnapshotRef.from_xcom(snapshot), StudyRef.from_xcom(study), load_settings())
            notes.note(f"Version {found.version} of {found.registered_name} is registered.")
            _tell(assets.versions(spec), registered_name=found.registered_name, version=found.version)
            return found.to_xcom()

        @task(pool=TRAINING_POOL)
        def evaluate(candidate: dict[str, Any]) -> dict[str, Any]:
            from pipelines.evaluate import job
            from pipelines.references import CandidateRef

            found = job.run(CandidateRef.from_xcom(candidate), load_settings())
            notes.note(notes.of_verdict(found), on_run=True)
            return found.to_xcom()

        @task(inlets=[assets.versions(spec)], outlets=[assets.production(spec)])
        def promote(verdict: dict[str, Any]) -> dict[str, Any]:
            from pipelines.promote import job
            from pipelines.references import VerdictRef

            context = get_current_context()
            answered = context["ti"].xcom_pull(task_ids="approve") if a_person_decides else None
            judged = VerdictRef.from_xcom(verdict)
            promotion = job.run(
                judged,
                f"airflow: {context['run_id']}",
                load_settings(),
                approval=answer_of(answered) if answered else None,
                override=_override(),
            )
            notes.note(notes.of_promotion(judged, promotion), on_run=True)
            if promotion.production != judged.candidate.version:
                raise AirflowSkipException(f"not promoted: {promotion.reason}")
            _tell(
                assets.production(spec),
                registered_name=promotion.registered_name,
                version=promotion.production,
                previous=promotion.previous,
            )
            return promotion.to_xcom()

        taken = take()
        requests = plan(taken)
        with TaskGroup("data", group_display_name="Data", prefix_group_id=False):
            built = features(requests)
            validate.expand(ingested=ingest.expand(request=requests)) >> built
        with TaskGroup("training", group_display_name="Training", prefix_group_id=False):
            training_set = snapshot(built, taken)
            if settings.tuning_workers == 1:
                study = tune(training_set)
            else:
                study = close_study(tune_together.expand(share=open_study(training_set)))
            candidate = train(training_set, study)
        with TaskGroup("gate", group_display_name="Gate", prefix_group_id=False):
            verdict = evaluate(candidate)
            promoted = promote(verdict)
            if a_person_decides:
                approve = PromotionApproval(
                    task_id="approve",
                    verdict_from="evaluate",
                    response_timeout=spec.approval.within,
                    execution_timeout=None,  # it bounds the work, and the wait has a bound of its own
                )
                verdict >> approve >> promoted
        show(built, DataDocs("features"))
        show(study, RunPage("tune" if settings.tuning_workers == 1 else "close_study"))
        show(candidate, RunPage("train"), VersionPage("train"))
        show(verdict, GateReport("evaluate"), RunPage("train"), VersionPage("train"))
        show(promoted, GateReport("evaluate"), RunPage("train"), VersionPage("train"), ServerPage("promote"))
        # A teardown: its own success does not make a failed run a successful one.
        promoted >> close(taken).as_teardown(setups=taken)

    return chain()


def _tell(asset: Asset, **extra: Any) -> None:
    """What the event of an asset carries."""
    get_current_context()["outlet_events"][asset].extra = extra


def _window(request: dict[str, str]) -> Window:
    return Window.parse(request["start"], request["end"])


def _override() -> Override | None:
    params = get_current_context()["params"]
    return Override.of(params["override_by"], params["override_reason"])


def _source() -> str:
    return get_current_context()["params"]["source"] or load_settings().source


for _spec in CATALOGUE.values():
    globals()[f"train_{_spec.name}"] = train_dag(load_profile(load_settings().source).spec_of(_spec))
