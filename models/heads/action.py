"""Head of the scaling model: loads ahead, step by step, and the action that they call for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.heads.base import BaseHead, FieldType, OutputField
from models.heads.interval import Columns, IntervalHead, Level
from models.scaling.policy import Outlook, ScalingPolicy, Situation, decide
from models.targets import STEPS_AHEAD

#: Optional input: a reading that is newer than the features.
CURRENT_LOAD = "current_load"


class ActionHead(BaseHead):
    """Forecast and interval at the step that is asked for; an action for the largest load until then.

    Replicas that are asked for now serve once they have started. A caller asks for the step at which
    that will be, and the policy plans for the worst of all steps up to it.
    """

    kind: Literal["action"] = "action"
    steps: tuple[IntervalHead, ...] = Field(min_length=1, description="One a step ahead, the nearest first.")
    now: Level = Field(description="The load that is there.")
    policy: ScalingPolicy

    @model_validator(mode="after")
    def _one_coverage(self) -> Self:
        if len({step.coverage for step in self.steps}) != 1:
            raise ValueError(
                f"steps differ in their coverage: {sorted({step.coverage for step in self.steps})}"
            )
        return self

    def outputs(self) -> tuple[OutputField, ...]:
        return (
            *self.steps[-1].outputs(),
            OutputField(
                name="action",
                type=FieldType.STRING,
                description="scale_out_fast, scale_out, hold, scale_in or scale_in_fast.",
            ),
            OutputField(
                name="desired_replicas",
                type=FieldType.LONG,
                unit="count",
                description="Replicas to ask for, never outside the bounds.",
            ),
            OutputField(
                name="confidence",
                type=FieldType.DOUBLE,
                description="Probability that the load ahead bears the action out.",
            ),
        )

    def explained(self, estimator: str) -> dict[str, int]:
        return {
            f"{name} at step {step}": place
            for step, head in enumerate(self.steps, start=1)
            for name, place in head.explained(estimator).items()
        }

    def answer(self, columns: Columns, raw: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs, each of shape (n,).

        Args:
            columns: The inputs that the levels name, and where given ``steps_ahead`` (missing: the
                last step), ``current_load`` and the inputs of
                :data:`models.scaling.policy.SITUATION`.
            raw: Raw outputs by estimator, as the steps' heads take them.
        """
        paths = self._paths(columns, raw)
        rows = paths["forecast"].shape[1]
        asked = self._asked(columns, rows)
        decisions = decide(self.policy, self._outlook(columns, paths, asked), Situation.of(columns, rows))
        return {
            **{name: path[asked, np.arange(rows)] for name, path in paths.items()},
            "action": decisions.action,
            "desired_replicas": decisions.desired_replicas,
            "confidence": decisions.confidence,
        }

    def outlook(self, columns: Columns, raw: Mapping[str, NDArray]) -> Outlook:
        """What the policy is told: the load that is there, and the largest up to the step asked for."""
        paths = self._paths(columns, raw)
        return self._outlook(columns, paths, self._asked(columns, paths["forecast"].shape[1]))

    def _outlook(
        self, columns: Columns, paths: Mapping[str, NDArray[np.float64]], asked: NDArray[np.intp]
    ) -> Outlook:
        ahead = np.arange(len(self.steps))[:, None] <= asked
        peaks = {name: np.where(ahead, path, -np.inf).max(axis=0) for name, path in paths.items()}
        return Outlook(self._now(columns), **peaks, coverage=self.steps[0].coverage)

    def _now(self, columns: Columns) -> NDArray[np.float64]:
        """The load that the caller reads at this moment, or else that of the newest features."""
        known = self.now.of(columns)
        read = np.asarray(columns.get(CURRENT_LOAD, np.full(len(known), np.nan)), dtype=np.float64)
        return np.where(np.isfinite(read), np.maximum(read, 0.0), known)

    def _paths(self, columns: Columns, raw: Mapping[str, NDArray]) -> dict[str, NDArray[np.float64]]:
        """Forecast, lower and upper, each of shape (steps, n)."""
        answers = [step.answer(columns, raw) for step in self.steps]
        return {
            name: np.stack([answer[name] for answer in answers]) for name in ("forecast", "lower", "upper")
        }

    def _asked(self, columns: Columns, rows: int) -> NDArray[np.intp]:
        """Index of the step that each row asks for, shape (n,)."""
        last = len(self.steps)
        given = np.asarray(columns.get(STEPS_AHEAD, np.full(rows, np.nan)), dtype=np.float64)
        return np.clip(np.where(np.isnan(given), last, given), 1, last).astype(np.intp) - 1
