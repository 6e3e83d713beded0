"""A calibrated probability and an alarm, from one raw score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.heads.base import BaseHead, FieldType, OutputField


class ProbabilityHead(BaseHead):
    """Platt scaling: p = 1 / (1 + exp(-(slope * score + intercept))); alarm from a threshold on."""

    kind: Literal["probability"] = "probability"
    estimator: str = "booster"
    slope: float
    intercept: float
    alarm_threshold: float = Field(description="Probability from which on the model says: alarm.")
    what: str = Field("the event", description="What the probability is of, for the output's description.")

    def outputs(self) -> tuple[OutputField, ...]:
        return (
            OutputField(
                name="probability", type=FieldType.DOUBLE, description=f"Probability of {self.what}."
            ),
            OutputField(
                name="alarm",
                type=FieldType.BOOLEAN,
                description="Whether the probability reaches the alarm threshold.",
            ),
        )

    def answer(self, columns: Mapping[str, NDArray], raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        score = np.asarray(raw[self.estimator], dtype=np.float64)
        # exp(-log(1 + exp(-z))) is the sigmoid of z without overflow at either end.
        probability = np.exp(-np.logaddexp(0.0, -(self.slope * score + self.intercept)))
        return {"probability": probability, "alarm": probability >= self.alarm_threshold}

    def margin(self, answers: Mapping[str, NDArray]) -> NDArray[np.float64]:
        return np.abs(answers["probability"] - self.alarm_threshold)
