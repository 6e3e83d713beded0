"""Client of Airflow's REST API: what the demo and the status page ask of it, as the web page does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from headrace.errors import NotRunningError
from pipelines.errors import ProcessError
from pipelines.settings import LOOPBACK

_API = "/api/v2"
_PAGE = 100
FINISHED = frozenset({"success", "failed"})  # states of a run


@dataclass(frozen=True)
class DagRun:
    """One run of a DAG."""

    dag_id: str
    run_id: str
    state: str  # queued, running, success, failed
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class TaskInstance:
    """The newest try of one task of a run; ``map_index`` is -1 where the task is not mapped."""

    task_id: str
    map_index: int
    state: str | None  # None: not scheduled yet
    try_number: int
    started_at: datetime | None
    ended_at: datetime | None
    queued_at: datetime | None = None
    pid: int | None = None  # of the process of the task, on the machine where it ran


@dataclass(frozen=True)
class Question:
    """A task that waits for a person."""

    dag_id: str
    run_id: str
    task_id: str
    subject: str
    asked_at: datetime | None


class AirflowRefusedError(ProcessError):
    """Airflow answered with an error."""

    def __init__(self, url: str, status: int, detail: str) -> None:
        super().__init__(f"Airflow refused {url} with {status}: {detail}")
        self.status = status


class AirflowApi:
    """One login at one Airflow. Every method raises :class:`NotRunningError` where nothing answers,
    and :class:`AirflowRefusedError` where Airflow answers with an error that the method does not name.

    Args:
        url: Address of the API server.
        user: Login of Airflow's pages.
        password: Of that user.
    """

    def __init__(self, url: str, user: str, password: str, timeout_seconds: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._login = {"username": user, "password": password}
        local = urlsplit(self.url).hostname in LOOPBACK
        self._http = httpx.Client(
            base_url=self.url, timeout=httpx.Timeout(timeout_seconds, connect=3.0), trust_env=not local
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # DAGs

    def dag_ids(self) -> set[str]:
        """DAGs that were parsed."""
        return {item["dag_id"] for item in self._pages(f"{_API}/dags", "dags")}

    def import_errors(self) -> dict[str, str]:
        """Traceback per DAG file that could not be read."""
        return {
            item["filename"]: item["stack_trace"]
            for item in self._pages(f"{_API}/importErrors", "import_errors")
        }

    def unpause(self, dag_id: str) -> None:
        self._call("PATCH", f"{_API}/dags/{quote(dag_id)}", json={"is_paused": False})

    def pause(self, dag_id: str) -> None:
        """Have no run of it start by itself; those that run go on."""
        self._call("PATCH", f"{_API}/dags/{quote(dag_id)}", json={"is_paused": True})

    def paused(self, dag_id: str) -> bool:
        return bool(self._call("GET", f"{_API}/dags/{quote(dag_id)}")["is_paused"])

    def ensure_pool(self, name: str, slots: int, about: str) -> None:
        """Make a pool, or give the one that is there so many slots.

        Raises:
            AirflowRefusedError: Airflow did not take it.
        """
        pool = {"name": name, "slots": slots, "description": about, "include_deferred": False}
        action = {"action": "create", "entities": [pool], "action_on_existence": "overwrite"}
        answer = self._call("PATCH", f"{_API}/pools", json={"actions": [action]})
        if errors := (answer.get("create") or {}).get("errors"):
            raise AirflowRefusedError(f"{self.url}{_API}/pools", 400, str(errors))

    # Runs

    def pools(self) -> list[dict[str, Any]]:
        """Each with its ``name`` and its slots by state, ``queued_slots`` among them."""
        return self._pages(f"{_API}/pools", "pools")

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> DagRun:
        """Start a run now, as the page's button does.

        Raises:
            AirflowRefusedError: ``conf`` breaks the DAG's parameters (400), or there is a run of this id (409).
        """
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        return _run(self._call("POST", f"{_API}/dags/{quote(dag_id)}/dagRuns", json=body))

    def run(self, dag_id: str, run_id: str) -> DagRun | None:
        """None where there is no such run."""
        try:
            return _run(self._call("GET", _path(dag_id, run_id)))
        except AirflowRefusedError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def recent_runs(self, limit: int = 5) -> list[DagRun]:
        """Newest first, of all DAGs."""
        query = {"order_by": "-run_after", "limit": limit}
        return [_run(item) for item in self._call("GET", f"{_API}/dags/~/dagRuns", params=query)["dag_runs"]]

    def questions(self) -> list[Question]:
        """Tasks that wait for a person, of all DAGs."""
        path, query = f"{_API}/dags/~/dagRuns/~/hitlDetails", {"response_received": False, "limit": _PAGE}
        return [
            Question(
                dag_id=item["task_instance"]["dag_id"],
                run_id=item["task_instance"]["dag_run_id"],
                task_id=item["task_instance"]["task_id"],
                subject=item["subject"],
                asked_at=_moment(item.get("created_at")),
            )
            for item in self._call("GET", path, params=query)["hitl_details"]
            if item["task_instance"]["state"] == "awaiting_input"
        ]

    def retry(self, dag_id: str, run_id: str) -> None:
        """Clear what failed in a run, and what waited for it: Airflow runs those tasks again."""
        body = {"dry_run": False, "only_failed": True, "run_on_latest_version": True}
        self._call("POST", f"{_path(dag_id, run_id)}/clear", json=body)

    # Tasks of a run

    def tasks(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        return [
            _task(item) for item in self._pages(f"{_path(dag_id, run_id)}/taskInstances", "task_instances")
        ]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned; None where it returned nothing, or did not run."""
        path = f"{_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/return_value"
        try:
            return self._call("GET", path)["value"]
        except AirflowRefusedError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def log(self, dag_id: str, run_id: str, task: TaskInstance) -> list[str]:
        """Lines of a task's last try: its messages and the text of its errors, without tracebacks."""
        path = f"{_path(dag_id, run_id)}/taskInstances/{quote(task.task_id)}/logs/{max(task.try_number, 1)}"
        answer = self._call("GET", path, params={"map_index": task.map_index, "full_content": True})
        return [line for entry in answer["content"] for line in _log_lines(entry)]

    def run_page(self, dag_id: str, run_id: str) -> str:
        return f"{self.url}/dags/{quote(dag_id)}/runs/{quote(run_id)}"

    # Transport

    def _pages(self, path: str, key: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        while True:
            answer = self._call("GET", path, params={"limit": _PAGE, "offset": len(items)})
            items += answer[key]
            if not answer[key] or len(items) >= answer["total_entries"]:
                return items

    def _call(self, method: str, path: str, **sent: Any) -> Any:
        if "authorization" not in self._http.headers:
            self._authenticate()
        answer = self._send(method, path, **sent)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # the token is too old
            self._authenticate()
            answer = self._send(method, path, **sent)
        return _content(answer)

    def _authenticate(self) -> None:
        answer = self._send("POST", "/auth/token", json=self._login)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise AirflowRefusedError(
                str(answer.url),
                answer.status_code,
                f"the login of {self._login['username']!r} is not that of this Airflow",
            )
        self._http.headers["authorization"] = f"Bearer {_content(answer)['access_token']}"

    def _send(self, method: str, path: str, **sent: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **sent)
        except httpx.HTTPError as error:
            raise NotRunningError(
                f"no answer from Airflow at {self.url}: {error}. Start it with `headrace up`"
            ) from error


def _path(dag_id: str, run_id: str) -> str:
    return f"{_API}/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _content(answer: httpx.Response) -> Any:
    try:
        content = answer.json()
    except ValueError:
        content = {"detail": answer.text[:200]}
    if answer.is_error:
        raise AirflowRefusedError(str(answer.url), answer.status_code, str(content.get("detail", content)))
    return content


def _run(item: dict[str, Any]) -> DagRun:
    return DagRun(
        dag_id=item["dag_id"],
        run_id=item["dag_run_id"],
        state=item["state"],
        queued_at=_moment(item["queued_at"]),
        started_at=_moment(item["start_date"]),
        ended_at=_moment(item["end_date"]),
    )


def _task(item: dict[str, Any]) -> TaskInstance:
    return TaskInstance(
        task_id=item["task_id"],
        map_index=item["map_index"],
        state=item["state"],
        try_number=item["try_number"],
        started_at=_moment(item["start_date"]),
        ended_at=_moment(item["end_date"]),
        queued_at=_moment(item.get("queued_when")),
        pid=item.get("pid"),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _log_lines(entry: dict[str, Any] | str) -> list[str]:
    """Airflow's entry is a message, and for an error the exceptions behind it, innermost first."""
    if isinstance(entry, str):
        return [entry]
    event = str(entry.get("event", ""))
    lines = [] if event.startswith("::") else event.splitlines()
    for error in entry.get("error_detail") or ():
        lines += f"{error['exc_type']}: {error['exc_value']}".splitlines()
    return lines
