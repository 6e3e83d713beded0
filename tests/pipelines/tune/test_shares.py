"""One study over several workers: its trials are shared out, and what a killed worker left is done by its next run."""

import os
import pickle
import signal
import subprocess
import sys
import time

import optuna
import pytest

from pipelines.tune import job
from tests.integration.test_train_to_production import store_snapshot

pytestmark = [pytest.mark.integration, pytest.mark.services]

SEARCH = """
import pickle, sys
from pipelines.tune import job
share, settings = pickle.loads(sys.stdin.buffer.read())
job.search(share, settings)
"""


@pytest.fixture
def configured(settings, mlflow_server):
    return settings.model_copy(update={"tracking_url": mlflow_server})


def begin(share, settings):
    process = subprocess.Popen([sys.executable, "-c", SEARCH], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(pickle.dumps((share, settings)))
    process.stdin.close()
    return process


def study_of(share, settings):
    return optuna.load_study(study_name=share.study, storage=job.open_storage(settings.tuning))


def test_workers_share_a_study_and_one_that_is_killed_leaves_nothing_undone(configured):
    snapshot = store_snapshot(configured, seed=21)
    shares = job.share_out(snapshot, configured, trials=8, workers=2)
    assert [share.worker for share in shares] == [0, 1]
    assert job.share_out(snapshot, configured, trials=8, workers=2) == shares, "again: the same study"

    killed = begin(shares[0], configured)
    deadline = time.monotonic() + 120
    while not any(trial.user_attrs for trial in study_of(shares[0], configured).trials):
        assert killed.poll() is None, killed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    workers = [begin(share, configured) for share in shares]
    for worker in workers:
        assert worker.wait(240) == 0, worker.stderr.read().decode()[-2000:]
    study = job.conclude(shares[0], configured)
    trials = study_of(shares[0], configured).trials
    finished = [
        trial
        for trial in trials
        if trial.state in {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    ]
    # Two that look in the same instant may each begin the last one.
    assert len(finished) in {8, 9}
    assert study.trials == len(finished)
    assert {trial.user_attrs["headrace.worker"] for trial in finished} == {0, 1}
    assert not [trial for trial in trials if trial.state is optuna.trial.TrialState.RUNNING]
    assert job.conclude(shares[1], configured) == study, "whoever concludes, and again"
    assert study.best_value == max(trial.value for trial in finished if trial.value is not None)
