"""rightsizing: random forests for the workload class and for the distributions of demand, in one graph.

One forest learns the class, one column a class: its leaves' means are shares of votes, and its splits
minimise Gini impurity. The other learns per resource whether demand stays within each of some levels:
its leaves' means are distribution functions, as those of quantile regression forests are (Meinshausen,
2006), and its splits minimise a discrete form of the continuous ranked probability score.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Array, Observations, Params
from models.boosters import owner_shares
from models.conformal import conformal_quantile
from models.heads.sizing import Demand, SizingHead
from models.manifest import FieldType, InputField, ServingParts
from models.rightsizing.choice import PriceList, load_prices
from models.rightsizing.classes import CLASSES, workload_class
from models.rightsizing.measures import FLOORS, WEEK, Resource, resources
from models.rightsizing.task import SizingTask
from models.specs import Decision, ModelSpec
from models.targets import ValuesAhead
from models.tree_graph import Ratio, TreeInputs, forest_trees, round_leaves, save_trees

if TYPE_CHECKING:
    import optuna
    from sklearn.ensemble import RandomForestRegressor

#: A power of two: what all trees are certain of stays certain when leaves are rounded.
TREES = 64
#: Tuning varies the other forest: regret, which it is judged by, does not depend on the class.
CLASS_FOREST: Params = {"min_samples_leaf": 3, "max_features": 0.5}
LEVELS = 24
RISK_BINS = 16
COVERAGE = 0.8
# Votes are the same bits in the graph, see round_leaves: demands are read off between two votes that may be nearly
# equal, where the rounding of float32 would move hundreds of GiB by some thousandths.
TOLERANCE = 1e-9
#: What tells a burst from a plateau.
_SHAPES = (("std", "mean"), ("p95", "p50"), ("max", "p95"))
#: Figures in the gauge's own unit, which mean something relative to the week's peak.
_RELATIVE = re.compile(r"__(mean|std|min|p05|p50|p95|max|last|lag|diff|change)(_|$)")


class SizingModel:
    """Trained forests with their head."""

    def __init__(
        self,
        forests: tuple[RandomForestRegressor, RandomForestRegressor],
        seen: TreeInputs,
        inputs: tuple[InputField, ...],
        head: SizingHead,
    ) -> None:
        self._forests, self._seen, self._inputs, self._head = forests, seen, inputs, head

    @property
    def inputs(self) -> tuple[InputField, ...]:
        return self._inputs

    @property
    def head(self) -> SizingHead:
        return self._head

    def answer(self, observations: Observations) -> Answers:
        return self._head.answer(observations.columns, {self._head.estimator: self.votes(observations)})

    def votes(self, observations: Observations) -> Array:
        """Raw answers, shape (n, classes + levels of CPU + levels of memory)."""
        matrix = self._seen.matrix(observations.columns)
        return np.concatenate([forest.predict(matrix) for forest in self._forests], axis=1)

    def importance(self) -> dict[str, float]:
        """Decrease of impurity; a ratio counts for the figure above the line."""
        told = np.mean([forest.feature_importances_ for forest in self._forests], axis=0)
        return owner_shares(told.tolist(), self._seen.owners, (field.name for field in self._inputs))

    def save(self, folder: Path) -> ServingParts:
        outputs = len(CLASSES) + len(self._head.cpu.levels) + len(self._head.memory.levels)
        classes, demands = self._forests
        trees = [*forest_trees(classes), *forest_trees(demands, first_target=len(CLASSES))]
        forest = save_trees(self._head.estimator, self._seen, trees, outputs, folder)
        return ServingParts((forest,), self._head, TOLERANCE)


class SizingBuilder:
    """A forest on last week's figures; calibrated on the valid part."""

    def default_params(self) -> Params:
        return {"min_samples_leaf": 8, "max_features": 0.25}

    def suggest(self, trial: optuna.Trial) -> Params:
        return {
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 3, 40, log=True),
            "max_features": trial.suggest_float("max_features", 0.1, 0.6, log=True),
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
    ) -> SizingModel:
        from sklearn.ensemble import RandomForestRegressor

        found = resources(_gauges(spec), train.columns)
        train, valid = (part.rows(_is_known(part, found)) for part in (train, valid))
        demands = [
            _demand(resource, first, train)
            for resource, first in zip(found, (len(CLASSES), len(CLASSES) + LEVELS), strict=True)
        ]
        head = SizingHead(classes=CLASSES, cpu=demands[0], memory=demands[1], prices=_prices(spec))
        seen = _seen(inputs, found, train)
        matrix = seen.matrix(train.columns)
        settings = (CLASS_FOREST, {name: params[name] for name in ("min_samples_leaf", "max_features")})
        forests = tuple(
            RandomForestRegressor(n_estimators=TREES, random_state=seed, n_jobs=1, **setting).fit(
                matrix, outcomes, sample_weight=train.weight
            )
            for setting, outcomes in zip(settings, _outcomes(train, found, head), strict=True)
        )
        both = forests[0], forests[1]
        for forest in both:
            round_leaves(forest)
        model = SizingModel(both, seen, inputs, head)
        return SizingModel(both, seen, inputs, _calibrated(head, model.votes(valid), valid, found))

    def task(self, spec: ModelSpec) -> SizingTask:
        return SizingTask(_prices(spec), _gauges(spec))


