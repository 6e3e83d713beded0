"""A company's set-up by settings alone, on one machine: Airflow on PostgreSQL with Celery, MLflow on PostgreSQL with
artifacts in S3, Feast with a registry in PostgreSQL and values in Redis, Optuna on PostgreSQL, the lake in S3.

Three homes stand for three machines: one has the pages, the scheduler, MLflow and the server, two have a Celery
worker each and nothing in common with the first but the settings and the mounted secrets. A model goes from raw
telemetry to an answer; then Airflow is given another broker, and works on.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx
import psycopg2
import pytest

from headrace.credentials import Credentials, credentials
from headrace.demo import wait_until_parsed
from headrace.exporter import Exporter
from pipelines.adapters.lake import Lake
from pipelines.adapters.signing import PRIVATE_KEY, PUBLIC_KEY, Signer
from pipelines.settings import PREFIX, Settings, load_settings
from tests.e2e.homes import Home, finished, follow, free_ports
from tests.services import BUCKET

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

RABBITMQ_URL = os.environ.get("HEADRACE_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
PORTS = ("AIRFLOW", "MLFLOW", "SERVING", "SERVING_GRPC", "AIRFLOW_LOG")
RUN = "by_celery"


class Machine(Home):
    """A home, and the programs that run in it."""

    def __init__(self, home, given, queue):
        super().__init__(home, given)
        self.environment["AIRFLOW__OPERATORS__DEFAULT_QUEUE"] = queue
        self.running = []

    def run(self, name):
        self.home.mkdir(exist_ok=True)
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "run", name],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(process)

    def stop(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
        self.running.clear()

    def tasks(self):
        """Ids of the tasks of the run whose logs lie on this machine: those that ran here."""
        logs = (self.home / "logs" / "tasks").glob(f"dag_id=train_failure/run_id={RUN}/task_id=*")
        return {folder.name.removeprefix("task_id=") for folder in logs}


class Company:
    def __init__(self, main, workers):
        self.main = main
        self.workers = workers

    def everyone(self):
        return [self.main, *self.workers]

    def work_with(self, broker):
        """Give all machines this broker, and (re)start what talks to it."""
        for worker in self.workers:
            worker.stop()
        for machine in self.everyone():
            machine.environment[f"{PREFIX}AIRFLOW_BROKER_URL"] = broker
        self.main.headrace("up")
        self.workers[0].run("airflow-worker")
        self.workers[1].run("airflow-worker-2")

    def finished(self, dag_id, run_id, seconds):
        with self.main.airflow() as airflow:
            return follow(airflow, dag_id, run_id, finished, seconds)


@pytest.fixture(scope="module")
def queue():
    """Name of Airflow's queue: brokers may be shared."""
    from kombu import Connection

    name = f"headrace_test_{secrets.token_hex(4)}"
    try:
        with Connection(RABBITMQ_URL, connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1)
            yield name
            connection.default_channel.queue_delete(name)
    except OSError:
        pytest.skip("no RabbitMQ answers at HEADRACE_TEST_RABBITMQ_URL")


@pytest.fixture(scope="module")
def company(tmp_path_factory, services, queue):
    folder = tmp_path_factory.mktemp("company")
    given = _mounted_secrets(folder, services)
    everyone = {
        "ENVIRONMENT": "production",
        "SECRETS_FOLDER": given,
        "SIGNING_KEY": given / PRIVATE_KEY,
        "TRUSTED_KEYS": given / PUBLIC_KEY,
        "LAKE_URL": f"s3://{BUCKET}/{secrets.token_hex(4)}/lake",
        "S3_ENDPOINT_URL": services.s3_endpoint,
        "ONLINE_STORE_URL": services.redis,
        "AIRFLOW_EXECUTOR": "CeleryExecutor",
        "AIRFLOW_PARALLELISM": 1,
        "AIRFLOW_TRAINING_SLOTS": 2,
        "TUNING_WORKERS": 2,
        "PREDICTION_LOG_SHIP_SECONDS": 2,
        **free_ports(PORTS),
    }
    pages = {
        "MLFLOW_ARTIFACTS_URL": f"s3://{BUCKET}/{secrets.token_hex(4)}/mlflow",
        "AIRFLOW_WORKERS": 0,
        "EVIDENTLY_PORT": 0,
        "PREDICTION_LOG_SEGMENT_SECONDS": 1,
    }
    main = Machine(folder / "main", everyone | pages, queue)
    elsewhere = {
        f"{service}_URL": f"http://127.0.0.1:{everyone[port]}"
        for service, port in (
            ("AIRFLOW", "AIRFLOW_PORT"),
            ("TRACKING", "MLFLOW_PORT"),
            ("SERVING", "SERVING_PORT"),
        )
    }
    workers = [Machine(folder / f"worker{number}", everyone | elsewhere, queue) for number in (1, 2)]
    running = Company(main, workers)
    yield running
    for worker in workers:
        worker.stop()
    main.headrace("down")


def _mounted_secrets(folder, services):
    """A folder as Docker mounts it: the keys of the processes, and settings that are secret, one a file."""
    made = load_settings({}, home=folder / "made")
    found: Credentials = credentials(made)
    assert found.mlflow_webhook_key
    Signer.of(made)
    given = folder / "mounted"
    shutil.copytree(made.secrets, given)
    for name, value in {
        "AIRFLOW_DATABASE_URL": services.postgres.database("airflow"),
        "MLFLOW_DATABASE_URL": services.postgres.database("mlflow"),
        "FEATURE_REGISTRY_URL": services.postgres.database("features"),
        "TUNING_URL": services.postgres.database("tuning"),
        "S3_ACCESS_KEY_ID": "key",
        "S3_SECRET_ACCESS_KEY": "secret",
        "WEBHOOK_SECRET": secrets.token_hex(16),
    }.items():
        (given / f"{PREFIX}{name}".lower()).write_text(f"{value}\n")
    given.chmod(0o500)
    return given


