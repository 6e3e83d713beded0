"""What every head is: data, with a pure function from raw answers to outputs.

Training and serving use the same head, so the two can differ by nothing but the runtime of the
estimators. All state is JSON data in the manifest. NumPy and pydantic only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from feature_repo.datasets import Frozen


class FieldType(StrEnum):
    """Types of inputs and outputs, by MLflow's names."""

    DOUBLE = "double"
    LONG = "long"
    STRING = "string"
    BOOLEAN = "boolean"


class OutputField(Frozen):
    """One output of a model."""

    name: str
    type: FieldType
    unit: str = ""
    description: str = ""


class BaseHead(Frozen, ABC):
    """A head; each kind has a ``kind`` of its own by which the manifest tells it."""

    @abstractmethod
    def outputs(self) -> tuple[OutputField, ...]:
        """The outputs in the order in which they are answered."""

    @abstractmethod
    def answer(self, columns: Mapping[str, NDArray], raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs by name, each of shape (n,).

        Args:
            columns: Inputs by name, shape (n,); optional ones are NaN or None where not given.
            raw: Raw answers by estimator, shape (n,) or (n, k).
        """

    def explained(self, estimator: str) -> dict[str, int]:
        """Which raw answers of an estimator of several are worth explaining: place by name."""
        return {}

    def margin(self, answers: Mapping[str, NDArray]) -> NDArray[np.float64] | None:
        """How far each row is from a threshold that decides an output of it; None: none does.

        A loaded model may decide otherwise where a rounding within the tolerance decides.
        """
        return None
