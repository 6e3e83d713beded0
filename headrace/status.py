"""`headrace status`: one look at the services, the models and the recent runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from headrace.airflow_api import AirflowApi, DagRun
from headrace.credentials import AIRFLOW_USER, credentials
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
    """All that `headrace status` shows."""

    home: Path
    services: dict[str, Service]
    models: dict[str, ModelPointers]
    runs: list[DagRun] = field(default_factory=list)
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
    login = _login(settings)
    return Status(
        home=settings.home,
        services=services,
        models=_models(settings, services, notes),
        runs=_runs(settings, services["airflow"], login, notes),
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


def _runs(
    settings: Settings, airflow: Service, login: tuple[str, str] | None, notes: list[str]
) -> list[DagRun]:
    if airflow.state == "down" or login is None:
        return []
    try:
        with AirflowApi(settings.airflow, *login, timeout_seconds=5) as api:
            return api.recent_runs()
    except HeadraceError as error:
        notes.append(str(error))
        return []


def _login(settings: Settings) -> tuple[str, str] | None:
    """That of the Airflow which `headrace up` starts; another one's is not known here."""
    if settings.airflow_url or not (settings.home / "secrets" / "airflow_passwords.json").exists():
        return None
    return AIRFLOW_USER, credentials(settings).airflow_password


def show(status: Status, console: Console) -> None:
    """For people."""
    parts: list[RenderableType] = [services_table(status)]
    models = Table("model", "production", "serving", "previous", "challenger", box=None, padding=(0, 2))
    for name, pointers in status.models.items():
        models.add_row(
            name,
            Text(pointers.production or "none yet"),
            _answering(pointers),
            pointers.previous or "",
            pointers.challenger or "",
        )
    parts += ["", models]
    if status.runs:
        runs = Table(box=None, padding=(0, 2))
        for heading in ("recent runs", "run", "state", "started (UTC)", "took"):
            runs.add_column(heading, overflow="fold", no_wrap=heading != "run")
        for run in status.runs:
            took = (
                (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else None
            )
            runs.add_row(
                run.dag_id, run.run_id, coloured(run.state), _iso(run)[:16].replace("T", " "), duration(took)
            )
        parts += ["", runs]
    parts += ["", *(Text(f"note: {note}", style="yellow") for note in status.notes)]
    console.print(Group(*parts))


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
