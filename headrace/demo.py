"""`headrace demo`: from nothing to a promoted model that answers requests, shown stage by stage."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from headrace.airflow_api import AirflowApi, DagRun, TaskInstance
from headrace.credentials import AIRFLOW_USER, credentials
from headrace.display import Board, coloured, duration, messages, output, poll
from headrace.local import up
from headrace.serving_api import ServingApi
from headrace.status import look, services_table
from pipelines.errors import LakeError, ProcessError
from pipelines.references import Layer, Outcome, PromotionRef, VerdictRef

if TYPE_CHECKING:
    from pipelines.settings import Settings

WINDOW_DAYS = 42
STAGES = (
    "take",
    "plan",
    "ingest",
    "validate",
    "features",
    "snapshot",
    "tune",
    "train",
    "evaluate",
    "promote",
    "close",
)
_PARSE_SECONDS = 120
_SWITCH_SECONDS = 15
_LOG_LINES = 20
# Worst first: a stage is as far as the hindmost of its tasks.
_ORDER = (
    "failed",
    "upstream_failed",
    "up_for_retry",
    "running",
    "queued",
    "scheduled",
    None,
    "skipped",
    "success",
)
_OVER = frozenset({"success", "failed", "skipped"})
_SHOWN = {None: "waiting", "scheduled": "queued", "up_for_retry": "retrying", "upstream_failed": "not run"}


def demo(settings: Settings, model: str = "failure", entity: str | None = None) -> None:
    """Start everything, train a model in Airflow, and ask the server for a prediction.

    The run is named by its window: a second demo on the same day finds it done.

    Args:
        entity: Whom to predict for; None: the first one in the clean data.

    Raises:
        HeadraceError: something did not work; the text says what, with the last lines of its log.
    """
    began = time.monotonic()
    up(settings)
    today = datetime.now(UTC).date()
    conf = {
        "window_start": (today - timedelta(days=WINDOW_DAYS)).isoformat(),
        "window_end": today.isoformat(),
    }
    with AirflowApi(settings.airflow, AIRFLOW_USER, credentials(settings).airflow_password) as airflow:
        dag_id = f"train_{model}"
        wait_until_parsed(airflow, dag_id)
        run_id = f"demo__{conf['window_end']}"
        run = begin(airflow, dag_id, run_id, conf)
        run = follow(airflow, run, model)
        tasks = airflow.tasks(dag_id, run_id)
        if run.state != "success":
            raise ProcessError(failure_of(airflow, run, tasks))
        results = {name: airflow.result(dag_id, run_id, name) for name in ("evaluate", "promote")}
    verdict = VerdictRef.from_xcom(results["evaluate"]) if results["evaluate"] else None
    promotion = PromotionRef.from_xcom(results["promote"]) if results["promote"] else None
    prediction = _predict(settings, model, promotion, entity, at=f"{conf['window_end']}T00:00:00Z")
    _show(settings, run, tasks, verdict, promotion, prediction, time.monotonic() - began)
    if prediction is None:
        raise ProcessError(
            f"no version of {model} is in production: the gate did not pass the candidate, see above. "
            "Train on another window: trigger the DAG in Airflow, or `headrace train`"
        )


def wait_until_parsed(airflow: AirflowApi, dag_id: str) -> None:
    def parsed() -> bool:
        if dag_id in airflow.dag_ids():
            return True
        if errors := airflow.import_errors():
            texts = "\n".join(f"{file}:\n{trace.strip()}" for file, trace in errors.items())
            raise ProcessError(f"Airflow cannot read its DAG files, so there is no {dag_id}:\n{texts}")
        return False

    if not poll(parsed, _PARSE_SECONDS, every=0.5):
        raise ProcessError(
            f"Airflow has not found {dag_id} in {_PARSE_SECONDS} s: see logs/airflow-dag-processor.log"
        )


def begin(airflow: AirflowApi, dag_id: str, run_id: str, conf: dict[str, str]) -> DagRun:
    """The run of this window: triggered, found, or its failed tasks tried again."""
    found = airflow.run(dag_id, run_id)
    if found is None:
        airflow.unpause(dag_id)
        return airflow.trigger(dag_id, run_id, dict(conf))
    if found.state == "failed":
        messages().print(f"The run {run_id} has failed before: its failed tasks are run again.")
        airflow.retry(dag_id, run_id)
        # Clearing answers before the run is queued again; what is read before that is the old end.
        poll(lambda: not _existing(airflow, dag_id, run_id).finished, 10)
    elif found.state == "success":
        messages().print(f"The run {run_id} was done before: nothing is trained again.")
    return _existing(airflow, dag_id, run_id)


def _existing(airflow: AirflowApi, dag_id: str, run_id: str) -> DagRun:
    run = airflow.run(dag_id, run_id)
    if run is None:
        raise ProcessError(
            f"the run {run_id} of {dag_id} was deleted in Airflow meanwhile: run the demo again"
        )
    return run


def follow(airflow: AirflowApi, run: DagRun, model: str) -> DagRun:
    heading = f"Training {model} in Airflow: {airflow.run_page(run.dag_id, run.run_id)}"
    with Board(messages(), heading) as board:
        for stage in STAGES:
            board.add(stage)
        while True:
            # The run first: once it has ended, the tasks that are read after it have, too.
            run = _existing(airflow, run.dag_id, run.run_id)
            for stage, (state, detail, seconds) in _stages(airflow.tasks(run.dag_id, run.run_id)).items():
                board.set(stage, state, detail, seconds)
            if run.finished:
                return run
            time.sleep(1)


def _stages(tasks: list[TaskInstance]) -> dict[str, tuple[str, str, float | None]]:
    """State, detail and seconds per stage, in the order of the chain; a mapped task is one stage."""
    names = [name for name in STAGES if any(task.task_id == name for task in tasks)]
    names += sorted({task.task_id for task in tasks} - set(STAGES))
    return {name: _stage([task for task in tasks if task.task_id == name]) for name in names}


def _stage(tasks: list[TaskInstance]) -> tuple[str, str, float | None]:
    worst = min((task.state for task in tasks), key=_rank)
    over = [task for task in tasks if task.state in _OVER]
    if worst in {None, "scheduled"} and over:
        worst = "running"  # some instances are done, others have not begun
    mapped = [task for task in tasks if task.map_index >= 0]
    detail = f"{sum(task.state == 'success' for task in mapped)} of {len(mapped)}" if mapped else ""
    tries = max(task.try_number for task in tasks)
    if tries > 1 and worst not in {None, "upstream_failed"}:
        detail = f"{detail} try {tries}".strip()
    # A task that was cleared keeps the times of its last try until the next one.
    started = [task.started_at for task in over if task.started_at]
    ended = [task.ended_at for task in over if task.ended_at]
    done = len(over) == len(tasks) == len(started) == len(ended)
    return (
        _SHOWN.get(worst, worst or ""),
        detail,
        (max(ended) - min(started)).total_seconds() if done else None,
    )


def _rank(state: str | None) -> int:
    return _ORDER.index(state) if state in _ORDER else 0


def failure_of(airflow: AirflowApi, run: DagRun, tasks: list[TaskInstance]) -> str:
    """What failed, with the end of the first failed task's log."""
    failed = sorted(
        (task for task in tasks if task.state == "failed"), key=lambda task: str(task.started_at or "")
    )
    page = airflow.run_page(run.dag_id, run.run_id)
    if not failed:
        return f"the run {run.run_id} of {run.dag_id} failed without a failed task; look at {page}"
    task = failed[0]
    name = task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]"
    lines = "\n".join(f"  {line}" for line in airflow.log(run.dag_id, run.run_id, task)[-_LOG_LINES:])
    return (
        f"the task {name} of {run.dag_id} failed. The last lines of its log:\n{lines}\n"
        f"All of it: {page}. Once the cause is gone, the same command tries what failed again."
    )