def _prices(spec: ModelSpec) -> PriceList:
    """The price list, with the spec's bound on the risk where it has one."""
    prices = load_prices()
    bound = spec.task.max_risk if isinstance(spec.task, Decision) else None
    return prices if bound is None else prices.model_copy(update={"max_risk": bound})


def _gauges(spec: ModelSpec) -> tuple[str, ...]:
    if not isinstance(spec.target, ValuesAhead):
        raise TypeError(f"{spec.name} learns from the week that follows, its target is {spec.target.kind}")
    return spec.target.columns


def _is_known(part: Observations, found: tuple[Resource, ...]) -> NDArray[np.bool_]:
    """Rows with a peak and a capacity; a machine without one was off all week."""
    peaks = [np.isfinite(resource.peak.of_rows(part.columns)) for resource in found]
    capacities = [np.nan_to_num(resource.capacity.of_rows(part.columns)) > 0 for resource in found]
    return np.asarray(np.all([*peaks, *capacities], axis=0))


def _log_demand(resource: Resource, demand: Demand, part: Observations) -> Array:
    """log2 of demand over the reference, shape (n,); no use at all counts as the lowest level."""
    used = resource.demand(part.targets, part.columns)
    lowest = 2.0 ** demand.levels[0]
    return np.asarray(np.log2(np.maximum(used / demand.references(part.columns), lowest)))


def _demand(resource: Resource, first: int, train: Observations) -> Demand:
    """Levels at even shares of what training saw, so that they are close where demand is."""
    wide = Demand(
        reference=resource.peak,
        floor=FLOORS[resource.name],
        capacity=resource.capacity,
        first=first,
        levels=(-10.0, 20.0),
    )
    seen = _log_demand(resource, wide, train)
    inner = np.quantile(seen, np.linspace(0.005, 0.995, LEVELS - 3))
    least, most = float(seen.min()), float(seen.max())
    # Strictly rising also where many rows share a value.
    steps = np.concatenate([[least - 0.01], inner, [most, most + 0.01]]) + 1e-6 * np.arange(LEVELS)
    return wide.model_copy(update={"levels": tuple(float(level) for level in steps)})


def _seen(inputs: tuple[InputField, ...], found: tuple[Resource, ...], train: Observations) -> TreeInputs:
    """All figures, those with a unit also relative to their gauge's peak of the week, and its shape as ratios."""
    names = [field.name for field in inputs if field.type is not FieldType.STRING]
    ratios = []
    for resource in found:
        for name in names:
            if (
                name.startswith(f"{resource.gauge}__")
                and _RELATIVE.search(name)
                and name != resource.peak.column
            ):
                ratios.append(Ratio(f"{name} / peak", (name,), (resource.peak.column,), resource.least))
        for above, below in _SHAPES:
            pair = [f"{resource.gauge}__{figure}_{WEEK}" for figure in (above, below)]
            if all(name in names for name in pair):
                ratios.append(Ratio(f"{pair[0]} / {below}", (pair[0],), (pair[1],), resource.least))
    fills = {name: _middle(train.columns[name]) for name in names}
    return TreeInputs(tuple(names), tuple(ratios), fills=fills)


