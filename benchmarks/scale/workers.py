"""Two Celery workers beside one, on a tuning of 32 trials in one study.

    python -m benchmarks.scale.workers [--days 42] [--trials 32]

Airflow on PostgreSQL with the CeleryExecutor over a Redis of our own, Optuna on PostgreSQL; each worker takes one task
at a time and each fit one thread. PostgreSQL is that of ``HEADRACE_TEST_POSTGRES_URL`` (databases of our own,
dropped at the end). The same snapshot is searched three times, in homes and studies that know nothing of each other:

- by one worker;
- by two, to which the parameters that the one tried are queued: equal work, so that times can be compared, and the
  values of equal parameters;
- by two, freely.

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.scale.homes import Home, alone, finished, free_ports, redis_server, up
from pipelines.settings import with_driver

DAG, RUN = "train_failure", "tuning"
RUN_SECONDS = 1_200
POSTGRES_URL = os.environ.get("HEADRACE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
ARMS = (("one", 1, False), ("two, the same parameters", 2, True), ("two, freely", 2, False))

Row = dict[str, Any]


def measure(days: int, trials: int, keep: Callable[[Row], None]) -> None:
    """One row an arm, the first of one worker.

    Raises:
        RuntimeError: no PostgreSQL answers, there is no redis-server, or a run failed.
    """
    today = datetime.now(UTC).date()
    conf = {
        "window_start": (today - timedelta(days=days)).isoformat(),
        "window_end": today.isoformat(),
        "trials": trials,
    }
    with (
        tempfile.TemporaryDirectory(prefix="headrace-workers-") as name,
        redis_server(Path(name)) as redis,
        databases() as database,
    ):
        if redis is None:
            raise RuntimeError("no redis-server on this machine, and Celery needs a broker")
        study, one = "", list[Any]()
        for number, (arm, workers, queued) in enumerate(ARMS):
            url = database(f"tuning_{number}")
            home = Home(
                Path(name) / f"home_{number}",
                {
                    **free_ports(),
                    "HEADRACE_EVIDENTLY_PORT": 0,
                    "HEADRACE_AIRFLOW_EXECUTOR": "CeleryExecutor",
                    "HEADRACE_AIRFLOW_BROKER_URL": f"redis://127.0.0.1:{redis}/{number}",
                    "HEADRACE_AIRFLOW_DATABASE_URL": database(f"airflow_{number}"),
                    "HEADRACE_AIRFLOW_PARALLELISM": 1,
                    "HEADRACE_AIRFLOW_WORKERS": workers,
                    "HEADRACE_TUNING_WORKERS": workers,
                    "HEADRACE_TUNING_URL": url,
                    "OMP_NUM_THREADS": 1,
                },
            )
            if queued:
                _queue(url, study, one)
            row, searched, done = _search(home, conf)
            study, one = study or searched, one or done
            keep({"arm": arm, "workers": workers, "days": days} | row | _beside(one, done))


def _search(home: Home, conf: Row) -> tuple[Row, str, list[Any]]:
    """One run of the DAG: its tuning in figures, the study's name, and the trials."""
    with up(home), home.airflow() as airflow:
        alone(airflow, DAG)
        airflow.trigger(DAG, RUN, conf)
        finished(airflow, DAG, RUN, RUN_SECONDS)
        tasks = [task for task in airflow.tasks(DAG, RUN) if task.task_id == "tune"]
    study, trials = _ended(home.settings.tuning)
    if len(trials) < conf["trials"]:
        raise RuntimeError(
            f"{len(trials)} trials of {conf['trials']} within the spec's time: take a shorter window"
        )
    started = [task.started_at for task in tasks if task.started_at]
    ended = [task.ended_at for task in tasks if task.ended_at]
    states = Counter(trial.state.name for trial in trials)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = max(complete, key=lambda trial: trial.value)
    row = {
        "study": study,
        "seconds": (max(ended) - min(started)).total_seconds(),
        "trial_seconds": (
            max(trial.datetime_complete for trial in trials) - min(trial.datetime_start for trial in trials)
        ).total_seconds(),
        "busy_seconds": sum(trial.duration.total_seconds() for trial in trials),
        "trials": len(trials),
        "complete": states["COMPLETE"],
        "pruned": states["PRUNED"],
        "by_worker": sorted(Counter(trial.user_attrs.get("headrace.worker", 0) for trial in trials).values()),
        "best_value": best.value,
        "best_params": best.params,
    }
    return row, study, trials


def _ended(storage: str) -> tuple[str, list[Any]]:
    """Name of the one study that a storage holds, and its trials that were ended."""
    import optuna

    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    return name, [trial for trial in trials if trial.state.name in {"COMPLETE", "PRUNED"}]


def _queue(url: str, study: str, trials: list[Any]) -> None:
    """Make the study that the DAG will find by its name, with these trials' parameters in its queue."""
    import optuna

    made = optuna.create_study(study_name=study, storage=with_driver(url), direction="maximize")
    for trial in trials:
        made.enqueue_trial(trial.params)


def _beside(one: list[Any], these: list[Any]) -> Row:
    """Which parameters both studies tried, and how far the values of those that both completed differ."""
    before = {_key(trial): trial for trial in one}
    both = [(before[_key(trial)], trial) for trial in these if _key(trial) in before]
    valued = [
        (left.value, right.value) for left, right in both if left.state.name == right.state.name == "COMPLETE"
    ]
    return {
        "same_params": len(both),
        "completed_in_both": len(valued),
        "largest_difference": max((abs(left - right) for left, right in valued), default=None),
    }


def _key(trial: Any) -> str:
    return json.dumps(trial.params, sort_keys=True)


@contextmanager
def databases() -> Iterator[Callable[[str], str]]:
    """``database(about)``: URL of a new, empty database, dropped at the end."""
    import psycopg2

    made: list[str] = []

    def run(statement: str) -> None:
        connection = psycopg2.connect(POSTGRES_URL, connect_timeout=3)
        connection.autocommit = True  # a database is not made within a transaction
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def database(about: str) -> str:
        name = f"headrace_bench_{about}_{uuid.uuid4().hex[:8]}"
        run(f'CREATE DATABASE "{name}"')
        made.append(name)
        return f"{POSTGRES_URL.rsplit('/', 1)[0]}/{name}"

    try:
        yield database
    finally:
        for name in made:
            run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=42, help="Of the window.")
    parser.add_argument("--trials", type=int, default=32)
    arguments = parser.parse_args()
    rows: list[Row] = []

    def keep(row: Row) -> None:
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)

    measure(arguments.days, arguments.trials, keep)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
