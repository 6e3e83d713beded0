"""bandwidth: boosted trees on an hour in the machine's own units beside an LSTM, blended.

Both learn quantiles of ``log((traffic to come + unit) / (traffic now + unit))``. The median of a
logarithm is the logarithm of the median, so the middle quantile is also what the absolute error in
Mbit/s asks for; and the logarithm keeps the few large machines from drowning the others. What it
costs in pooled error to weigh all machines alike, weights that grow slowly with a machine's level
give back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.bandwidth import network
from models.bandwidth.graph import write_trees
from models.bandwidth.signals import Wiring, matrix, sources, wire
from models.bandwidth.task import BandwidthTask
from models.base import Answers, Array, Observations, Params, Task
from models.conformal import calibrated, conformal_quantile
from models.heads.interval import Encoding, IntervalHead, Level, Member, Offset
from models.manifest import Estimator, InputField, ServingParts
from models.specs import Forecast, ModelSpec
from models.targets import ValuesAhead

if TYPE_CHECKING:
    import lightgbm as lgb
    import optuna

TREES, LSTM = "trees", "lstm"
TREES_FILE, LSTM_FILE = "trees.onnx", "lstm.onnx"
MIDDLE = 1
MAX_BIN = 63
#: The unit, as a share of the mean traffic of the training part.
UNIT_SHARE = 1 / 500
#: Rows that are drawn for trees, for the network, and to stop, blend and calibrate by.
STOP_ROWS = 6_000
FOLDS = 3
WEIGHTS = np.linspace(0.0, 1.0, 21)
# float32 runtimes: of logarithms some 1e-6, so of traffic that share of the largest answer.
RELATIVE_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Learning:
    """Rows as the estimators take them."""

    part: Observations
    signals: NDArray[np.float32]
    change: Array
    weight: Array

    def drawn(self, rows: int, seed: int) -> Learning:
        """At most so many rows, by a seeded draw; in the order in which they stood."""
        if len(self.part) <= rows:
            return self
        return self.at(np.sort(np.random.default_rng(seed).choice(len(self.part), rows, replace=False)))

    def at(self, rows: NDArray) -> Learning:
        return Learning(self.part.rows(rows), self.signals[rows], self.change[rows], self.weight[rows])


class BandwidthModel:
    """Three boosters in one graph, a network (or none, in trials), and their head."""

    def __init__(
        self,
        boosters: tuple[lgb.Booster, ...],
        net: network.Network | None,
        wiring: Wiring,
        inputs: tuple[InputField, ...],
        head: IntervalHead,
        shares: dict[str, float],
        largest: float,
    ) -> None:
        self._boosters, self._network, self._wiring = boosters, net, wiring
        self._inputs, self._head, self._shares, self._largest = inputs, head, shares, largest

    @property
    def inputs(self) -> tuple[InputField, ...]:
        return self._inputs

    @property
    def head(self) -> IntervalHead:
        return self._head

    def answer(self, observations: Observations) -> Answers:
        return self._head.answer(observations.columns, self.raw(observations))

    def raw(self, observations: Observations) -> dict[str, NDArray]:
        """Raw outputs by estimator, shape (n, quantiles)."""
        seen, _ = matrix(observations.columns, self._wiring)
        raw: dict[str, NDArray] = {TREES: trees_raw(self._boosters, seen)}
        if self._network is not None:
            raw[LSTM] = self._network.raw(windows(observations, self._wiring))
        return raw

    def importance(self) -> dict[str, float]:
        return self._shares

    def save(self, folder: Path) -> ServingParts:
        write_trees(self._boosters, self._wiring, folder / TREES_FILE)
        names = self._wiring.of_trees
        estimators = [Estimator(name=TREES, runtime="onnx", file=TREES_FILE, inputs=names)]
        if self._network is not None:
            self._network.write_graph(folder / LSTM_FILE)
            names = self._wiring.of_network(network.STEPS)
            shape = (network.STEPS, len(names) // network.STEPS)
            estimators.append(Estimator(name=LSTM, runtime="onnx", file=LSTM_FILE, inputs=names, shape=shape))
        return ServingParts(tuple(estimators), self._head, RELATIVE_TOLERANCE * max(self._largest, 1.0))


class BandwidthBuilder:
    """Trees and network learn on train. What joins and calibrates them is learned of machines they did not see."""

    def default_params(self) -> Params:
        return {
            "learning_rate": 0.1,
            "rounds": 120,
            "num_leaves": 15,
            "min_child_samples": 200,
            "feature_fraction": 0.4,
            "weight_power": 0.15,
            "tree_rows": 30_000,
            "lstm_rows": 20_000,
            "lstm_units": 24,
            "lstm_dropout": 0.1,
            "lstm_learning_rate": 0.004,
            "lstm_epochs": 8,
        }

    def suggest(self, trial: optuna.Trial) -> Params:
        """Trials are of the trees alone; the network's parameters are held."""
        fixed = self.default_params()
        return fixed | {
            "learning_rate": trial.suggest_float("learning_rate", 0.05, 0.2, log=True),
            "rounds": trial.suggest_int("rounds", 60, 160),
            "num_leaves": trial.suggest_int("num_leaves", 7, 31, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 50, 400, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 0.8),
            "weight_power": trial.suggest_float("weight_power", 0.0, 0.3),
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
    ) -> BandwidthModel:
        params = self.default_params() | params
        task = self._task(spec)
        wiring = self._wiring(train, inputs, spec)
        quantiles = ((1 - task.coverage) / 2, 0.5, (1 + task.coverage) / 2)
        encoding = Encoding(
            transform="log1p",
            base=Level(columns=tuple(f"{column}__lag_0" for column in wiring.traffic)),
            unit=wiring.unit,
        )
        learn = _learning(train, wiring, encoding, task.target, params).drawn(int(params["tree_rows"]), seed)
        judge = _learning(valid, wiring, encoding, task.target, params).drawn(STOP_ROWS, seed)
        boosters = _boost(learn, quantiles, params, seed)
        raw: dict[str, NDArray] = {TREES: trees_raw(boosters, judge.signals)}
        net = None
        if trial is None:
            net = _train_network(learn, judge, wiring, quantiles, params, seed)
            raw[LSTM] = net.raw(windows(judge.part, wiring))
        unit = next((field.unit for field in inputs if field.name == wiring.traffic[0] + "__lag_0"), "")
        head = _blended(_head(encoding, task, unit), judge, raw, task.target)
        head = self._calibrated(head, learn, judge, raw, quantiles, params, seed, task.target, trial is None)
        used = {*wiring.of_trees, *(wiring.of_network(network.STEPS) if net else ())}
        return BandwidthModel(
            boosters,
            net,
            wiring,
            tuple(field for field in inputs if field.name in used),
            head,
            _shares(boosters, net, wiring, head, judge),
            float(np.nanmax(train.targets[task.target])),
        )

    def task(self, spec: ModelSpec) -> Task:
        return BandwidthTask(self._task(spec), traffic=_traffic(spec))

    def _task(self, spec: ModelSpec) -> Forecast:
        if not isinstance(spec.task, Forecast):
            raise TypeError(f"{spec.name} is a forecast, its spec says {spec.task.kind}")
        return spec.task

    def _wiring(self, train: Observations, inputs: tuple[InputField, ...], spec: ModelSpec) -> Wiring:
        """With the unit that a training part of this size of traffic needs; 1 where there is none at all."""
        mean = float(np.nanmean(train.targets[self._task(spec).target]))
        # float32: graph and head then have the same number.
        unit = float(np.float32(mean * UNIT_SHARE)) or 1.0
        return replace(wire(inputs, spec), unit=unit)

    def _calibrated(
        self,
        head: IntervalHead,
        learn: Learning,
        judge: Learning,
        raw: dict[str, NDArray],
        quantiles: tuple[float, ...],
        params: Params,
        seed: int,
        target: str,
        crossed: bool,
    ) -> IntervalHead:
        """Offsets from machines of the training part, each answered by trees of the other machines.

        Few machines make up the valid part, and in a split by time they are those that the trees
        know. A trial, whose interval nobody looks at, and a part of few machines make do with it.
        """
        machines = np.unique(learn.part.entity.astype(str))
        if not crossed or len(machines) < 2 * FOLDS:
            return with_offsets(head, judge.part, raw, target)
        fold_of_machine = np.random.default_rng(seed).permutation(len(machines)) % FOLDS
        fold = fold_of_machine[np.searchsorted(machines, learn.part.entity.astype(str))]
        crossed_raw = np.empty((len(learn.part), len(quantiles)))
        for number in range(FOLDS):
            others = _boost(learn.at(np.flatnonzero(fold != number)), quantiles, params, seed)
            crossed_raw[fold == number] = trees_raw(others, learn.signals[fold == number])
        # The network saw these machines, so here the middle is the trees' alone.
        trees_only = head.model_copy(update={"forecast": (Member(estimator=TREES, output=MIDDLE),)})
        found = with_offsets(trees_only, learn.part, {TREES: crossed_raw}, target)
        return head.model_copy(update={"offsets": found.offsets})


