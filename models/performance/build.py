"""performance: monotone boosted quantiles of latency over its past values, at a load and a size.

What drives latency is load per core. The trees see the utilisation that a load would bring on a
size, and the load in units of the usual, as ratios (:mod:`models.tree_graph`), and are held to rise
with both; so the answers rise with load and fall with cores.

LightGBM refuses monotone constraints for its own quantile objective, because that refits the leaves
after they were constrained. Here the pinball loss is smoothed (Zheng, 2011) and given as a custom
objective, whose leaves stay as constrained; conformal offsets mend the levels afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Params
from models.boosters import gain_shares, reproducible
from models.conformal import conformal_quantile
from models.heads.slo import CORES, LIMIT, LOAD, MEMORY, Blend, Machine, SloHead
from models.manifest import FieldType, InputField, ServingParts
from models.performance.task import ERRORS, MEDIAN, TAIL, PerformanceTask
from models.specs import Forecast, ModelSpec
from models.tree_graph import Ratio, Tree, TreeInputs, booster_trees, save_trees

if TYPE_CHECKING:
    import lightgbm as lgb
    import optuna

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
MAX_BIN = 63
TRAIN_ROWS = 10_000
#: Width over which the pinball loss is rounded, of the targets' spread.
SMOOTHING = 0.25
SEEN_AT_MOST = 95.0  # percent
# float32 sums of some hundred leaves: 1e-6 of a logarithm, times latencies of up to seconds.
TOLERANCE = 0.02
#: Gauges whose level differs between machines for other reasons than how they fare.
_WITH_UNIT = ("requests_per_second", TAIL, MEDIAN, "disk_latency_ms")
UTILISATION, RELATIVE_LOAD = "utilisation", "load over usual"
OPTIONAL = (
    InputField(name=CORES, type=FieldType.DOUBLE, required=False, unit="count", minimum=0),
    InputField(name=MEMORY, type=FieldType.DOUBLE, required=False, unit="GiB", minimum=0),
    InputField(name=LIMIT, type=FieldType.DOUBLE, required=False, unit="ms", minimum=0),
)


class PerformanceModel:
    """Boosters over the same inputs, one after the other in one graph, with their head."""

    def __init__(
        self,
        boosters: tuple[lgb.Booster, ...],
        starts: tuple[float, ...],
        seen: TreeInputs,
        inputs: tuple[InputField, ...],
        head: SloHead,
    ) -> None:
        self._boosters, self._starts, self._seen = boosters, starts, seen
        self._inputs, self._head = inputs, head

    @property
    def inputs(self) -> tuple[InputField, ...]:
        return self._inputs

    @property
    def head(self) -> SloHead:
        return self._head

    def answer(self, observations: Observations) -> Answers:
        return self._head.answer(
            observations.columns, {self._head.estimator: self.told(observations.columns)}
        )

    def told(self, columns: dict[str, NDArray]) -> Array:
        """Raw answers, shape (n, boosters)."""
        matrix = self._seen.matrix(columns).astype(np.float64)
        return np.stack(
            [
                start + np.asarray(booster.predict(matrix, raw_score=True))
                for booster, start in zip(self._boosters, self._starts, strict=True)
            ],
            axis=1,
        )

    def importance(self) -> dict[str, float]:
        """Gain of all boosters; a ratio's gain counts for the first input above the line."""
        return gain_shares(self._boosters, self._seen.owners, (field.name for field in self._inputs))

    def save(self, folder: Path) -> ServingParts:
        trees = [
            tree
            for place, (booster, start) in enumerate(zip(self._boosters, self._starts, strict=True))
            for tree in (*booster_trees(booster, place), _constant(start, place))
        ]
        estimator = save_trees(self._head.estimator, self._seen, trees, len(self._boosters), folder)
        return ServingParts((estimator,), self._head, TOLERANCE)


def _constant(value: float, target: int) -> Tree:
    """A tree of one leaf."""
    none = np.array([-1])
    return Tree(none, np.array([0.0]), none, none, np.array([[value]]), np.array([1.0]), target)


