"""`python -m dags.scheduler …` is `airflow …`, after loading the libraries that tasks import.

For the LocalExecutor, which forks each task from the scheduler's own workers: what these have loaded, a task finds loaded, in
memory that all share. It takes seconds once, and from each task.

Libraries alone, none of our modules: a task is to run the code of now. And they are loaded, not used: threads and
connections do not live through a fork (tests/dags/test_scheduler.py uses each of them after one).
"""

from __future__ import annotations

from importlib import import_module

LIBRARIES = (
    "polars",
    "deltalake",
    "pyarrow.dataset",
    "prometheus_client",  # before Feast, which would have it keep counts in shared files
    "feature_repo.feast_import",
    "great_expectations",
    "lightgbm",
    "sklearn.linear_model",
    "matplotlib.backends.backend_agg",
    "mlflow",
    "mlflow.tracking.request_header.registry",
    "optuna",
    "optuna_integration",
    "securesystemslib.dsse",
)


def load() -> None:
    for name in LIBRARIES:
        import_module(name)


def main() -> None:
    load()
    from airflow.__main__ import main as airflow

    airflow()


if __name__ == "__main__":
    main()
