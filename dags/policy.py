"""Airflow's policy for tasks, by the entry point ``airflow.policy``: with the KubernetesExecutor each stage has its own pod."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from airflow.policies import hookimpl

from pipelines.settings import load_settings

# The stages that share a pod template; every other is of its own name.
_SHARED = {"ingest": "data", "validate": "data", "features": "data"}


@cache
def _folder() -> Path | None:
    """Once per process: a DAG file has dozens of tasks."""
    return load_settings().airflow_pod_templates


@hookimpl
def task_policy(task: Any) -> None:
    """Name the pod template of the task's stage, where the settings have a folder of them and it is there."""
    folder = _folder()
    if folder is None:
        return
    path = folder / f"{_SHARED.get(task.task_id, task.task_id)}.yaml"
    if path.is_file():
        task.executor_config = {"pod_template_file": str(path)} | (task.executor_config or {})
