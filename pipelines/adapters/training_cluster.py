"""Training beyond one machine: LightGBM's own Dask integration, behind the one setting ``TRAIN_CLUSTER``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.boosters import growing_on
from pipelines.errors import ClusterError, SettingsError
from pipelines.settings import PREFIX

if TYPE_CHECKING:
    import lightgbm as lgb

    from pipelines.settings import Settings

CONNECT_SECONDS = 30
# scikit-learn's words, which the integration speaks, for LightGBM's own. Under both, it would warn of each.
_WORDS = {
    "bagging_fraction": "subsample",
    "bagging_freq": "subsample_freq",
    "feature_fraction": "colsample_bytree",
    "lambda_l1": "reg_alpha",
    "lambda_l2": "reg_lambda",
    "min_gain_to_split": "min_split_gain",
    "min_sum_hessian_in_leaf": "min_child_weight",
    "seed": "random_state",
}
# Decided by the workers (threads), or of a valid part, which is judged here.
_NOT_THEIRS = {"num_threads", "metric"}
# A booster's text tells its settings, the workers' addresses among them. They are of no use elsewhere.
_OF_ONE_MACHINE = {
    "tree_learner": "serial",
    "num_threads": "1",
    "num_machines": "1",
    "local_listen_port": "12400",
    "time_out": "120",
    "machines": "",
}


@contextmanager
def training_cluster(settings: Settings) -> Iterator[int]:
    """Within the block, boosters are grown on the cluster that the settings name; gives its number of workers.

    0, and all is grown here, where the settings name none.

    Raises:
        SettingsError: the extra ``train-cluster`` is not installed.
        ClusterError: no scheduler answers, or it has no worker; or a worker was lost meanwhile.
    """
    if not settings.train_cluster:
        yield 0
        return
    try:
        from distributed import Client
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise SettingsError(
            f"{PREFIX}TRAIN_CLUSTER={settings.train_cluster} needs pip install 'headrace[train-cluster]'"
        ) from error
    from lightgbm.basic import LightGBMError

    class Ordered(Client):
        """LightGBM ranks workers in the order in which they are told, which was that of a set: any, each time anew."""

        def who_has(self, *arguments: Any, **named: Any) -> dict[str, Any]:
            told = super().who_has(*arguments, **named)
            return dict(sorted(told.items(), key=lambda item: item[1]))

    about = f"the cluster at {settings.train_cluster}"
    try:
        client = Ordered(settings.train_cluster, timeout=CONNECT_SECONDS)
    except OSError as error:
        raise ClusterError(f"{about} does not answer within {CONNECT_SECONDS} s: {error}") from error
    with client:
        workers = sorted(client.nthreads())
        if not workers:
            raise ClusterError(f"{about} has no worker: start `dask worker {settings.train_cluster}`")
        try:
            with growing_on(DaskCluster(client, workers)):
                yield len(workers)
        except (KilledWorker, FutureCancelledError, LightGBMError) as error:
            raise ClusterError(f"{about} did not train to the end: {error}") from error


class DaskCluster:
    """Grows a booster on rows that are spread over workers, each of which holds its share and no other.

    Args:
        client: ``distributed.Client``.
        workers: Addresses of workers. They need LightGBM, and nothing of Headrace.
    """

    def __init__(self, client: Any, workers: Sequence[str]) -> None:
        self._client = client
        self._workers = workers

    def grow(self, settings: Mapping[str, Any], training: lgb.Dataset, rounds: int) -> lgb.Booster:
        import lightgbm as lgb

        rows = np.asarray(training.data)
        # Drawn, so that each worker's rows are as all are: it is by them that it proposes borders of bins.
        order = np.random.default_rng(int(settings["seed"])).permutation(len(rows))
        shares = np.array_split(order, min(len(self._workers), len(rows)))
        # A regressor, whatever the objective: a classifier would number the classes that a worker happens to see.
        model = lgb.DaskLGBMRegressor(
            client=self._client,
            n_estimators=rounds,
            **{_WORDS.get(name, name): value for name, value in settings.items() if name not in _NOT_THEIRS},
        )
        weight = None if training.weight is None else self._spread(np.asarray(training.weight), shares)
        with warnings.catch_warnings():
            # It takes its own default for a parameter of the caller's.
            warnings.filterwarnings("ignore", message="Parameter n_jobs will be ignored")
            model.fit(
                self._spread(rows, shares),
                self._spread(np.asarray(training.label), shares),
                sample_weight=weight,
                feature_name=training.feature_name,
                categorical_feature=training.categorical_feature,
            )
        return as_of_one_machine(model.booster_)

    def _spread(self, values: NDArray, shares: Sequence[NDArray]) -> Any:
        """A Dask array of one part a worker."""
        from dask import array

        parts = []
        for share, worker in zip(shares, self._workers, strict=False):
            part = values[share]
            future = self._client.scatter(part, workers=[worker], hash=False)
            parts.append(array.from_delayed(future, part.shape, part.dtype))
        return array.concatenate(parts)


def as_of_one_machine(booster: lgb.Booster) -> lgb.Booster:
    """The same trees, without what they were grown by: no export shall tell of the workers' addresses."""
    import lightgbm as lgb

    text = booster.model_to_string(num_iteration=-1)
    for name, value in _OF_ONE_MACHINE.items():
        text = re.sub(rf"^\[{name}: .*\]$", f"[{name}: {value}]", text, flags=re.MULTILINE)
    return lgb.Booster(model_str=text)