class PerformanceBuilder:
    """Boosters per level; offsets, tails and the seen range from the valid part."""

    def default_params(self) -> Params:
        return {"learning_rate": 0.15, "num_leaves": 8, "min_child_samples": 60, "rounds": 80}

    def suggest(self, trial: optuna.Trial) -> Params:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.05, 0.3, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 5, 31, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 20, 400, log=True),
            "rounds": trial.suggest_int("rounds", 60, 160, step=20),
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
    ) -> PerformanceModel:
        if len(train) > TRAIN_ROWS:
            chosen = np.random.default_rng(seed).choice(len(train), TRAIN_ROWS, replace=False)
            train = train.rows(np.sort(chosen))
        machine = machine_of(inputs)
        seen = tree_inputs(machine, inputs, train)
        head = SloHead(
            machine=machine,
            tail_reference=_blend(TAIL, machine.tail_latency, inputs, train),
            median_reference=_blend(MEDIAN, machine.median_latency, inputs, train),
            levels=LEVELS,
            usual=(_middle(train.targets[TAIL]), _middle(train.targets[MEDIAN])),
            seen_utilisation=50.0,
        )
        used = head.utilisation(train.columns)
        reached = float(np.clip(used.max(), 1.0, SEEN_AT_MOST))
        head = head.model_copy(update={"seen_utilisation": reached})
        matrix = seen.matrix(train.columns).astype(np.float64)
        learned = [(target, level) for target, level in _learned(train, head)]
        trained = [_boosted(matrix, target, level, seen, params, seed) for target, level in learned]
        model = PerformanceModel(
            tuple(booster for booster, _ in trained),
            tuple(start for _, start in trained),
            seen,
            (*inputs, *OPTIONAL),
            head,
        )
        calibrated_head = _calibrated(head, model.told(valid.columns), valid)
        return PerformanceModel(model._boosters, model._starts, seen, model.inputs, calibrated_head)

    def task(self, spec: ModelSpec) -> PerformanceTask:
        if not isinstance(spec.task, Forecast):
            raise TypeError(f"{spec.name} is a forecast, its spec says {spec.task.kind}")
        return PerformanceTask(spec.task)


def machine_of(inputs: tuple[InputField, ...]) -> Machine:
    """Which inputs say how a machine is used: its means over the longest window, and what it has.

    Raises:
        ValueError: no input tells of its load or latency; the text says of which.
    """
    names = [field.name for field in inputs]

    def mean(gauge: str) -> str | None:
        # Windows come shortest first.
        return next((name for name in reversed(names) if name.startswith(f"{gauge}__mean_")), None)

    def needed(gauge: str) -> str:
        found = mean(gauge)
        if found is None:
            raise ValueError(f"no input is a windowed mean of {gauge}, only {names}")
        return found

    def one(name: str) -> str | None:
        return name if name in names else None

    return Machine(
        cores=one("cpu_cores"),
        memory_gib=one("memory_gib"),
        cpu_percent=mean("cpu_percent"),
        memory_percent=one("memory_percent__last"),
        load=needed("requests_per_second"),
        tail_latency=needed(TAIL),
        median_latency=needed(MEDIAN),
    )


def tree_inputs(machine: Machine, inputs: tuple[InputField, ...], train: Observations) -> TreeInputs:
    """Shares as they are, everything with a unit relative to the machine's usual, and the load asked about."""
    means: dict[str, str] = {}
    for field in inputs:
        gauge, _, figure = field.name.partition("__")
        if figure.startswith("mean_"):
            means[gauge] = field.name  # the longest window's comes last
    has, asked = ((machine.cores,), (CORES,)) if machine.cores else ((), ())
    ratios = [
        Ratio(RELATIVE_LOAD, (LOAD, *has), (_shortest(machine.load, inputs), *asked)),
        Ratio("tail over median", (machine.tail_latency,), (machine.median_latency,)),
    ]
    if machine.cpu_percent:
        ratios.append(Ratio(UTILISATION, (LOAD, *has, machine.cpu_percent), (machine.load, *asked)))
    plain = []
    for field in inputs:
        gauge, _, figure = field.name.partition("__")
        if field.type is FieldType.STRING or not figure:
            continue
        if gauge in _WITH_UNIT and gauge in means:
            if field.name != means[gauge]:
                ratios.append(Ratio(f"{field.name} over usual", (field.name,), (means[gauge],)))
        else:
            plain.append(field.name)
    fills = {
        field.name: _middle(train.columns[field.name])
        for field in inputs
        if field.type is not FieldType.STRING
    }
    stand_ins = {CORES: machine.cores} if machine.cores else {}
    return TreeInputs(tuple(plain), tuple(ratios), stand_ins=stand_ins, fills=fills)


def _shortest(longest: str, inputs: tuple[InputField, ...]) -> str:
    """The mean over the shortest window of the same gauge."""
    gauge = longest.split("__")[0]
    return next(field.name for field in inputs if field.name.startswith(f"{gauge}__mean_"))


