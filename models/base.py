"""What a model's ``build.py`` offers to the stages. A stage knows these protocols and no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import InputField, ServingParts
from models.specs import ModelSpec

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

Params = dict[str, float | int | str | bool]
Array = NDArray[np.float64]
#: A function of rows' weights: of shape (n,) to a number, of shape (n, k) to the k numbers of as many weightings.
Statistic = Callable[[Array], Any]
#: Outputs of a model by name, each of shape (n,).
Answers = dict[str, NDArray]


@dataclass(frozen=True)
class Observations:
    """Rows of one part of a snapshot.

    Attributes:
        columns: Inputs by name, 1-D arrays of n rows (see :func:`models.encoding.encode`).
        targets: Targets by name without their prefix, float64 of shape (n,); NaN: not known.
        weight: Shape (n,); how many observations each row stands for.
        entity: Shape (n,), strings.
        time: Shape (n,), datetime64[us], UTC.
    """

    columns: dict[str, NDArray]
    targets: dict[str, Array]
    weight: Array
    entity: NDArray
    time: NDArray[np.datetime64] = field(
        default_factory=lambda: np.empty(0, dtype="datetime64[us]"), repr=False
    )

    def __len__(self) -> int:
        return len(self.weight)

    def rows(self, chosen: NDArray) -> Observations:
        """The chosen rows, by index or by mask."""
        return Observations(
            {name: values[chosen] for name, values in self.columns.items()},
            {name: values[chosen] for name, values in self.targets.items()},
            self.weight[chosen],
            self.entity[chosen],
            self.time[chosen] if len(self.time) else self.time,
        )


class Fitted(Protocol):
    """A trained model."""

    @property
    def inputs(self) -> tuple[InputField, ...]:
        """What callers may send: features, and what only the head takes (optional inputs)."""
        ...

    def answer(self, observations: Observations) -> Answers:
        """Outputs by name, from the native estimators through the same head that serves."""
        ...

    def importance(self) -> dict[str, float]:
        """Share of each input in what the model says; the shares add up to 1."""
        ...

    def save(self, folder: Path) -> ServingParts:
        """Write the estimators' files into the folder."""
        ...


class Task(Protocol):
    """How answers are judged. Everything that is compared counts upwards: higher is better."""

    @property
    def objective(self) -> str:
        """Name of what tuning maximises and the gate compares."""
        ...

    @property
    def answer(self) -> str:
        """Name of the output that callers act on."""
        ...

    def statistic(self, part: Observations, answers: Answers) -> Statistic:
        """The objective as a function of the rows' weights, which a bootstrap varies; higher is better."""
        ...

    def losses(self, part: Observations, answers: Answers) -> Array | None:
        """Loss of each row, shape (n,), whose weighted mean is minus the objective; None where there is no such."""
        ...

    def right(self, part: Observations, answers: Answers) -> Array | None:
        """1 where the decision that was answered was right, 0 where wrong, NaN where nobody knows, shape (n,).

        None where the answers hold no such decision.
        """
        ...

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """The figures that a run shows and that a gate may bound."""
        ...

    def figures(self, part: Observations, answers: Answers) -> dict[str, Callable[[Array], float]]:
        """Those of the metrics that are functions of the rows' weights, which a bootstrap or a group varies."""
        ...

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        """What needs no model, by name, answered on ``part``. Anything learned is learned on ``train``."""
        ...

    def positives(self, part: Observations) -> int | None:
        """Rows with the outcome; None where the task has no such thing."""
        ...

    def plots(self, part: Observations, answers: Answers) -> dict[str, Figure]:
        """Figures to look at, by name."""
        ...


class Builder(Protocol):
    """How a model is built."""

    def default_params(self) -> Params:
        """Known good parameters; the first trial."""
        ...

    def suggest(self, trial: optuna.Trial) -> Params:
        """Draw parameters from the search space."""
        ...

    def fit(
        self,
        train: Observations,
        valid: Observations,
        inputs: tuple[InputField, ...],
        params: Params,
        seed: int,
        spec: ModelSpec,
        trial: optuna.Trial | None = None,
    ) -> Fitted:
        """Train; stopping, calibration and thresholds are learned on ``valid``.

        With a trial, report progress to it and stop when it is pruned.

        Raises:
            optuna.TrialPruned: the trial is not worth going on with.
        """
        ...

    def task(self, spec: ModelSpec) -> Task:
        """How the model's answers are judged; most builders return ``task_of(spec)``."""
        ...


def builder_of(spec: ModelSpec) -> Builder:
    """The builder in ``models/<name>/build.py``. Imports the model's libraries."""
    builder: Any = import_module(f"models.{spec.name}.build").BUILDER
    return builder  # type: ignore[no-any-return]