def trees_raw(boosters: tuple[lgb.Booster, ...], seen: NDArray[np.float32]) -> Array:
    """Raw outputs of the boosters side by side, shape (n, boosters)."""
    return np.stack([np.asarray(booster.predict(seen)) for booster in boosters], axis=1)


def windows(part: Observations, wiring: Wiring) -> NDArray[np.float32]:
    """What the network takes, shape (n, steps, gauges)."""
    names = wiring.of_network(network.STEPS)
    flat = np.stack([np.asarray(part.columns[name], dtype=np.float64) for name in names], axis=1)
    return flat.astype(np.float32).reshape(len(part), network.STEPS, -1)


def _traffic(spec: ModelSpec) -> tuple[str, ...]:
    if not isinstance(spec.target, ValuesAhead):
        raise TypeError(f"{spec.name} learns values ahead, its target is {spec.target.kind}")
    return spec.target.columns


def _learning(
    part: Observations, wiring: Wiring, encoding: Encoding, target: str, params: Params
) -> Learning:
    known = part.rows(np.isfinite(part.targets[target]))
    seen, level = matrix(known.columns, wiring)
    change = encoding.encode(known.targets[target], known.columns)
    weight = known.weight * level.astype(np.float64) ** float(params["weight_power"])
    return Learning(known, seen, change, weight / max(float(np.mean(weight)), np.finfo(float).tiny))


