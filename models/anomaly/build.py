"""anomaly: profiles of machines, an autoencoder and an isolation forest, combined into a severity."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.anomaly.learning import (
    alarm_level,
    blended,
    learn,
    machine_units,
    profile_of,
    resolution_of,
    severity_levels,
)
from models.anomaly.networks import (
    LARGEST_STATE,
    Shape,
    fit_autoencoder,
    fit_forest,
    write_autoencoder,
    write_forest,
)
from models.anomaly.signals import Measured, Usual, state
from models.base import Answers, Array, Observations, Params, Task
from models.folds import together
from models.heads.severity import RECONSTRUCTION, Profile, SeverityHead, lag_name
from models.manifest import Estimator, FieldType, InputField, ServingParts
from models.specs import Detection, ModelSpec
from models.tasks import task_of

if TYPE_CHECKING:
    import keras
    import optuna
    from sklearn.ensemble import IsolationForest

AUTOENCODER, FOREST = "autoencoder", "isolation_forest"
# Graphs work in single precision; scores are between 0 and 1.
TOLERANCE = 1e-3
#: Machines with fewer rows have no profile of their own.
MIN_ROWS = 100
#: Rows that the autoencoder and the forest learn of; more teach them nothing.
LEARNED_ROWS = 20_000
#: Importance is of the contributions to rows beyond this quantile of strength.
STRONGEST_FROM = 0.95
_BATCH_ROWS = 8192
_LAG = re.compile(r"(?P<metric>.+)__lag_(?P<step>\d+)")
_MEAN = re.compile(r"(?P<metric>.+)__(?P<suffix>mean_(?P<count>\d+)(?P<unit>s|min|h|d))")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Layout:
    """What the inputs are.

    Attributes:
        metrics: Names.
        lags: How many each metric has.
        reference: Suffix of the inputs that hold the mean of the longest window; None: there is none.
        key: The input that names the machine; None: there is none.
        keys: Machines by number, as the key's categories.
    """

    metrics: tuple[str, ...]
    lags: int
    reference: str | None
    key: str | None
    keys: tuple[str, ...]

    @classmethod
    def of(cls, inputs: Sequence[InputField]) -> Layout:
        """Read the layout off the names of the inputs.

        Raises:
            ValueError: no metric has lags.
        """
        lags = Counter(match["metric"] for field in inputs if (match := _LAG.fullmatch(field.name)))
        if not lags:
            raise ValueError(
                "anomaly needs inputs <metric>__lag_0, <metric>__lag_1, …; choose a grid with lags"
            )
        means: dict[str, set[str]] = {}
        seconds: dict[str, int] = {}
        for field in inputs:
            if match := _MEAN.fullmatch(field.name):
                means.setdefault(match["suffix"], set()).add(match["metric"])
                seconds[match["suffix"]] = int(match["count"]) * _SECONDS[match["unit"]]
        whole = [suffix for suffix, metrics in means.items() if metrics >= set(lags)]
        key = next((field for field in inputs if field.type is FieldType.STRING), None)
        return cls(
            metrics=tuple(lags),
            lags=min(lags.values()),
            reference=max(whole, key=lambda suffix: seconds[suffix], default=None),
            key=key.name if key else None,
            keys=(key.categories or ()) if key else (),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Inputs in the estimators' order."""
        lags = [lag_name(metric, step) for metric in self.metrics for step in range(self.lags)]
        references = [f"{metric}__{self.reference}" for metric in self.metrics] if self.reference else []
        return (*([self.key] if self.key else []), *lags, *references)

    def machines(self, observations: Observations) -> NDArray[np.intp]:
        """Number of each row's machine, shape (n,); ``len(keys)`` for one that is not known."""
        if self.key is None:
            return np.zeros(len(observations), dtype=np.intp)
        number = {key: index for index, key in enumerate(self.keys)}
        return np.array(
            [number.get(value, len(self.keys)) for value in observations.columns[self.key]], np.intp
        )


