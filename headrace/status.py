"""`headrace status`: one look that tells whether all is well: processes, models, data, drift, runs, and who waits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from headrace.airflow_api import AirflowApi, DagRun, Question
from headrace.credentials import AIRFLOW_USER, credentials
from headrace.data_status import Freshness, Watched, freshness, watched
from headrace.display import coloured, duration
from headrace.processes import programs
from headrace.serving_api import ServingApi
from headrace.supervision import Tree
from pipelines.adapters.serving_client import trusted
from pipelines.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.processes import Program
    from headrace.supervision import ProcessInfo
    from pipelines.settings import Settings

EXPECTED = ("airflow", "mlflow", "serving")
_RUNS = 100  # looked through for the newest of each DAG


@dataclass(frozen=True)
class Service:
    """One page or endpoint. ``state`` is up, starting, down or absent; ``detail`` says why not up."""

    url: str | None
    state: str
    detail: str = ""


@dataclass(frozen=True)
class ModelPointers:
    """Versions by alias, and the version that answers requests now; None: none."""

    production: str | None = None
    previous: str | None = None
    challenger: str | None = None
    serving: str | None = None


@dataclass(frozen=True)
class Status:
    """All that `headrace status` shows.

    Attributes:
        processes: Those of `headrace up` that should last.
        data: By data set of the configured source.
        monitor: By registered model.
        runs: The newest of each DAG, newest first.
        questions: Tasks in Airflow that wait for a person.
    """

    home: Path
    at: datetime
    services: dict[str, Service]
    models: dict[str, ModelPointers]
    processes: list[ProcessInfo] = field(default_factory=list)
    data: dict[str, Freshness] = field(default_factory=dict)
    monitor: dict[str, Watched] = field(default_factory=dict)
    runs: list[DagRun] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    login: tuple[str, str] | None = None  # of Airflow's pages
    notes: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether all that should run does."""
        expected = [*EXPECTED, *(["serving_grpc"] if self.services["serving_grpc"].state != "absent" else [])]
        return all(self.services[name].state == "up" for name in expected)

    def to_json(self) -> dict[str, Any]:
        return {
            "home": str(self.home),
            "services": {
                name: {"url": service.url, "state": service.state} for name, service in self.services.items()
            },
            "models": {name: asdict(pointers) for name, pointers in self.models.items()},
            "processes": {
                process.name: {"state": process.state.lower(), "pid": process.pid or None}
                for process in self.processes
            },
            "freshness": {name: found.to_json(self.at) for name, found in self.data.items()},
            "monitor": {name: found.to_json() for name, found in self.monitor.items()},
            "questions": [
                {
                    "dag_id": each.dag_id,
                    "run_id": each.run_id,
                    "task_id": each.task_id,
                    "subject": each.subject,
                }
                for each in self.questions
            ],
            "runs": [
                {"dag_id": run.dag_id, "run_id": run.run_id, "state": run.state, "started_at": _iso(run)}
                for run in self.runs
            ],
            "notes": self.notes,
        }


def look(settings: Settings) -> Status:
    """Ask everything once. Whatever does not answer is a state here, never an error."""
    tree = Tree(settings)
    processes = tree.processes()
    with httpx.Client(timeout=3, trust_env=False, verify=trusted(settings)) as http:
        services = {
            "airflow": _airflow(settings, processes, http),
            "mlflow": _probed(
                settings.tracking, "/health", settings.tracking_url, processes.get("mlflow"), http
            ),
            "serving": _probed(
                settings.serving, "/v2/health/live", settings.serving_url, processes.get("serving"), http
            ),
            "serving_grpc": _grpc(settings, processes.get("serving")),
            "evidently": _evidently(settings, processes.get("evidently"), http),
        }
    notes: list[str] = []
    login, now = _login(settings), datetime.now(UTC)
    runs, questions = _airflow_tells(settings, services["airflow"], login, notes)
    data, monitor = _lake_tells(settings, now, notes)
    lasting = {program.name for program in programs(settings) if not program.one_shot} if processes else set()
    return Status(
        home=settings.home,
        at=now,
        services=services,
        models=_models(settings, services, notes),
        processes=[process for name, process in sorted(processes.items()) if name in lasting],
        data=data,
        monitor=monitor,
        runs=runs,
        questions=questions,
        login=login,
        notes=notes,
    )


