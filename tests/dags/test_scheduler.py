"""What the scheduler loads before it forks its workers works in a task, which is a fork of a fork."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

# Each library at work with threads of its own, where it has any.
USED = """
import io, os, sys, tempfile, threading
from dags.scheduler import LIBRARIES, load

load()
assert threading.active_count() == 1, threading.enumerate()
own = {name for name in sys.modules if name.partition(".")[0] in {"pipelines", "models", "serving", "headrace"}}
assert not own, f"tasks would run these as they were: {own}"

def task():
    import deltalake, feast, great_expectations, lightgbm, mlflow, numpy, optuna, polars
    from matplotlib.figure import Figure
    from sklearn.linear_model import LogisticRegression

    random = numpy.random.default_rng(1)
    matrix = random.normal(size=(20_000, 8))
    label = (matrix[:, 0] > 0).astype(float)
    frame = polars.DataFrame({"key": random.integers(0, 50, 20_000), "value": matrix[:, 0]})
    assert frame.lazy().group_by("key").agg(polars.col("value").sum()).collect().height == 50
    with tempfile.TemporaryDirectory() as folder:
        frame.write_delta(f"{folder}/table")
        assert deltalake.DeltaTable(f"{folder}/table").to_pyarrow_table().num_rows == 20_000
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        assert mlflow.MlflowClient().search_experiments()
    lightgbm.train({"num_threads": 2, "verbosity": -1}, lightgbm.Dataset(matrix, label), 5).predict(matrix)
    LogisticRegression().fit(matrix @ matrix.T[:, :8], label)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study().optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    context = great_expectations.get_context(mode="ephemeral")
    assert context.data_sources is not None and feast.Entity(name="a", join_keys=["a"], value_type=feast.ValueType.STRING)
    figure = Figure()
    figure.subplots().plot([1, 2])
    figure.savefig(io.BytesIO(), format="png")

def forked(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def worker():
    for _ in range(2):
        assert forked(task) == 0

sys.exit(forked(worker))
"""


def test_libraries_that_were_loaded_before_a_fork_work_after_it():
    done = subprocess.run(
        [sys.executable, "-c", USED], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