@dataclass(frozen=True)
class Profiled:
    """Rows against the profiles of their machines.

    Attributes:
        usual: By machine, the fleet's last.
        known: Which machines have a profile of their own.
    """

    usual: tuple[Usual, ...]
    known: NDArray[np.bool_]

    @classmethod
    def learned(
        cls, measured: Measured, machine: NDArray[np.intp], count: int, resolution: Array, shrinkage: float
    ) -> Profiled:
        """From all rows; machines with few rows are taken for the fleet."""
        fleet = learn(measured, resolution, shrinkage)
        rows = np.bincount(machine, minlength=count + 1)[:count]
        known = rows >= MIN_ROWS
        own = (
            learn(measured.rows(machine == number), resolution, shrinkage) if known[number] else fleet
            for number in range(count)
        )
        return cls((*own, fleet), known)


def states_of(measured: Measured, usual: Sequence[Usual], machine: NDArray[np.intp]) -> Array:
    """What the estimators see, shape (n, 4 k)."""
    result = np.empty((len(machine), 4 * measured.level.shape[1]))
    for number in np.unique(machine):
        rows = machine == number
        result[rows] = state(measured.rows(rows), usual[number], LARGEST_STATE)
    return result


@dataclass(frozen=True)
class _Estimators:
    """What was trained on states, natively."""

    autoencoder: keras.Model
    forest: IsolationForest

    def residuals(self, states: Array) -> Array:
        """Shape (n, k)."""
        answer = self.autoencoder.predict(states.astype(np.float32), batch_size=_BATCH_ROWS, verbose=0)
        return np.asarray(answer, dtype=np.float64)

    def isolation(self, states: Array) -> Array:
        """Shape (n,); low is abnormal."""
        return np.asarray(self.forest.decision_function(states.astype(np.float32)))


class AnomalyModel:
    """Profiles in the head, with the two estimators that were trained on states."""

    def __init__(
        self,
        inputs: tuple[InputField, ...],
        layout: Layout,
        head: SeverityHead,
        usual: tuple[Usual, ...],
        estimators: _Estimators,
        shares: Array,
    ) -> None:
        wanted = set(layout.names)
        self._inputs = tuple(field for field in inputs if field.name in wanted)
        self._layout = layout
        self._head = head
        self._usual = usual
        self._estimators = estimators
        self._shares = shares

    @property
    def inputs(self) -> tuple[InputField, ...]:
        return self._inputs

    @property
    def head(self) -> SeverityHead:
        return self._head

    def answer(self, observations: Observations) -> Answers:
        return self._head.answer(observations.columns, self.raw(observations))

    def raw(self, observations: Observations) -> dict[str, Array]:
        """Native answers of the estimators."""
        measured = self._head.measured(observations.columns)
        states = states_of(measured, self._usual, self._layout.machines(observations))
        return {AUTOENCODER: self._estimators.residuals(states), FOREST: self._estimators.isolation(states)}

    def importance(self) -> dict[str, float]:
        """A metric's share of the contributions to the strongest rows that alarm levels were learned of.

        Its inputs share it alike, for they are read together.
        """
        share = dict(zip(self._layout.metrics, self._shares, strict=True))
        owners = {
            lag_name(metric, step): metric
            for metric in self._layout.metrics
            for step in range(self._layout.lags)
        }
        owners |= {f"{metric}__{self._layout.reference}": metric for metric in self._layout.metrics}
        counts = Counter(owners[field.name] for field in self._inputs if field.name in owners)
        return {
            field.name: float(share[owners[field.name]] / counts[owners[field.name]])
            if field.name in owners
            else 0.0
            for field in self._inputs
        }

    def save(self, folder: Path) -> ServingParts:
        shape = Shape(
            metrics=len(self._layout.metrics),
            lags=self._layout.lags,
            level_steps=self._head.level_steps,
            has_key=self._layout.key is not None,
            has_reference=self._layout.reference is not None,
        )
        resolution = np.asarray(self._head.resolution)
        write_autoencoder(
            self._estimators.autoencoder, shape, self._usual, resolution, folder / f"{AUTOENCODER}.onnx"
        )
        write_forest(self._estimators.forest, shape, self._usual, resolution, folder / f"{FOREST}.onnx")
        estimators = tuple(
            Estimator(name=name, runtime="onnx", file=f"{name}.onnx", inputs=self._layout.names)
            for name in (AUTOENCODER, FOREST)
        )
        return ServingParts(estimators, self._head, TOLERANCE)


