"""`headrace up` and `headrace down`: the local processes as one thing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import httpx

from headrace.airflow_api import AirflowApi
from headrace.credentials import AIRFLOW_USER, credentials
from headrace.display import Board, messages
from headrace.environment import environment
from headrace.preflight import check_disk, check_ports
from headrace.processes import TRAINING_POOL, TRAINING_POOL_IS, Program, programs, training_slots
from headrace.supervision import ProcessInfo, Tree, tail
from pipelines.adapters.serving_client import trusted
from pipelines.errors import ProcessError

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.credentials import Credentials
    from pipelines.settings import Settings

READY_SECONDS = 240  # a cold start of the slowest program on a busy machine of 2 cores takes a tenth of it
_ENDED = {"FATAL", "EXITED", "BACKOFF", "UNKNOWN"}


def up(settings: Settings) -> list[Program]:
    """Start what does not run, each program once those that it needs are ready; returns the programs.

    Raises:
        ProcessError: too little disk, a port that is taken, or a program that did not start; the
            text holds the last lines of its log.
    """
    wanted = programs(settings)
    secrets = credentials(settings)
    variables = environment(settings, secrets)
    tree = Tree(settings)
    with tree.locked(_say_waiting):
        if tree.alive() and not tree.current(wanted, variables):
            messages().print(
                "Settings or packages changed since the processes were started: starting them anew."
            )
            _down(tree, wanted)
        if not tree.alive():
            if swept := tree.sweep():
                messages().print(f"Ended {swept} processes that an earlier tree left behind.")
            check_disk(settings.home)
            check_ports(wanted, settings.bind_host)
            tree.launch(wanted, variables)
        _start(tree, wanted, settings)
        if not settings.airflow_url:
            _make_pool(settings, secrets)
    return wanted


def _make_pool(settings: Settings, secrets: Credentials) -> None:
    """Tasks of a pool that is not there would wait for ever."""
    with AirflowApi(settings.airflow, AIRFLOW_USER, secrets.airflow_password) as airflow:
        airflow.ensure_pool(TRAINING_POOL, training_slots(settings), TRAINING_POOL_IS)


def down(settings: Settings) -> int:
    """Stop everything; nothing of this home survives. Returns how many stray processes were ended.

    Raises:
        ProcessError: a process survives SIGKILL.
    """
    tree = Tree(settings)
    with tree.locked(_say_waiting):
        return _down(tree, programs(settings))


def _down(tree: Tree, wanted: list[Program]) -> int:
    tree.shut_down(wanted)
    return tree.sweep()


@dataclass
class _Start:
    """How far one program is on its way up."""

    program: Program
    began: float = 0.0  # monotonic; 0: not yet
    pid: int = 0
    ready: bool = False
    failure: str = ""


def _start(tree: Tree, wanted: list[Program], settings: Settings) -> None:
    """Start all; one that fails keeps back only those that need it."""
    starts = {program.name: _Start(program) for program in wanted}
    with (
        httpx.Client(timeout=2, trust_env=False, verify=trusted(settings)) as http,
        Board(messages(), f"Starting; logs are in {tree.logs}") as board,
    ):
        for program in wanted:
            board.add(program.name, program.title)
        while pending := [start for start in starts.values() if not (start.ready or start.failure)]:
            running = tree.processes()
            if not running:
                raise ProcessError(f"supervisord ended; its log is {tree.log('supervisord')}")
            for start in pending:
                needs = [starts[name] for name in start.program.after]
                if any(need.failure for need in needs):
                    start.failure = f"{start.program.title} was not started."
                    board.set(start.program.name, "not started")
                elif all(need.ready for need in needs):
                    _advance(tree, start, running[start.program.name], http, board)
            time.sleep(0.1)
    if failures := [start.failure for start in starts.values() if start.failure]:
        ready = [
            start.program.title for start in starts.values() if start.ready and not start.program.one_shot
        ]
        left = f"{', '.join(ready)} left running; `headrace down` stops all." if ready else ""
        raise ProcessError("\n".join([*failures, left]).strip())


def _advance(tree: Tree, start: _Start, info: ProcessInfo, http: httpx.Client, board: Board) -> None:
    """One look at a program whose turn it is."""
    program = start.program
    if not start.began:
        start.began = time.monotonic()
        if not info.alive:
            tree.start(program.name)
            board.set(program.name, "starting", tree.log(program.name).name)
        return
    if _is_ready(program, info, http):
        start.ready = True
        if program.stamp:
            path, text = program.stamp
            path.write_text(text, "utf-8")
        board.set(program.name, "done" if program.one_shot else "up", program.page)
        return
    start.pid = start.pid or info.pid
    seconds = time.monotonic() - start.began
    ended = info.state in _ENDED or bool(
        info.pid and info.pid != start.pid
    )  # another pid: it was started again
    if ended or seconds > READY_SECONDS:
        why = "ended while it started" if ended else f"is not ready after {READY_SECONDS} s"
        board.set(program.name, "failed", tree.log(program.name).name)
        tree.stop(program.name)
        start.failure = _failure(tree.log(program.name), program.title, why)


def _is_ready(program: Program, info: ProcessInfo, http: httpx.Client) -> bool:
    if program.one_shot:
        return info.state == "EXITED" and info.exit_status == 0
    if program.ready_url is None:
        return info.state == "RUNNING"  # it has lived for a second
    if info.state not in {"STARTING", "RUNNING"}:
        return False
    try:
        answer = http.get(program.ready_url)
    except httpx.HTTPError:
        return False
    if answer.status_code != httpx.codes.OK:
        return False
    return program.heartbeat is None or heart_beats(answer.json(), program.heartbeat, info.started)


def heart_beats(health: dict[str, dict[str, str | None]], component: str, since: float) -> bool:
    """Whether Airflow's health answer shows a heartbeat of a component from after its start.

    Args:
        since: Unix time of the start: the answer still shows the last run's heartbeat for a while.
    """
    found = health.get(component) or {}
    latest = found.get(f"latest_{component}_heartbeat")
    return found.get("status") == "healthy" and bool(latest) and _unix(str(latest)) >= since


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _failure(log: Path, title: str, why: str) -> str:
    lines = "\n".join(f"  {line}" for line in tail(log)) or "  (it wrote nothing)"
    return f"{title} {why}. The last lines of {log}:\n{lines}"


def _say_waiting() -> None:
    messages().print("Another `headrace up` or `headrace down` is at work here: waiting for it.")