def _boost(
    learn: Learning, quantiles: tuple[float, ...], params: Params, seed: int
) -> tuple[lgb.Booster, ...]:
    """One booster a quantile. Rounds are a parameter: few machines stop a booster by, each by chance."""
    import lightgbm as lgb

    settings: dict[str, Any] = {
        "objective": "quantile",
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        # One thread: the same trees on any machine.
        "num_threads": 1,
        "max_bin": MAX_BIN,
        "verbosity": -1,
        "learning_rate": params["learning_rate"],
        "num_leaves": params["num_leaves"],
        "min_child_samples": params["min_child_samples"],
        "feature_fraction": params["feature_fraction"],
    }
    rows = lgb.Dataset(
        learn.signals, learn.change, weight=learn.weight, params={"max_bin": MAX_BIN}, free_raw_data=False
    )
    return tuple(
        lgb.train({**settings, "alpha": quantile}, rows, num_boost_round=int(params["rounds"]))
        for quantile in quantiles
    )


def _train_network(
    learn: Learning,
    judge: Learning,
    wiring: Wiring,
    quantiles: tuple[float, ...],
    params: Params,
    seed: int,
) -> network.Network:
    fewer = learn.drawn(int(params["lstm_rows"]), seed)
    examples, stop = (
        network.Examples(windows(rows.part, wiring), rows.change, rows.weight) for rows in (fewer, judge)
    )
    return network.train(
        examples,
        stop,
        wiring,
        quantiles,
        units=int(params["lstm_units"]),
        dropout=float(params["lstm_dropout"]),
        learning_rate=float(params["lstm_learning_rate"]),
        epochs=int(params["lstm_epochs"]),
        seed=seed,
    )