def _middle(values: NDArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else 0.0


def _outcomes(part: Observations, found: tuple[Resource, ...], head: SizingHead) -> tuple[Array, Array]:
    """What the two forests learn, shapes (n, classes) and (n, levels + levels)."""
    classes = np.eye(len(CLASSES))[workload_class(part.targets, found[0], part.columns)]
    within = [
        _log_demand(resource, demand, part)[:, None] <= np.asarray(demand.levels)
        for resource, demand in zip(found, (head.cpu, head.memory), strict=True)
    ]
    return classes, np.concatenate(within, axis=1).astype(np.float64)


def _calibrated(
    head: SizingHead, votes: Array, valid: Observations, found: tuple[Resource, ...]
) -> SizingHead:
    """The head with probabilities, intervals and risks as they came true on the valid part."""
    truth = workload_class(valid.targets, found[0], valid.columns)
    demands = {
        name: _widened(demand, resource, votes, valid)
        for (name, demand), resource in zip((("cpu", head.cpu), ("memory", head.memory)), found, strict=True)
    }
    seen, true = _risk_table(head, votes, valid, found)
    return head.model_copy(
        update={"sharpness": _sharpness(head, votes, truth), "risk_seen": seen, "risk_true": true, **demands}
    )


def _sharpness(head: SizingHead, votes: Array, truth: NDArray[np.intp]) -> float:
    """Temperature scaling (Guo et al., 2017): the power with the least log loss, on a grid."""

    def loss(power: float) -> float:
        told = head.model_copy(update={"sharpness": power}).class_probabilities(votes)
        return float(-np.mean(np.log(told[np.arange(len(truth)), truth])))

    return min((float(power) for power in np.geomspace(0.4, 4.0, 31)), key=loss)


def _widened(demand: Demand, resource: Resource, votes: Array, valid: Observations) -> Demand:
    """Conformalized quantile regression (Romano et al., 2019), each end by itself, in log2."""
    truth = np.maximum(resource.demand(valid.targets, valid.columns), 1e-6)
    ends = [
        demand.quantile(votes, valid.columns, share) for share in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
    ]
    low, high = (np.log2(np.maximum(end, 1e-6)) for end in ends)
    share = (1 + COVERAGE) / 2
    return demand.model_copy(
        update={
            "widen": (
                conformal_quantile(low - np.log2(truth), share),
                conformal_quantile(np.log2(truth) - high, share),
            )
        }
    )


def _risk_table(
    head: SizingHead, votes: Array, valid: Observations, found: tuple[Resource, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computed risks and how often sizes of such risk came to be short: isotonic over even bins."""
    from sklearn.isotonic import IsotonicRegression

    prices = head.prices
    computed = head.computed_risk(valid.columns, votes)
    cores, gib = (resource.demand(valid.targets, valid.columns) for resource in found)
    short = (prices.vcpu < cores[:, None]) | (prices.memory_gib < gib[:, None])
    in_doubt = (computed > 0.0) & (computed < 1.0)
    risk, outcome = computed[in_doubt], short[in_doubt].astype(np.float64)
    bins = [part for part in np.array_split(np.argsort(risk, kind="stable"), RISK_BINS) if len(part)]
    seen = np.array([risk[part].mean() for part in bins])
    # One more shortage in each bin than there was: conformal risk control (Angelopoulos et al., 2024).
    true = np.array([(outcome[part].sum() + 1.0) / (len(part) + 1.0) for part in bins])
    rising = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(seen, true)
    table_seen = np.concatenate([[0.0], seen, [1.0]])
    table_true = np.maximum.accumulate(np.concatenate([[0.0], rising, [1.0]]))
    return tuple(table_seen.tolist()), tuple(table_true.tolist())


BUILDER = SizingBuilder()