class AnomalyBuilder:
    """Profiles of all rows; alarm levels of rows that come after those that the profiles saw."""

    def default_params(self) -> Params:
        return {
            "level_steps": 5,
            "shrinkage": 0.1,
            "structure_weight": 2.0,
            "distance_weight": 0.25,
            "reconstruction_weight": 0.5,
            "forest_weight": 0.05,
            "width": 48,
            "bottleneck": 8,
        }

    def suggest(self, trial: optuna.Trial) -> Params:
        return {
            "level_steps": trial.suggest_int("level_steps", 1, 6),
            "shrinkage": trial.suggest_float("shrinkage", 0.02, 0.5, log=True),
            "structure_weight": trial.suggest_float("structure_weight", 0.5, 4.0),
            "distance_weight": trial.suggest_float("distance_weight", 0.0, 2.0),
            "reconstruction_weight": trial.suggest_float("reconstruction_weight", 0.0, 2.0),
            "forest_weight": trial.suggest_float("forest_weight", 0.0, 0.5),
            "width": trial.suggest_categorical("width", [24, 48, 96]),
            "bottleneck": trial.suggest_int("bottleneck", 3, 16),
        }

    def fit(
        self,
        train: Observations,
        valid: Observations,
        inputs: tuple[InputField, ...],
        params: Params,
        seed: int,
        spec: ModelSpec,
        trial: optuna.Trial | None = None,
    ) -> AnomalyModel:
        assert isinstance(spec.task, Detection)
        budget, layout = spec.task.max_false_positive_rate, Layout.of(inputs)
        blank = _blank_head(layout, train, params)
        resolution, shrinkage = np.asarray(blank.resolution), float(params["shrinkage"])
        count = len(layout.keys)
        seen, machine = blank.measured(train.columns), layout.machines(train)
        before = Profiled.learned(seen, machine, count, resolution, shrinkage)

        states = states_of(seen, before.usual, machine)
        chosen = np.random.default_rng(seed).permutation(len(states))[:LEARNED_ROWS]
        estimators = _Estimators(
            fit_autoencoder(states[chosen], int(params["width"]), int(params["bottleneck"]), seed),
            fit_forest(states[chosen], seed),
        )

        # Alarm levels by rows that the profiles did not see; then profiles of everything.
        judge = _with_profiles(blank, before, train, machine, estimators)
        alike = np.full(len(layout.metrics), 1 / len(layout.metrics))
        model = AnomalyModel(inputs, layout, judge, before.usual, estimators, alike)
        levels, shares = _alarm_levels(model, layout, valid, before.known, budget)
        known = together(train, valid)
        everywhere = layout.machines(known)
        after = Profiled.learned(blank.measured(known.columns), everywhere, count, resolution, shrinkage)
        head = _with_levels(_with_profiles(blank, after, known, everywhere, estimators), levels)
        return AnomalyModel(inputs, layout, head, after.usual, estimators, shares)

    def task(self, spec: ModelSpec) -> Task:
        return task_of(spec)


@dataclass(frozen=True)
class _Levels:
    """Alarm level of each machine and of the fleet, and where severities begin."""

    machines: tuple[float, ...]
    fleet: float
    severities: tuple[float, float, float, float]


def _alarm_levels(
    model: AnomalyModel, layout: Layout, valid: Observations, known: NDArray[np.bool_], budget: float
) -> tuple[_Levels, Array]:
    """Levels, and each metric's share in the strongest rows; of rows that the profiles did not see."""
    raw, machine = model.raw(valid), layout.machines(valid)
    head = model.head
    contributions = head.contributions(valid.columns, raw)
    strength = head.strength(contributions, raw, head.profile_of(valid.columns))
    strange = contributions[strength >= np.quantile(strength, STRONGEST_FROM)].mean(axis=0) + 1e-12
    order = np.argsort(valid.time, kind="stable") if len(valid.time) else np.arange(len(valid))
    strength, machine = strength[order], machine[order]
    fleet = alarm_level(strength, budget)
    levels = []
    for number in range(len(layout.keys)):
        own = strength[machine == number]
        levels.append(
            blended(alarm_level(own, budget), len(own), fleet, budget)
            if known[number] and len(own)
            else fleet
        )
    reached = strength / np.asarray([*levels, fleet])[machine]
    return _Levels(tuple(levels), fleet, severity_levels(reached, budget)), strange / strange.sum()


