"""What a model's ``build.py`` offers to the stages. A stage knows this protocol and no model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import InputField
from models.specs import ModelSpec

if TYPE_CHECKING:
    import optuna

Params = dict[str, float | int | str | bool]


@dataclass(frozen=True)
class Observations:
    """Labelled rows of one part of a snapshot.

    Attributes:
        columns: Features by name, 1-D arrays of n rows (see :func:`models.encoding.encode`).
        label: Shape (n,), 0 or 1.
        weight: Shape (n,); how many observations each row stands for.
        entity: Shape (n,), strings.
    """

    columns: dict[str, NDArray]
    label: NDArray[np.int8]
    weight: NDArray[np.float64]
    entity: NDArray

    def __len__(self) -> int:
        return len(self.label)


class Fitted(Protocol):
    """A trained model."""

    @property
    def inputs(self) -> tuple[InputField, ...]: ...

    def probability(self, observations: Observations) -> NDArray[np.float64]:
        """Calibrated probability of the label, shape (n,)."""
        ...

    def importance(self) -> dict[str, float]:
        """Share of the total gain by input; the shares add up to 1."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the model's files into the folder; returns the manifest fields that belong to them.

        The fields are ``runtime``, ``inputs``, ``outputs``, ``calibration`` and ``tolerance``.
        """
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
        trial: optuna.Trial | None = None,
    ) -> Fitted:
        """Train; with a trial, report progress to it and stop when it is pruned.

        Raises:
            optuna.TrialPruned: the trial is not worth going on with.
        """
        ...


def builder_of(spec: ModelSpec) -> Builder:
    """The builder in ``models/<name>/build.py``. Imports the model's libraries."""
    builder: Builder = import_module(f"models.{spec.name}.build").BUILDER
    return builder