def _blend(gauge: str, usual: str, inputs: tuple[InputField, ...], train: Observations) -> Blend:
    """Least squares of the logarithm on those of the newest value and the windowed means.

    Trees take many cuts for what is a line in the logarithms; they are left what is not.
    """
    names = [
        field.name
        for field in inputs
        if field.name == f"{gauge}__last" or field.name.startswith(f"{gauge}__mean_")
    ]
    others = [name for name in names if name != usual]

    def relative(values: NDArray) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(values / train.columns[usual]))

    known = np.stack([relative(train.columns[name]) for name in others], axis=1)
    truth = relative(train.targets[gauge])
    rows = np.isfinite(known).all(axis=1) & np.isfinite(truth)
    found = np.linalg.lstsq(known[rows], truth[rows], rcond=None)[0] if rows.any() else np.zeros(len(others))
    return Blend(columns=(*others, usual), weights=(*found.tolist(), 1.0 - float(found.sum())))


def _learned(part: Observations, head: SloHead) -> list[tuple[Array, float]]:
    """Target and level of each booster, in the order of the raw answers."""
    tail_reference, median_reference = head.references(part.columns)
    waiting = head.waiting(head.utilisation(part.columns))
    tail = np.log(np.maximum(part.targets[TAIL], 1e-3) / tail_reference) - waiting
    median = np.log(np.maximum(part.targets[MEDIAN], 1e-3) / median_reference) - waiting
    return [*((tail, level) for level in LEVELS), (median, 0.5), (np.log1p(part.targets[ERRORS]), 0.5)]


def _boosted(
    matrix: Array, target: Array, level: float, seen: TreeInputs, params: Params, seed: int
) -> tuple[lgb.Booster, float]:
    """A booster of one quantile, and the constant that its scores start from."""
    import lightgbm as lgb

    known = np.isfinite(target)
    matrix, target = matrix[known], target[known]
    start = float(np.quantile(target, level))
    width = max(SMOOTHING * float(np.subtract(*np.quantile(target, [0.75, 0.25]))), 1e-4)

    def smoothed_pinball(score: Array, data: lgb.Dataset) -> tuple[Array, Array]:
        below = 1.0 / (1.0 + np.exp(np.clip((target - start - score) / width, -50.0, 50.0)))
        # The curvature is narrow; a floor keeps steps finite where few rows lie near the quantile.
        return below - level, np.maximum(below * (1.0 - below), 0.05) / width

    rises = {UTILISATION, RELATIVE_LOAD}
    booster = lgb.train(
        {
            "objective": smoothed_pinball,
            "learning_rate": float(params["learning_rate"]),
            "num_leaves": int(params["num_leaves"]),
            "min_child_samples": int(params["min_child_samples"]),
            "monotone_constraints": [1 if name in rises else 0 for name in seen.names],
            "monotone_constraints_method": "basic",
            "feature_fraction": 0.8,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "use_missing": False,
            "zero_as_missing": False,
            "max_bin": MAX_BIN,
            **reproducible(seed),
        },
        lgb.Dataset(matrix, target, feature_name=[f"f{place}" for place in range(matrix.shape[1])]),
        num_boost_round=int(params["rounds"]),
    )
    return booster, start


def _calibrated(head: SloHead, told: Array, valid: Observations) -> SloHead:
    """Offsets that bring each quantile to its level, and the scales of the tails beyond, on held-out rows."""
    reference, _ = head.references(valid.columns)
    waiting = head.waiting(head.utilisation(valid.columns))
    truth = np.log(np.maximum(valid.targets[TAIL], 1e-3) / reference) - waiting
    known = np.isfinite(truth)
    told, truth = told[known], truth[known]
    offsets = tuple(
        conformal_quantile(truth - told[:, place], level) for place, level in enumerate(head.levels)
    )
    head = head.model_copy(update={"offsets": offsets})
    quantiles = head.quantiles(told)
    below, above = quantiles[:, 0] - truth, truth - quantiles[:, -1]
    tails = tuple(_scale(excess[excess > 0]) for excess in (below, above))
    return head.model_copy(update={"tail": tails})


def _scale(excess: Array) -> float:
    """Mean excess: the maximum-likelihood scale of an exponential tail."""
    return max(float(np.mean(excess)), 1e-3) if len(excess) else 0.05


def _middle(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else 0.0


BUILDER = PerformanceBuilder()
"""How ``performance`` is built; what the chain asks for."""
