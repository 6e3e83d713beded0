"""Kill a job with SIGKILL at a commit of the lake, in a process of its own.

Use, from any test (the job and its arguments must be picklable, as jobs, references and settings
are)::

    from tests.killing import killed_at_commit

    n = 1
    while killed_at_commit(n, job.run, "simulated", "telemetry", window, settings):
        n += 1
    # The last call ran to its end. Now compare with an undisturbed run in another home.

:func:`killed_at_commit` runs ``job(*arguments)`` in a new Python process that kills itself right
before (``when="before"``) or right after (``when="after"``) its n-th commit: a call of
``Lake.append`` or ``Lake.replace``; :func:`killed_at_call` does so at calls of functions that you name. It returns whether the process was killed; False means that the
job ended first. A job that fails in another way raises an AssertionError with its output.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

COMMITS = ("pipelines.adapters.lake:Lake.append", "pipelines.adapters.lake:Lake.replace")
_ROOT = Path(__file__).parents[1]


def killed_at_commit(
    n: int, job: Callable[..., Any], *arguments: Any, when: Literal["before", "after"] = "before"
) -> bool:
    """Whether the job was killed at its n-th commit (from 1), rather than running to its end."""
    return killed_at_call(n, COMMITS, job, *arguments, when=when)


def killed_at_call(
    n: int,
    targets: tuple[str, ...],
    job: Callable[..., Any],
    *arguments: Any,
    when: Literal["before", "after"] = "before",
) -> bool:
    """Whether the job was killed at the n-th call (from 1) of any of the targets.

    Args:
        targets: Functions or methods, each as ``module:name`` or ``module:Class.name``.
    """
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        pickle.dump((n, when, targets, job.__module__, job.__qualname__, arguments), file)
        file.flush()
        child = subprocess.run(
            [sys.executable, "-c", "from tests.killing import _child; _child()", file.name],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if child.returncode == -signal.SIGKILL:
        return True
    assert child.returncode == 0, f"{job.__module__} failed:\n{child.stdout}\n{child.stderr}"
    return False


def _child() -> None:
    n, when, targets, module, name, arguments = pickle.loads(Path(sys.argv[1]).read_bytes())
    _kill_at(n, when, targets)
    getattr(importlib.import_module(module), name)(*arguments)


def _kill_at(n: int, when: str, targets: tuple[str, ...]) -> None:
    calls = 0

    def counted(target: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls == n
            if mine and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = target(*arguments, **options)
            if mine and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for target in targets:
        module, _, path = target.partition(":")
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        setattr(owner, name, counted(getattr(owner, name)))
