"""What all models of LightGBM share: reproducible settings, growth here or on a cluster, importance, and a booster as it is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import Estimator

if TYPE_CHECKING:
    import lightgbm as lgb


class Cluster(Protocol):
    """Machines that grow one booster together."""

    def grow(self, settings: Mapping[str, Any], training: lgb.Dataset, rounds: int) -> lgb.Booster:
        """A booster of so many rounds, to be used as one that was grown here."""
        ...


_CLUSTER: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


@contextmanager
def growing_on(cluster: Cluster) -> Iterator[None]:
    """Have :func:`grow` use the cluster, within this block and thread."""
    token = _CLUSTER.set(cluster)
    try:
        yield
    finally:
        _CLUSTER.reset(token)


def reproducible(seed: int) -> dict[str, int | bool]:
    """Settings under which the same rows give the same trees, on any machine.

    One thread: on two busy cores, threads that wait for each other cost more than they save.
    """
    return {
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }


def grow(
    settings: Mapping[str, Any],
    training: lgb.Dataset,
    rounds: int,
    valid: lgb.Dataset,
    patience: int,
    figures: Sequence[Callable[..., Any]] = (),
    callbacks: Sequence[Callable[..., Any]] = (),
) -> lgb.Booster:
    """A booster of the rounds that do best on ``valid``, at most so many: grown here, or as :func:`growing_on` says.

    On a cluster the trees are not those that one process grows: each worker proposes the borders of its bins from
    its own rows, and bags its own rows.

    Args:
        settings: LightGBM's; ``metric`` is the one that decides when to stop.
        training: As it was made: a cluster takes its rows.
        patience: Rounds without a better figure after which it ends.
        figures: Further figures of ``valid``, of each round, and
        callbacks: what a trial of a study is pruned by. A cluster calls neither: it grows each booster to its end.
    """
    import lightgbm as lgb

    if (cluster := _CLUSTER.get()) is not None:
        return stopped(cluster.grow(settings, training, rounds), str(settings["metric"]), valid, patience)
    return lgb.train(
        dict(settings),
        training,
        num_boost_round=rounds,
        valid_sets=[valid],
        valid_names=["valid"],
        feval=list(figures),
        callbacks=[lgb.early_stopping(patience, first_metric_only=True, verbose=False), *callbacks],
    )


def stopped(booster: lgb.Booster, metric: str, valid: lgb.Dataset, patience: int) -> lgb.Booster:
    """The booster, told which of its rounds early stopping would have kept.

    Afterwards: on a cluster each worker would stop by rows of its own, and the others wait for it for ever.

    Raises:
        KeyError: the metric is none of those that are known here.
    """
    loss, label, score = _LOSSES[metric], np.asarray(valid.label), np.zeros(())
    best, least = 0, np.inf
    for number in range(booster.num_trees() // booster.num_model_per_iteration()):
        score = score + booster.predict(valid.data, raw_score=True, start_iteration=number, num_iteration=1)
        reached = float(np.average(loss(score, label), weights=valid.weight))
        if reached < least:
            best, least = number, reached
        elif number - best >= patience:
            break
    booster.best_iteration = best + 1
    return booster


def _binary_log_loss(score: NDArray, label: NDArray) -> NDArray:
    return np.asarray(np.logaddexp(0.0, score) - label * score)


def _multiclass_log_loss(score: NDArray, label: NDArray) -> NDArray:
    chosen = score[np.arange(len(score)), label.astype(np.int64)]
    return np.asarray(np.logaddexp.reduce(score, axis=1) - chosen)


_LOSSES = {"binary_logloss": _binary_log_loss, "multi_logloss": _multiclass_log_loss}


def gain_shares(
    boosters: Sequence[lgb.Booster], owners: Sequence[str], inputs: Iterable[str]
) -> dict[str, float]:
    """Share of each input in the gain of all boosters; the shares add up to 1 where any split gained.

    Args:
        owners: The input that each feature of the boosters counts for, in their order.
        inputs: All inputs; those that no feature counts for have none.
    """
    gain = np.sum([booster.feature_importance("gain") for booster in boosters], axis=0)
    return owner_shares(gain.tolist(), owners, inputs)


def owner_shares(told: Sequence[float], owners: Sequence[str], inputs: Iterable[str]) -> dict[str, float]:
    """As :func:`gain_shares`, of any figure per feature."""
    total = max(sum(told), np.finfo(float).tiny)
    shares = dict.fromkeys(inputs, 0.0)
    for owner, share in zip(owners, told, strict=True):
        shares[owner] += share / total
    return shares


def save_booster(name: str, booster: lgb.Booster, inputs: Iterable[str], folder: Path) -> Estimator:
    """Write a booster in LightGBM's text format, which keeps doubles to 17 digits: it is the trained one."""
    estimator = Estimator(name=name, runtime="lightgbm", file=f"{name}.txt", inputs=tuple(inputs))
    booster.save_model(str(folder / estimator.file))
    return estimator
