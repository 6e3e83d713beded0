"""LightGBM over two worker processes of Dask, by one setting: as good as one process, and the same where it must be."""

import lightgbm as lgb
import numpy as np
import pytest

from models.base import Observations
from models.boosters import grow, reproducible, stopped
from models.failure.build import BUILDER, MAX_BIN
from models.failure.spec import SPEC
from models.manifest import FieldType, InputField
from models.metrics import RankedLabels
from pipelines.adapters.registry import Registry
from pipelines.adapters.training_cluster import training_cluster
from pipelines.errors import ClusterError, SettingsError
from pipelines.settings import load_settings
from pipelines.train import job as train
from pipelines.tune import job as tune
from tests.integration.test_train_to_production import store_snapshot

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

INPUTS = (
    InputField(name="heat", type=FieldType.DOUBLE, required=False),
    InputField(name="wear", type=FieldType.DOUBLE, required=False),
    InputField(name="zone", type=FieldType.STRING, required=False, categories=("a", "b", "c")),
)
SEED = 20260101


@pytest.fixture(scope="module")
def scheduler():
    """Address of a scheduler with two workers, each a process of its own with one thread."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    ) as cluster:
        cluster.wait_for_workers(2)
        yield cluster.scheduler_address


@pytest.fixture
def on_cluster(tmp_path, scheduler):
    return load_settings({}, home=tmp_path / "cluster", train_cluster=scheduler)


def observed(rows, seed):
    """Failures at one in ten, by wear, heat and zone; some heat is missing."""
    random = np.random.default_rng(seed)
    wear, heat = random.normal(size=rows), random.normal(size=rows)
    zone = random.choice(["a", "b", "c"], rows).astype(object)
    score = 2 * wear + heat * (zone == "b") + (zone == "c")
    event = (score + random.normal(size=rows) > np.quantile(score, 0.9)).astype(np.float64)
    return Observations(
        {"heat": np.where(random.random(rows) < 0.05, np.nan, heat), "wear": wear, "zone": zone},
        {"event": event},
        np.ones(rows),
        np.arange(rows).astype(str),
    )


def fit(seed=SEED):
    return BUILDER.fit(observed(20_000, 1), observed(5_000, 2), INPUTS, BUILDER.default_params(), seed, SPEC)


def coarse(rows, seed):
    """Rows of which no feature has more values than there are bins."""
    random = np.random.default_rng(seed)
    matrix = random.integers(0, MAX_BIN // 2, (rows, 4)).astype(np.float64)
    label = (matrix @ [2.0, -1.0, 0.5, 0.0] + random.normal(scale=8, size=rows) > 20).astype(np.float64)
    return matrix, label, random.uniform(0.5, 2.0, rows)


def grown(objective, metric, label):
    matrix, _, weight = coarse(8_000, 1)
    settings = {"objective": objective, "metric": metric, "max_bin": MAX_BIN, "feature_fraction": 0.75}
    # On a cluster they would start from the mean of the workers' starts, and rows of a leaf are counted by
    # estimate, which matters where leaves are as small as they may be.
    settings |= {"boost_from_average": False, "num_leaves": 4}
    settings |= {"num_class": 3} if objective == "multiclass" else {}
    train_rows, valid_rows = slice(0, 6_000), slice(6_000, None)
    return grow(
        settings | reproducible(SEED),
        lgb.Dataset(matrix[train_rows], label[train_rows], weight=weight[train_rows]),
        20,
        lgb.Dataset(matrix[valid_rows], label[valid_rows], weight=weight[valid_rows]),
        10,
    ), matrix[valid_rows]


@pytest.mark.parametrize(
    ("objective", "metric"), [("binary", "binary_logloss"), ("multiclass", "multi_logloss")]
)
def test_the_trees_are_those_of_one_process_where_bins_bags_and_starts_are_the_same(
    on_cluster, objective, metric
):
    matrix, label, _ = coarse(8_000, 1)
    if objective == "multiclass":
        noise = np.random.default_rng(2).normal(scale=6, size=len(matrix))
        label = np.digitize(matrix[:, 0] + noise, [10, 20])
    alone, rows = grown(objective, metric, label)
    with training_cluster(on_cluster) as workers:
        together, _ = grown(objective, metric, label)
    assert workers == 2
    assert together.best_iteration == alone.best_iteration
    # Histograms are summed in another order.
    np.testing.assert_allclose(
        together.predict(rows, raw_score=True), alone.predict(rows, raw_score=True), rtol=0, atol=1e-6
    )


def test_a_model_is_as_good_as_that_of_one_process_and_the_same_each_time(on_cluster):
    judged = observed(5_000, 3)

    def precision(answers):
        return RankedLabels(judged.targets["event"], answers["probability"]).average_precision(judged.weight)

    alone = fit().answer(judged)
    with training_cluster(on_cluster):
        together, again = fit().answer(judged), fit().answer(judged)
    np.testing.assert_array_equal(together["probability"], again["probability"])
    # Bins and bags are of other rows: of the trees no more can be asked than of another seed's.
    other = fit(seed=SEED + 1).answer(judged)
    apart = np.mean(np.abs(together["probability"] - alone["probability"]))
    assert apart <= 2 * np.mean(np.abs(other["probability"] - alone["probability"]))
    assert precision(together) == pytest.approx(precision(alone), abs=0.02)


def test_rounds_are_chosen_afterwards_as_early_stopping_does():
    matrix, label, weight = coarse(8_000, 1)
    valid = lgb.Dataset(matrix[6_000:], label[6_000:], weight=weight[6_000:])
    settings = {"objective": "binary", "metric": "binary_logloss", "learning_rate": 0.3} | reproducible(SEED)

    def rows():
        return lgb.Dataset(matrix[:6_000], label[:6_000], weight=weight[:6_000])

    early = grow(settings, rows(), 200, valid, 10)
    every = lgb.train(settings, rows(), num_boost_round=200)
    unread = lgb.Dataset(matrix[6_000:], label[6_000:], weight=weight[6_000:])
    late = stopped(every, "binary_logloss", unread, 10)
    assert 1 < late.best_iteration == early.best_iteration < 190
    np.testing.assert_array_equal(late.predict(matrix[6_000:]), early.predict(matrix[6_000:]))


def test_a_version_is_tuned_trained_and_exported_as_by_one_process(
    settings, mlflow_server, scheduler, tmp_path
):
    settings = settings.model_copy(update={"tracking_url": mlflow_server, "train_cluster": scheduler})
    snapshot = store_snapshot(settings, seed=83)
    study = tune.run(snapshot, settings, trials=2)
    candidate = train.run(snapshot, study, settings)
    run = Registry(settings.tracking).run(candidate.run_id)
    assert run.params["cluster_workers"] == "2"
    # The export was loaded as the server does, and answered as the booster in memory (train refuses another).
    assert run.metrics["export_difference_probability"] <= 1e-9
    assert run.metrics["valid_average_precision"] > 0.8
    files = _exported(settings, candidate, tmp_path).glob("**/*.txt")
    (text,) = (text for file in files if "end of parameters" in (text := file.read_text("utf-8")))
    assert "[num_machines: 1]" in text
    assert "[machines: ]" in text
    assert "127.0.0.1" not in text, "no address of a worker leaves the cluster"


def _exported(settings, candidate, folder):
    import mlflow

    from pipelines.adapters import tracking

    tracking.client(settings)
    source = Registry(settings.tracking).version(candidate.registered_name, candidate.version).source
    mlflow.artifacts.download_artifacts(source, dst_path=str(folder / "export"))
    return folder / "export"


def test_a_cluster_that_does_not_answer_is_named(tmp_path, free_port, monkeypatch):
    monkeypatch.setattr("pipelines.adapters.training_cluster.CONNECT_SECONDS", 2)
    settings = load_settings({}, home=tmp_path, train_cluster=f"tcp://127.0.0.1:{free_port}")
    with (
        pytest.raises(ClusterError, match=rf"127\.0\.0\.1:{free_port} does not answer"),
        training_cluster(settings),
    ):
        pass


def test_without_the_setting_all_is_grown_here(tmp_path):
    with training_cluster(load_settings({}, home=tmp_path)) as workers:
        assert workers == 0


def test_an_address_that_dask_does_not_know_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="HEADRACE_TRAIN_CLUSTER"):
        load_settings({"HEADRACE_HOME": str(tmp_path), "HEADRACE_TRAIN_CLUSTER": "scheduler"})
