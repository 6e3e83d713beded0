"""Worlds in which it is known how much better a candidate is: what the gate should say is known too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import norm

from models.base import Answers, Array, Observations, Statistic
from models.manifest import InputField
from models.specs import Bound, Classification, Forecast, Gate
from models.tasks.classification import ClassificationTask
from models.tasks.forecast import ForecastTask
from pipelines.evaluate.comparison import Answered, Plan

START = np.datetime64("2026-01-01", "us")
BURN_IN = 300
ROWS_A_DAY = 20
PREVALENCE = 0.2
MACHINES = {200: 20, 500: 25, 2000: 40}

Draw = Callable[[np.random.Generator, int, float, float], tuple[Observations, Answers, Answers]]


@dataclass(frozen=True)
class World:
    """A kind of model and how its truth is drawn.

    Attributes:
        draw: ``(random, n, phi, effect)`` to the holdout and what candidate and champion answer.
        worse: An effect that makes the candidate worse, by what ``unit`` says.
        better: Effects that make it better.
        row_gain: Per-row gains, which a naive paired t-test takes for independent.
    """

    name: str
    task: Any
    gate: Gate
    plan: Plan
    draw: Draw
    worse: float
    better: tuple[float, ...]
    unit: str
    row_gain: Callable[[Any, Observations, Answers, Answers], Array]

    def case(
        self, random: np.random.Generator, rows: int, phi: float, effect: float
    ) -> tuple[Observations, Answered, Answered]:
        part, candidate, champion = self.draw(random, rows, phi, effect)
        return part, Answered("candidate", candidate), Answered("version 1", champion)


@dataclass(frozen=True)
class RegretTask:
    """Decisions whose regret is drawn."""

    objective: str = "negative regret"
    answer: str = "regret"

    def losses(self, part: Observations, answers: Answers) -> Array:
        return answers["regret"]

    def right(self, part: Observations, answers: Answers) -> None:
        return None

    def statistic(self, part: Observations, answers: Answers) -> Statistic:
        return lambda weight: -(answers["regret"] @ weight) / weight.sum(axis=0)

    def metrics(self, part: Observations, answers: Answers) -> dict[str, float]:
        return {"regret": float(np.mean(answers["regret"]))}

    def figures(self, part: Observations, answers: Answers) -> dict[str, Callable[[Array], float]]:
        return {}

    def positives(self, part: Observations) -> None:
        return None

    def baselines(
        self, train: Observations, part: Observations, inputs: tuple[InputField, ...]
    ) -> dict[str, Answers]:
        return {"nothing": {"regret": np.zeros(len(part))}}

    def plots(self, part: Observations, answers: Answers) -> dict[str, Any]:
        return {}


def autoregression(random: np.random.Generator, series: int, length: int, phi: float) -> Array:
    """Series of unit variance, shape (series, length)."""
    noise = random.normal(size=(series, length + BURN_IN))
    values = lfilter([1.0], [1.0, -phi], noise, axis=1)[:, BURN_IN:]
    return np.asarray(values * np.sqrt(1 - phi**2))


def forecasts(
    random: np.random.Generator, rows: int, phi: float, effect: float
) -> tuple[Observations, Answers, Answers]:
    """One series; the loss difference is an autoregression of sd 1 % of the truth around ``effect`` sd."""
    truth = np.full(rows, 100.0)
    gain = effect + autoregression(random, 1, rows, phi)[0]
    part = Observations(
        {},
        {"load": truth},
        np.ones(rows),
        np.full(rows, "service", dtype=object),
        START + np.arange(rows) * np.timedelta64(1, "h"),
    )
    return part, {"forecast": truth + 10.0 - gain}, {"forecast": truth + 10.0}


def decisions(
    random: np.random.Generator, rows: int, phi: float, effect: float
) -> tuple[Observations, Answers, Answers]:
    """20 decisions a day; gains follow each other by ``phi``, and share half an sd within a day."""
    days = rows // ROWS_A_DAY
    of_day = np.repeat(random.normal(size=days) * 0.5, ROWS_A_DAY)
    gain = effect + autoregression(random, 1, rows, phi)[0] + of_day
    part = Observations(
        {},
        {},
        np.ones(rows),
        np.array([f"vm{number}" for number in range(rows)], dtype=object),
        START + np.arange(rows) * np.timedelta64(86_400 // ROWS_A_DAY, "s"),
    )
    return part, {"regret": 10.0 - gain}, {"regret": np.full(rows, 10.0)}


def detections(
    random: np.random.Generator, rows: int, phi: float, effect: float
) -> tuple[Observations, Answers, Answers]:
    """Machines whose outcomes, and what models make of them, hang together; the candidate's signal is stronger."""
    machines = MACHINES.get(rows, rows // 50)
    each = rows // machines
    latent = 0.8 * autoregression(random, machines, each, phi) + 0.6 * random.normal(size=(machines, 1))
    label = (latent > norm.ppf(1 - PREVALENCE)).astype(np.float64)
    common = 0.7 * autoregression(random, machines, each, phi)

    def model(signal: float) -> Answers:
        own = 0.7 * autoregression(random, machines, each, phi) + 0.5 * random.normal(size=(machines, 1))
        score = (signal * label + common + own).ravel()
        return {"probability": 1 / (1 + np.exp(-score)), "alarm": score > 1.5}

    part = Observations(
        {},
        {"event": label.ravel()},
        np.ones(rows),
        np.repeat(np.array([f"m{number}" for number in range(machines)], dtype=object), each),
        np.tile(START + np.arange(each) * np.timedelta64(1, "h"), machines),
    )
    return part, model(1.5 + effect), model(1.5)


def loss_gain(task: Any, part: Observations, ours: Answers, theirs: Answers) -> Array:
    return np.asarray(task.losses(part, theirs) - task.losses(part, ours))


def right_gain(task: Any, part: Observations, ours: Answers, theirs: Answers) -> Array:
    return np.asarray(task.right(part, ours) - task.right(part, theirs))


def true_gain(effect: float, seed: int = 1, rows: int = 1_000_000) -> float:
    """Difference in average precision that a signal makes, on a million rows."""
    part, ours, theirs = detections(np.random.default_rng(seed), rows, 0.0, effect)
    task = ClassificationTask(Classification(), "event")
    ones: NDArray[np.float64] = np.ones(rows)
    return float(task.statistic(part, ours)(ones) - task.statistic(part, theirs)(ones))


_BOUNDS = {"any": Bound(maximum=1.0)}

WORLDS = (
    World(
        "forecasts",
        ForecastTask(Forecast(target="load", lower=None, upper=None)),
        Gate(bounds=_BOUNDS),
        Plan("time"),
        forecasts,
        -0.1,
        (0.1, 0.25, 0.5, 1.0),
        "sd of the loss difference",
        loss_gain,
    ),
    World(
        "detectors",
        ClassificationTask(Classification(), "event"),
        # One row in five is positive here: the share of right decisions moves with it.
        Gate(bounds=_BOUNDS, decision_margin=0.05),
        Plan("entity", resamples=500),
        detections,
        -0.1,
        (0.25, 0.5, 1.0),
        "of signal",
        right_gain,
    ),
    World(
        "decisions",
        RegretTask(),
        Gate(bounds=_BOUNDS),
        Plan("day", horizon=timedelta(0)),
        decisions,
        -0.1,
        (0.1, 0.25, 0.5, 1.0),
        "sd of the regret difference",
        loss_gain,
    ),
)