def _with_levels(head: SeverityHead, levels: _Levels) -> SeverityHead:
    profiles = tuple(
        profile.model_copy(update={"alarm_level": level})
        for profile, level in zip(head.profiles, levels.machines, strict=True)
    )
    fleet = head.fleet.model_copy(update={"alarm_level": levels.fleet})
    return _checked(head, profiles=profiles, fleet=fleet, levels=levels.severities)


def _with_profiles(
    head: SeverityHead,
    profiled: Profiled,
    rows: Observations,
    machine: NDArray[np.intp],
    estimators: _Estimators,
) -> SeverityHead:
    """The head with profiles whose units are of these rows."""
    measured = head.measured(rows.columns)
    # One call of each estimator for all machines: a call costs more than a thousand rows.
    own = _seen_by(estimators, states_of(measured, profiled.usual, machine))
    some = np.linspace(0, len(rows) - 1, min(len(rows), LEARNED_ROWS)).astype(np.intp)
    everyone = measured.rows(some)
    fleet = _profile(
        everyone,
        profiled.usual[-1],
        _seen_by(estimators, state(everyone, profiled.usual[-1], LARGEST_STATE)),
    )
    machines = []
    for number, (usual, known) in enumerate(zip(profiled.usual[:-1], profiled.known, strict=True)):
        chosen = machine == number
        seen = tuple(values[chosen] for values in own)
        machines.append(_profile(measured.rows(chosen), usual, seen) if known else fleet)
    return _checked(head, profiles=tuple(machines), fleet=fleet)


def _seen_by(estimators: _Estimators, states: Array) -> tuple[Array, ...]:
    """Residuals and isolation of rows."""
    return estimators.residuals(states), estimators.isolation(states)


def _profile(measured: Measured, usual: Usual, seen: tuple[Array, ...]) -> Profile:
    residuals, isolation = seen
    return profile_of(usual, machine_units(measured, usual, {RECONSTRUCTION: residuals}), isolation)


def _blank_head(layout: Layout, train: Observations, params: Params) -> SeverityHead:
    """A head that measures rows, and knows nothing of machines yet."""
    size = len(layout.metrics)
    nothing = learn(_nothing(size), np.ones(size), 1.0)
    empty = profile_of(nothing, machine_units(_nothing(size), nothing, {RECONSTRUCTION: np.zeros((1, size))}))
    blank = SeverityHead(
        metrics=layout.metrics,
        lags=layout.lags,
        level_steps=min(int(params["level_steps"]), layout.lags),
        reference=layout.reference,
        resolution=(1.0,) * size,
        key=layout.key,
        keys=layout.keys,
        profiles=(empty,) * len(layout.keys),
        fleet=empty,
        weights={
            "distance": float(params["distance_weight"]),
            "structure": float(params["structure_weight"]),
            "spread": 1.0,
            "movement": 1.0,
            RECONSTRUCTION: float(params["reconstruction_weight"]),
        },
        autoencoder=AUTOENCODER,
        forest=FOREST,
        forest_weight=float(params["forest_weight"]),
        levels=(0.5, 1.0, 2.0, 4.0),
    )
    resolution = resolution_of(blank.measured(train.columns).level)
    return _checked(blank, resolution=tuple(float(value) for value in resolution))


def _nothing(size: int) -> Measured:
    return Measured(*(np.zeros((1, size)) for _ in range(4)))


def _checked(head: SeverityHead, **changes: Any) -> SeverityHead:
    """The head with changes, validated anew."""
    return SeverityHead(**({name: getattr(head, name) for name in SeverityHead.model_fields} | changes))


BUILDER = AnomalyBuilder()
