"""How bandwidth is judged: as any forecast, and against the last value, which is hard to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.base import Answers, Array, Observations
from models.manifest import InputField
from models.tasks.forecast import ForecastTask


@dataclass(frozen=True)
class BandwidthTask(ForecastTask):
    """WAPE, intervals and the rest of :class:`ForecastTask`; the naive forecast is a sum of inputs.

    Attributes:
        traffic: Columns whose sum is the target.
    """

    traffic: tuple[str, ...] = ()

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """With ``wape_over_naive``: the WAPE over that of the last value on the same rows."""
        figures = super().metrics(part, answers)
        naive = -self.statistic(part, {self.config.output: self.naive(part)})(np.ones(len(part)))
        return figures | {"naive_wape": naive, "wape_over_naive": figures["wape"] / max(naive, 1e-12)}

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        """The last value, and the mean of the last 15 minutes."""
        return {
            "naive (last value)": {self.config.output: self.naive(part)},
            "mean of 15 minutes": {self.config.output: self.naive(part, steps=3)},
        }

    def naive(self, part: Observations, steps: int = 1) -> Array:
        """Mean of the newest steps, of both directions together; 0 where none is known."""
        names = [f"{column}__lag_{step}" for column in self.traffic for step in range(steps)]
        known = np.nan_to_num(np.stack([part.columns[name].astype(np.float64) for name in names]))
        total: Array = known.sum(axis=0) / steps
        return total