def _rows(url, statement):
    connection = psycopg2.connect(url)
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchall()
    finally:
        connection.close()


def test_a_model_goes_from_telemetry_to_an_answer_over_two_celery_workers(company, services):
    company.work_with(services.redis)
    now = datetime.now(UTC).date()
    conf = {
        # Each day is some commits to S3. So few prove nothing; what is tested here is the way, not the gate.
        "window_start": (now - timedelta(days=10)).isoformat(),
        "window_end": now.isoformat(),
        "trials": 4,
        "override_by": "ada",
        "override_reason": "a test of the services",
    }
    with company.main.airflow() as airflow:
        wait_until_parsed(airflow, "train_failure")
        airflow.trigger("train_failure", RUN, conf)
    run, tasks = company.finished("train_failure", RUN, 600)
    states = {(task.task_id, task.map_index): task.state for task in tasks}
    assert run.state == "success", states

    # Both machines worked, and each task on one of them.
    ran = [worker.tasks() for worker in company.workers]
    assert all(ran), ran
    assert not company.main.tasks()
    assert "promote" in ran[0] | ran[1]
    assert {("tune", 0), ("tune", 1)} <= set(states), "the study is shared out"

    settings: Settings = company.main.settings
    machine = Lake.of(settings).scan("clean/simulated/machines").select("machine_id").first().collect().item()
    asked = {"entities": [machine], "at": f"{now.isoformat()}T00:00:00Z"}
    answer = httpx.post(f"{settings.serving}/models/failure/predict", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    assert 0 <= answer.json()["predictions"][0]["probability"] <= 1
    assert answer.json()["version"] == "1"


def test_each_part_keeps_its_state_in_its_service(company):
    import boto3
    import optuna
    import redis

    settings = company.main.settings
    assert _rows(
        settings.airflow_database_url, "select count(*) from dag_run where run_id = 'by_celery'"
    ) == [(1,)]
    assert _rows(settings.mlflow_database_url, "select name from registered_models") == [("failure",)]
    assert _rows(settings.feature_registry_url, "select distinct project_id from feature_views") == [
        ("simulated",)
    ]
    (name,) = optuna.get_all_study_names(settings.tuning)
    trials = optuna.load_study(study_name=name, storage=settings.tuning).trials
    # Two workers that look in the same instant may each begin the last one.
    assert 4 <= sum(trial.state.is_finished() for trial in trials) <= 5
    # Whoever comes first may have done them all before the other begins.
    assert {trial.user_attrs["headrace.worker"] for trial in trials} <= {0, 1}
    client = redis.Redis.from_url(settings.online_store_url)
    assert any(b"simulated" in key for key in client.scan_iter()), (
        "values of entities, under the source's name"
    )

    s3 = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    prefix = settings.lake.removeprefix(f"s3://{BUCKET}/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    for part in ("raw", "clean", "features", "snapshots", "ledger"):
        assert any(key.startswith(f"{prefix}/{part}/") for key in keys), f"no {part} in S3"
    artifacts = settings.mlflow_artifacts.removeprefix(f"s3://{BUCKET}/")
    assert any(key.startswith(f"{artifacts}/") for key in keys)
    for machine in company.everyone():
        assert not (machine.home / "lake").exists()
        assert not list(machine.home.rglob("*.db"))


def test_the_pages_show_the_log_of_a_task_that_ran_on_another_machine(company):
    first = next(iter(sorted(company.workers[0].tasks() - {"tune", "ingest", "validate"})))
    with company.main.airflow() as airflow:
        task = next(task for task in airflow.tasks("train_failure", RUN) if task.task_id == first)
        lines = airflow.log("train_failure", RUN, task)
    assert any(
        "Task instance is in running state" in line or "DAG bundles loaded" in line for line in lines
    ), lines


def test_predictions_reach_the_lake_in_s3(company):
    settings = company.main.settings
    lake = Lake.of(settings)
    company.main.run("spool-shipper")
    deadline = time.monotonic() + 90
    while not lake.exists("predictions/failure"):
        assert time.monotonic() < deadline, (company.main.home / "spool-shipper.log").read_text()
        time.sleep(1)
    company.main.stop()
    assert lake.scan("predictions/failure").collect().height == 1


def test_prometheus_sees_how_much_airflow_has_to_do(company):
    settings = company.main.settings
    families = {family.name: family for family in Exporter(settings).collect()}
    up = {sample.labels["part"]: sample.value for sample in families["headrace_exporter_up"].samples}
    assert up == dict.fromkeys(("monitor", "ledger", "requests", "airflow"), 1.0)
    slots = {
        (sample.labels["pool"], sample.labels["state"]): sample.value
        for sample in families["headrace_airflow_pool_slots"].samples
    }
    assert slots["training", "open"] == 2.0
    (moved,) = families["headrace_pointer_moves"].samples
    assert (moved.labels["model"], moved.labels["alias"], moved.value) == ("failure", "production", 1.0)


def test_another_broker_is_a_setting(company, queue):
    """Redis before, RabbitMQ now; the same homes, workers and runs."""
    company.work_with(RABBITMQ_URL)
    with company.main.airflow() as airflow:
        wait_until_parsed(airflow, "predictions")
        airflow.trigger("predictions", "by_rabbitmq", {})
    run, tasks = company.finished("predictions", "by_rabbitmq", 120)
    assert run.state == "success", [(task.task_id, task.state) for task in tasks]
    assert company.main.registry().alias_version("failure", "production").version == "1"
    told = json.loads(company.main.headrace("status", "--json").stdout)
    assert told["models"]["failure"]["serving"] == "1"
