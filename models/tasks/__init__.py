"""Kinds of problems: what is maximised, which figures are shown, which naive answers stand beside.

A stage asks the task; the task knows no model. A model with another notion of good returns a task
of its own from its builder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.specs import Classification, Detection, Forecast, ModelSpec

if TYPE_CHECKING:
    from models.base import Task


def task_of(spec: ModelSpec) -> Task:
    """The task that a spec's ``task`` describes.

    Raises:
        ValueError: it is a decision, whose costs only the model's builder knows.
    """
    match spec.task:
        case Classification():
            from models.tasks.classification import ClassificationTask

            return ClassificationTask(spec.task, spec.target.names[0])
        case Forecast():
            from models.tasks.forecast import ForecastTask

            return ForecastTask(spec.task)
        case Detection():
            from models.tasks.detection import DetectionTask

            return DetectionTask(spec.task, spec.target.names[0])
        case _:
            raise ValueError(f"{spec.name}: a decision is judged by its builder: override task()")
