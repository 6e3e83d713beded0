"""How sizing decisions are judged: by what they cost beyond the best choice in hindsight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Statistic
from models.manifest import InputField
from models.rightsizing.choice import PriceList
from models.rightsizing.classes import CLASSES, workload_class
from models.rightsizing.measures import Resource, resources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADROOM = 1.2  # of the rule: the 95th percentile plus 20 %


@dataclass(frozen=True)
class SizingTask:
    """Judges the output ``size``.

    Attributes:
        prices: The list that sizes come from, with the cost of a short week.
        gauges: Columns that measure the use of CPU and of memory, in this order.
    """

    prices: PriceList
    gauges: tuple[str, ...]

    @property
    def objective(self) -> str:
        return "negative regret in USD a week"

    @property
    def answer(self) -> str:
        return "size"

    def statistic(self, part: Observations, answers: Answers) -> Statistic:
        regret = part.weight * self.regret(part, answers)
        return lambda weight: -(regret @ weight) / (part.weight @ weight)

    def losses(self, part: Observations, answers: Answers) -> Array:
        return self.regret(part, answers)

    def right(self, part: Observations, answers: Answers) -> None:
        return None  # a size is not right or wrong: its regret weighs price against being short

    def figures(self, part: Observations, answers: Answers) -> dict[str, Callable[[Array], float]]:
        """Regret, the share of short weeks, and its distance from the foretold share."""
        regret = self.regret(part, answers)
        short = self.prices.short(self.chosen(answers), *self.demands(part)).astype(np.float64)

        def mean(values: Array) -> Callable[[Array], float]:
            return lambda weight: float(np.average(values, weights=part.weight * weight))

        figures = {"regret_usd_week": mean(regret), "short_share": mean(short)}
        if "risk" in answers:
            gap = mean(answers["risk"] - short)
            figures["risk_error"] = lambda weight: abs(gap(weight))
        return figures

    def regret(self, part: Observations, answers: Answers) -> Array:
        """USD per week beyond the best choice in hindsight, shape (n,)."""
        return self.prices.regret(self.chosen(answers), *self.demands(part))

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        """Regret, price, short weeks and their foretold share; the class's accuracy and calibration; coverage."""
        chosen, (cores, gib) = self.chosen(answers), self.demands(part)
        short = self.prices.short(chosen, cores, gib)
        best = self.prices.cheapest_holding(cores, gib)
        price = self.prices.usd_per_week

        def mean(values: NDArray) -> float:
            return float(np.average(values, weights=part.weight))

        figures = {
            "regret_usd_week": mean(self.regret(part, answers)),
            "price_usd_week": mean(price[chosen]),
            "best_price_usd_week": mean(price[best]),
            "short_share": mean(short),
        }
        if "risk" in answers:
            figures["risk"] = mean(answers["risk"])
            figures["risk_error"] = abs(figures["risk"] - figures["short_share"])
        if "workload_class" in answers:
            figures |= self._class_figures(part, answers)
        for name, demand in (("cpu", cores), ("memory", gib)):
            if f"{name}_demand_upper" in answers:
                lower, upper = answers[f"{name}_demand_lower"], answers[f"{name}_demand_upper"]
                # A demand that equals the end but for its rounding is within.
                slack = 1e-9 + 1e-6 * demand
                figures[f"{name}_coverage"] = mean((demand >= lower - slack) & (demand <= upper + slack))
        return figures

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        """The rule (last week's 95th percentile plus 20 %, at most what there is now) and the present size."""
        found = self.resources(part)
        present = [resource.capacity.of_rows(part.columns) for resource in found]
        usual = [resource.usual.of_rows(part.columns) for resource in found]
        return {
            "p95 plus 20 %": self.named(self.rule(usual, present, HEADROOM)),
            "present size": self.named(
                self.prices.cheapest_holding(*(np.nan_to_num(has) for has in present))
            ),
        }

    def rule(self, used: list[Array], present: list[Array], headroom: float) -> NDArray[np.intp]:
        """The cheapest size that holds so many times the use, but no more than the present capacity.

        The cap favours the rule: what cannot be used now is never measured as missing.
        """
        wanted = [
            np.minimum(np.nan_to_num(use, nan=np.inf) * headroom, np.nan_to_num(has))
            for use, has in zip(used, present, strict=True)
        ]
        return self.prices.cheapest_holding(*wanted)

    def named(self, chosen: NDArray[np.intp]) -> Answers:
        return {"size": np.array([size.name for size in self.prices.sizes], dtype=object)[chosen]}

    def chosen(self, answers: Answers) -> NDArray[np.intp]:
        """Indices into the price list, shape (n,)."""
        places = {size.name: place for place, size in enumerate(self.prices.sizes)}
        return np.array([places[name] for name in answers["size"]], dtype=np.intp)

    def resources(self, part: Observations) -> tuple[Resource, Resource]:
        return resources(self.gauges, part.columns)

    def demands(self, part: Observations) -> tuple[Array, Array]:
        """Cores and GiB that the following week used for all but 1 % of its time."""
        cpu, memory = (resource.demand(part.targets, part.columns) for resource in self.resources(part))
        return cpu, memory

    def positives(self, part: Observations) -> None:
        return None

    def plots(self, part: Observations, answers: Answers) -> dict[str, Figure]:
        from models.rightsizing import plots

        rule = self.baselines(part, part, ())["p95 plus 20 %"]
        return {
            "regret": plots.regret(
                {"ours": self.regret(part, answers), "p95 plus 20 %": self.regret(part, rule)}
            ),
            "risk": plots.risk(answers["risk"], self.prices.short(self.chosen(answers), *self.demands(part))),
        }

    def _class_figures(self, part: Observations, answers: Answers) -> dict[str, float]:
        cpu = self.resources(part)[0]
        truth = workload_class(part.targets, cpu, part.columns)
        probability = np.stack([answers[f"probability_{name}"] for name in CLASSES], axis=1)
        told = probability[np.arange(len(truth)), truth]
        right = probability.argmax(axis=1) == truth
        recalls = [float(np.mean(right[truth == place])) for place in np.unique(truth)]
        return {
            "class_accuracy": float(np.average(right, weights=part.weight)),
            "class_balanced_accuracy": float(np.mean(recalls)),
            "class_log_loss": float(-np.average(np.log(np.maximum(told, 1e-12)), weights=part.weight)),
            "class_calibration_error": _calibration_error(probability.max(axis=1), right, part.weight),
        }


def _calibration_error(confidence: Array, right: NDArray[np.bool_], weight: Array) -> float:
    """Expected calibration error of the leading class, 10 bins of equal width (Guo et al., 2017)."""
    bins = np.minimum((confidence * 10).astype(np.intp), 9)
    total = 0.0
    for number in np.unique(bins):
        rows = bins == number
        gap = np.average(right[rows], weights=weight[rows]) - np.average(
            confidence[rows], weights=weight[rows]
        )
        total += float(np.sum(weight[rows])) * abs(float(gap))
    return total / float(np.sum(weight))