def _head(encoding: Encoding, task: Forecast, unit: str) -> IntervalHead:
    return IntervalHead(
        forecast=(Member(estimator=TREES, output=MIDDLE),),
        lower=(Member(estimator=TREES, output=0),),
        upper=(Member(estimator=TREES, output=2),),
        encoding=encoding,
        coverage=task.coverage,
        unit=unit,
    )


def _blended(head: IntervalHead, judge: Learning, raw: dict[str, NDArray], target: str) -> IntervalHead:
    """The head with the network's share in the forecast that does best on machines or times held back.

    Errors count in units of the root of the machine's level: between absolute ones, which one large
    machine would decide, and relative ones, which would be of the idle.
    """
    if LSTM not in raw:
        return head
    truth, columns = judge.part.targets[target], judge.part.columns
    assert head.encoding.base is not None
    size = np.sqrt(np.maximum(head.encoding.base.of(columns), head.encoding.unit))
    trees, net = (head.encoding.decode(raw[name][:, MIDDLE], columns) for name in (TREES, LSTM))
    losses = [np.sum(np.abs(truth - (1 - weight) * trees - weight * net) / size) for weight in WEIGHTS]
    weight = float(WEIGHTS[int(np.argmin(losses))])
    members = (
        Member(estimator=TREES, output=MIDDLE, weight=1 - weight),
        Member(estimator=LSTM, output=MIDDLE, weight=weight),
    )
    return head.model_copy(update={"forecast": members})


def with_offsets(
    head: IntervalHead, part: Observations, raw: dict[str, NDArray], target: str
) -> IntervalHead:
    """Both ends moved outwards by one offset, or the upper one alone inwards.

    Half of the truths of quiet machines are zero, and a lower end that is lifted over them
    loses them all at once: the coverage would jump past what is wanted, and never meet it.
    """
    truth, columns = part.targets[target], part.columns
    both = calibrated(head, columns, raw, truth)
    if both.offsets[0].lower > 0:
        return both
    forecast, lower, upper = head.uncalibrated(columns, raw)
    score = head.encoding.score
    wanted = score(truth, columns)
    below, above = score(lower, columns) - wanted, wanted - score(upper, columns)
    # What the lower end holds now it holds whatever becomes of the upper one.
    missed = np.where(truth > forecast, above, np.where(below <= 0, -np.inf, below))
    offset = conformal_quantile(missed, head.coverage)
    return head.model_copy(update={"offsets": (Offset(lower=0.0, upper=min(offset, 0.0)),)})


def _shares(
    boosters: tuple[lgb.Booster, ...],
    net: network.Network | None,
    wiring: Wiring,
    head: IntervalHead,
    judge: Learning,
) -> dict[str, float]:
    """Share of each input: the middle trees' gain, handed on to the inputs behind a signal, and the network's slope."""
    total: dict[str, float] = {}
    gain = boosters[MIDDLE].feature_importance("gain")
    gain = gain / max(float(np.sum(gain)), np.finfo(float).tiny)
    for names, share in zip(sources(wiring).values(), gain, strict=True):
        for name in names:
            total[name] = total.get(name, 0.0) + head.forecast[0].weight * float(share) / len(names)
    if net is not None:
        slope = net.sensitivity(windows(judge.part, wiring), MIDDLE)
        for name, share in zip(wiring.of_network(network.STEPS), slope, strict=True):
            total[name] = total.get(name, 0.0) + head.forecast[1].weight * float(share)
    summed = max(sum(total.values()), np.finfo(float).tiny)
    return {name: share / summed for name, share in total.items()}


BUILDER = BandwidthBuilder()
