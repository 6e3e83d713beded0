"""One program of Headrace in the foreground, by the same settings: for containers and other machines.

`headrace run`, `headrace probe`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from headrace.processes import Program
    from pipelines.settings import Settings

_Name = Annotated[
    str, typer.Argument(metavar="PROGRAM", help="As `airflow-scheduler`; a wrong one lists all.")
]
_PROBE_SECONDS = 10


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(run)
    app.command()(probe)


def run(name: _Name) -> None:
    """Become one program, as a container does: airflow-worker, mlflow, serving, …; `headrace up` runs them all."""
    from headrace import processes
    from headrace.environment import environment_of
    from pipelines.settings import load_settings

    settings = load_settings()
    program = processes.program(settings, name)
    variables = environment_of(settings, name)
    for folder in (settings.home / "logs", settings.home / "airflow", settings.home / "mlflow"):
        folder.mkdir(parents=True, exist_ok=True)
    os.chdir(settings.home)
    inherited = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    os.execve(program.command[0], list(program.command), inherited | variables)


def probe(name: _Name) -> None:
    """Whether a program answers: exit code 0, or 3. For health checks of containers."""
    from headrace import processes
    from headrace.display import messages
    from headrace.errors import Exit
    from pipelines.settings import load_settings

    settings = load_settings()
    wrong = _wrong(processes.program(settings, name), settings)
    if wrong:
        messages().print(f"{name}: {wrong}", markup=False)
        raise typer.Exit(Exit.NOT_RUNNING)


def _wrong(program: Program, settings: Settings) -> str:
    """What is wrong with it; empty where nothing is."""
    import subprocess

    import httpx

    from headrace.environment import environment_of
    from headrace.local import heart_beats
    from pipelines.adapters.serving_client import trusted

    if program.check:
        variables = os.environ | environment_of(settings, program.name)
        done = subprocess.run(program.check, env=variables, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()
    if program.ready_url is None:
        return "nothing tells whether it is well; look whether its process runs"
    try:
        answer = httpx.get(
            program.ready_url, timeout=_PROBE_SECONDS, trust_env=False, verify=trusted(settings)
        )
    except httpx.HTTPError as error:
        return f"{program.ready_url}: {error}"
    if answer.status_code != httpx.codes.OK:
        return f"{program.ready_url} answers {answer.status_code}"
    if program.heartbeat and not heart_beats(answer.json(), program.heartbeat, since=0):
        return f"its heart does not beat, says {program.ready_url}"
    return ""