def _probed(url: str, path: str, elsewhere: str, process: ProcessInfo | None, http: httpx.Client) -> Service:
    try:
        answer = http.get(f"{url}{path}")
    except httpx.HTTPError as error:
        if not elsewhere and process is not None and process.alive:
            return Service(url, "starting")
        found = "not started" if process is None else process.state.lower()
        return Service(url, "down", f"no answer: {error}" if elsewhere else found)
    if answer.status_code != httpx.codes.OK:
        return Service(url, "down", f"{path} answers {answer.status_code}")
    if not elsewhere and (process is None or not process.alive):
        return Service(url, "down", "not started; something else answers at this address")
    return Service(url, "up")


def _grpc(settings: Settings, process: ProcessInfo | None) -> Service:
    """Up when the standard health service answers, whatever it says of readiness: as for HTTP."""
    address = settings.serving_grpc
    if not address:
        return Service(None, "absent")
    try:
        import grpc
    except ImportError as error:
        return Service(address, "absent", f"cannot be asked: {error.name} is not installed here")
    try:
        with grpc.insecure_channel(address, (("grpc.enable_http_proxy", 0),)) as channel:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=3)
    except grpc.RpcError as error:
        if not settings.serving_url and process is not None and process.alive:
            return Service(address, "starting")
        return Service(address, "down", f"no answer: {error.code().name}")
    if not settings.serving_url and (process is None or not process.alive):
        return Service(address, "down", "not started; something else answers at this address")
    return Service(address, "up")


def _evidently(settings: Settings, process: ProcessInfo | None, http: httpx.Client) -> Service:
    if not settings.evidently or (process is None and not settings.evidently_url):
        return Service(None, "absent")
    return _probed(settings.evidently, "/api/version", settings.evidently_url, process, http)


def _airflow(settings: Settings, processes: dict[str, ProcessInfo], http: httpx.Client) -> Service:
    """Up when the pages answer, and the scheduler and the DAG processor are alive."""
    path = "/api/v2/monitor/health"
    api = _probed(settings.airflow, path, settings.airflow_url, processes.get("airflow-api"), http)
    if not settings.airflow_url and processes:
        dead = [
            f"{program.title}: {processes[program.name].state.lower()}"
            for program in _lasting_airflow(settings)
            if program.name in processes and not processes[program.name].alive
        ]
        if dead:
            return Service(settings.airflow, "down", "; ".join(dead))
    if api.state != "up":
        return api
    health = http.get(f"{settings.airflow}{path}").json()
    sick = [name for name in ("scheduler", "dag_processor") if health[name]["status"] != "healthy"]
    if sick:
        state = "down" if settings.airflow_url else "starting"
        return Service(settings.airflow, state, f"no heartbeat of {' and '.join(sick)}")
    return api


def _lasting_airflow(settings: Settings) -> list[Program]:
    return [
        program
        for program in programs(settings)
        if program.name.startswith("airflow-") and not program.one_shot
    ]


def _models(settings: Settings, services: dict[str, Service], notes: list[str]) -> dict[str, ModelPointers]:
    """Those of the catalogue and all that are registered."""
    from models.catalogue import CATALOGUE
    from pipelines.adapters.registry import Registry

    aliases: dict[str, dict[str, str]] = {name: {} for name in CATALOGUE}
    if services["mlflow"].state == "up":
        try:
            with Registry(settings.tracking, timeout_seconds=5) as registry:
                aliases |= {model.name: model.aliases for model in registry.registered_models()}
        except HeadraceError as error:
            notes.append(str(error))
    serving: dict[str, str | None] = {}
    if services["serving"].state == "up":
        api = ServingApi(settings, timeout_seconds=5)
        try:
            serving = {name: api.version(name) for name in aliases}
            notes += [f"server: {problem}" for problem in api.readiness()]
        except HeadraceError as error:
            notes.append(str(error))
    return {
        name: ModelPointers(
            production=found.get("production"),
            previous=found.get("previous"),
            challenger=found.get("challenger"),
            serving=serving.get(name),
        )
        for name, found in sorted(aliases.items())
    }


def _airflow_tells(
    settings: Settings, airflow: Service, login: tuple[str, str] | None, notes: list[str]
) -> tuple[list[DagRun], list[Question]]:
    """The newest run of each DAG, and what waits for a person."""
    if airflow.state == "down" or login is None:
        return [], []
    try:
        with AirflowApi(settings.airflow, *login, timeout_seconds=5) as api:
            newest: dict[str, DagRun] = {}
            for run in api.recent_runs(limit=_RUNS):
                newest.setdefault(run.dag_id, run)
            return list(newest.values()), api.questions()
    except HeadraceError as error:
        notes.append(str(error))
        return [], []


