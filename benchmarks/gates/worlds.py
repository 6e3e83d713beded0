"""Worlds in which it is known how much better a candidate is: what the gate should say is known too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
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
SIGNAL, ALARM = 1.5, 1.5  # what the event adds to the champion's score; scores above the other are alarms
SHARED, OWN, OF_MACHINE = (
    0.7,
    0.7,
    0.5,
)  # sd of what else is in a score: common to both models, and to one alone
SPREAD = float(np.sqrt(SHARED**2 + OWN**2 + OF_MACHINE**2))
DECISION_MARGIN = 0.05

Draw = Callable[[np.random.Generator, int, float, float], tuple[Observations, Answers, Answers]]


@dataclass(frozen=True)
class World:
    """A kind of model and how its truth is drawn.

    Attributes:
        draw: ``(random, n, phi, effect)`` to the holdout and what candidate and champion answer.
        worse: An effect that makes the candidate worse, by what ``unit`` says.
        better: Effects that make it better.
        margin: How much the rule of no inferiority lets be lost, in the task's objective.
        at_margin: The effect that loses just that.
        row_gain: Per-row gains, which a naive paired t-test takes for independent.
    """

    name: str
    task: Any
    gate: Gate
    plan: Plan
    draw: Draw
    worse: float
    better: tuple[float, ...]
    margin: float
    at_margin: float
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
    random: np.random.Generator, rows: int, phi: float, effect: float, threshold: float = ALARM
) -> tuple[Observations, Answers, Answers]:
    """Machines whose outcomes, and what models make of them, hang together; the candidate's signal is stronger."""
    machines = MACHINES.get(rows, rows // 50)
    each = rows // machines
    latent = 0.8 * autoregression(random, machines, each, phi) + 0.6 * random.normal(size=(machines, 1))
    label = (latent > norm.ppf(1 - PREVALENCE)).astype(np.float64)
    common = SHARED * autoregression(random, machines, each, phi)

    def model(signal: float, threshold: float) -> Answers:
        own = OWN * autoregression(random, machines, each, phi)
        own += OF_MACHINE * random.normal(size=(machines, 1))
        score = (signal * label + common + own).ravel()
        return {"probability": 1 / (1 + np.exp(-score)), "alarm": score > threshold}

    part = Observations(
        {},
        {"event": label.ravel()},
        np.ones(rows),
        np.repeat(np.array([f"m{number}" for number in range(machines)], dtype=object), each),
        np.tile(START + np.arange(each) * np.timedelta64(1, "h"), machines),
    )
    return part, model(SIGNAL + effect, threshold), model(SIGNAL, ALARM)


def too_many_alarms(
    random: np.random.Generator, rows: int, phi: float, effect: float
) -> tuple[Observations, Answers, Answers]:
    """As :func:`detections`, with alarms so eager that fewer decisions are right, by the whole margin."""
    return detections(random, rows, phi, effect, eager_threshold(effect))


def loss_gain(task: Any, part: Observations, ours: Answers, theirs: Answers) -> Array:
    return np.asarray(task.losses(part, theirs) - task.losses(part, ours))


def right_gain(task: Any, part: Observations, ours: Answers, theirs: Answers) -> Array:
    return np.asarray(task.right(part, ours) - task.right(part, theirs))


def true_gain(effect: float) -> float:
    """Difference in average precision that a signal makes, of infinitely many rows.

    Scores are normal given the outcome, so that precision and recall at each threshold are known.
    """

    def average_precision(signal: float) -> float:
        def precision_by_recall(line: float) -> float:
            found, false = _alarms(line, signal)
            density = norm.pdf(line, signal, SPREAD)
            return float(density * PREVALENCE * found / (PREVALENCE * found + (1 - PREVALENCE) * false))

        area, _ = quad(precision_by_recall, signal - 8 * SPREAD, signal + 8 * SPREAD)
        return float(area)

    return average_precision(SIGNAL + effect) - average_precision(SIGNAL)


def eager_threshold(effect: float) -> float:
    """The threshold below the champion's at which a candidate is right less often by the margin."""

    def right(line: float, signal: float) -> float:
        found, false = _alarms(line, signal)
        return PREVALENCE * found + (1 - PREVALENCE) * (1 - false)

    aim = right(ALARM, SIGNAL) - DECISION_MARGIN
    return float(brentq(lambda line: right(line, SIGNAL + effect) - aim, -3.0, ALARM))


def _alarms(line: float, signal: float) -> tuple[float, float]:
    """Shares above a line of rows with the event, and of rows without."""
    return float(norm.sf(line, signal, SPREAD)), float(norm.sf(line, 0.0, SPREAD))


_BOUNDS = {"any": Bound(maximum=1.0)}

WORLDS = (
    World(
        name="forecasts",
        task=ForecastTask(Forecast(target="load", lower=None, upper=None)),
        gate=Gate(bounds=_BOUNDS),
        plan=Plan("time"),
        draw=forecasts,
        worse=-0.1,
        better=(0.1, 0.25, 0.5, 1.0),
        margin=0.01,  # of WAPE: here one sd of the loss difference
        at_margin=-1.0,
        unit="sd of the loss difference",
        row_gain=loss_gain,
    ),
    World(
        name="detectors",
        task=ClassificationTask(Classification(), "event"),
        # One row in five is positive here: the share of right decisions moves with it.
        gate=Gate(bounds=_BOUNDS, decision_margin=DECISION_MARGIN),
        plan=Plan("entity", resamples=500),
        draw=detections,
        worse=-0.1,
        better=(0.25, 0.5, 1.0),
        margin=-true_gain(-0.1),
        at_margin=-0.1,
        unit="of signal",
        row_gain=right_gain,
    ),
    World(
        name="decisions",
        task=RegretTask(),
        gate=Gate(bounds=_BOUNDS),
        plan=Plan("day", horizon=timedelta(0)),
        draw=decisions,
        worse=-0.1,
        better=(0.1, 0.25, 0.5, 1.0),
        margin=0.1,
        at_margin=-0.1,
        unit="sd of the regret difference",
        row_gain=loss_gain,
    ),
)