def _predict(
    settings: Settings, model: str, promotion: PromotionRef | None, entity: str | None, at: str
) -> dict[str, Any] | None:
    """The server's answer for one entity at a time; None where no version is in production."""
    server = ServingApi(settings)
    promoted = promotion.production if promotion else None
    if promoted and not poll(lambda: server.version(model) == promoted, _SWITCH_SECONDS):
        problems = "; ".join(server.readiness())
        raise ProcessError(f"the server does not answer with version {promoted} of {model}: {problems}")
    if server.version(model) is None:
        return None
    return server.predict(model, {"entities": [entity or _first_entity(settings, model)], "at": at})


def _first_entity(settings: Settings, model: str) -> str:
    """The first entity, by name, in the clean rows that the model's features are made from."""
    from models.catalogue import find
    from pipelines.adapters.lake import Lake
    from pipelines.sources.profile import load_profile

    profile = load_profile(settings.source)
    dataset = profile.dataset(profile.spec_of(find(model)).datasets[0])
    table = profile.table(Layer.CLEAN, dataset.name)
    first = Lake.of(settings).scan(table).select(dataset.entity).min().collect().item()
    if first is None:
        raise LakeError(f"{table} has no rows, so there is nobody to predict for: name one with --entity")
    return str(first)


def _show(
    settings: Settings,
    run: DagRun,
    tasks: list[TaskInstance],
    verdict: VerdictRef | None,
    promotion: PromotionRef | None,
    prediction: dict[str, Any] | None,
    seconds: float,
) -> None:
    stages = Table(box=None, show_header=False, padding=(0, 2))
    for name, (state, detail, took) in _stages(tasks).items():
        stages.add_row(name, coloured(state), Text(duration(took), justify="right"), detail)
    whole = (run.ended_at - run.started_at).total_seconds() if run.ended_at and run.started_at else None
    stages.add_row("the run", coloured(run.state), Text(duration(whole), justify="right"), run.run_id)

    facts = Table(box=None, show_header=False, padding=(0, 2))
    if verdict:
        facts.add_row("gate", coloured(verdict.outcome.value) + Text(_why(verdict)))
        if verdict.report_url:
            url = verdict.report_url
            facts.add_row("its report", Text(url, style=f"link {url}", overflow="fold"))
    status = look(settings)
    for name, pointers in status.models.items():
        if pointers.production:
            reason = f": {promotion.reason}" if promotion and promotion.registered_name == name else ""
            facts.add_row("in production", f"version {pointers.production} of {name}{reason}")
    if prediction:
        values = [
            ", ".join(f"{name} {_value(value)}" for name, value in row.items() if name != "prediction_id")
            for row in prediction["predictions"]
        ]
        facts.add_row("prediction", f"{'; '.join(values)} (by version {prediction['version']})")
    output().print(
        Group(
            "",
            stages,
            "",
            facts,
            "",
            services_table(status),
            "",
            f"All in {duration(seconds)}. Stop it: make down",
        )
    )


def _why(verdict: VerdictRef) -> str:
    """What spoke against the candidate; that nothing did is one line, and the report has the figures."""
    if verdict.outcome is Outcome.PASS:
        return f": all {len(verdict.reasons)} checks"
    return "".join(f"\n{reason}" for reason in verdict.reasons)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