def _lake_tells(
    settings: Settings, now: datetime, notes: list[str]
) -> tuple[dict[str, Freshness], dict[str, Watched]]:
    try:
        return freshness(settings, now), watched(settings)
    except HeadraceError as error:
        notes.append(str(error))
    except ImportError as error:  # beside the server alone, there is no lake
        notes.append(f"freshness and drift cannot be told: {error.name} is not installed here")
    return {}, {}


def _login(settings: Settings) -> tuple[str, str] | None:
    """That of the Airflow which `headrace up` starts; another one's is not known here."""
    if settings.airflow_url or not (settings.secrets / "airflow_passwords.json").exists():
        return None
    return AIRFLOW_USER, credentials(settings).airflow_password


def show(status: Status, console: Console) -> None:
    """For people."""
    parts: list[RenderableType] = [services_table(status), "", _models_table(status)]
    if status.data:
        parts += ["", _data_table(status)]
    if status.runs:
        parts += ["", _runs_table(status)]
    told = [Text(f"note: {note}", style="yellow") for note in status.notes]
    told += [
        Text(f"{process.name} is {process.state.lower()}: see logs/{process.name}.log", style="red")
        for process in status.processes
        if not process.alive
    ]
    told += [
        Text(
            f"waits for a person: {each.subject} ({each.dag_id}, {each.run_id}; Airflow, Required Actions)",
            style="yellow",
        )
        for each in status.questions
    ]
    console.print(Group(*parts, "", *told))


def _models_table(status: Status) -> Table:
    headings = ("model", "production", "serving", "previous", "challenger", "last check", "drift", "request")
    table = Table(*headings, box=None, padding=(0, 2))
    for name, pointers in status.models.items():
        seen = status.monitor.get(name, Watched())
        score = "" if seen.drift_score is None else f" {seen.drift_score:.2f}"
        table.add_row(
            name,
            Text(pointers.production or "none yet"),
            _answering(pointers),
            pointers.previous or "",
            pointers.challenger or "",
            f"{seen.until:%Y-%m-%d}" if seen.until else "",
            Text(f"{seen.cause}{score}", style="red" if seen.alarm else ""),
            f"{seen.request} {seen.request_state}" if seen.request is not None else "",
        )
    return table


def _data_table(status: Status) -> Table:
    table = Table("clean rows", "newest (UTC)", "age", box=None, padding=(0, 2))
    for name, found in status.data.items():
        newest = f"{found.newest:%Y-%m-%d %H:%M}" if found.newest else "none"
        age = _age((status.at - found.newest).total_seconds()) if found.newest else ""
        table.add_row(name, newest, Text(age, style="yellow" if found.late else "green"))
    return table


def _runs_table(status: Status) -> Table:
    table = Table(box=None, padding=(0, 2))
    for heading in ("newest runs", "run", "state", "started (UTC)", "took"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "run")
    for run in status.runs:
        took = (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else None
        table.add_row(
            run.dag_id, run.run_id, coloured(run.state), _iso(run)[:16].replace("T", " "), duration(took)
        )
    return table


def _age(seconds: float) -> str:
    if seconds < 0:
        return f"{_age(-seconds)} ahead"
    hours, days = seconds / 3600, seconds / 86400
    return f"{seconds / 60:.0f} min" if hours < 1.5 else f"{hours:.0f} h" if days < 2 else f"{days:.0f} d"


def services_table(status: Status) -> Table:
    """Services with their addresses as links, and Airflow's login."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    titles = {
        "airflow": "Airflow",
        "mlflow": "MLflow",
        "serving": "Server",
        "serving_grpc": "Server, gRPC",
        "evidently": "Evidently",
    }
    for name, service in status.services.items():
        if service.state == "absent":
            continue
        detail = service.detail
        if name == "airflow" and status.login:
            login = f"login {status.login[0]}, password {status.login[1]}"
            detail = f"{detail}; {login}" if detail else login
        link = Text(service.url or "", style=f"link {service.url}" if service.url else "")
        table.add_row(titles.get(name, name), coloured(service.state), link, detail)
    return table


def _answering(pointers: ModelPointers) -> Text:
    if pointers.serving == pointers.production:
        return Text(pointers.serving or "", style="green")
    return Text(f"{pointers.serving or 'nothing'} (not yet {pointers.production})", style="red")


def _iso(run: DagRun) -> str:
    moment = run.started_at or run.queued_at
    return moment.isoformat() if moment else ""
