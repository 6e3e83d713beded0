from __future__ import annotations

from pathlib import Path

import pytest

from headrace.credentials import credentials
from headrace.environment import dags_folder, environment, environment_of
from headrace.processes import installed, program, programs
from pipelines.errors import ProcessError, SettingsError
from pipelines.settings import Settings, load_settings


def names(settings: Settings) -> list[str]:
    return [program.name for program in programs(settings)]


def test_all_parts_run_here_by_default(settings: Settings) -> None:
    assert names(settings) == [
        "mlflow",
        "airflow-database",
        "airflow-api",
        "airflow-dag-processor",
        "airflow-scheduler",
        "serving",
        "rollout-watcher",
        "evidently",
    ]


@pytest.mark.parametrize(
    ("setting", "prefix"),
    [("tracking_url", "mlflow"), ("airflow_url", "airflow"), ("serving_url", "serving")],
)
def test_a_part_that_runs_elsewhere_is_not_started_here(tmp_path: Path, setting: str, prefix: str) -> None:
    settings = load_settings({}, home=tmp_path, **{setting: "http://elsewhere:1234"})

    assert names(settings)
    assert not [name for name in names(settings) if name.startswith(prefix)]
    assert ("rollout-watcher" in names(settings)) == ("serving" in names(settings))
    # Nothing waits for what is not started.
    for each in programs(settings):
        assert set(each.after) <= set(names(settings))


def test_the_scheduler_waits_for_the_api_and_serves_no_logs(settings: Settings) -> None:
    found = {program.name: program for program in programs(settings)}

    assert found["airflow-scheduler"].after == ("airflow-api",)
    assert "--skip-serve-logs" in found["airflow-scheduler"].command
    assert "dags.scheduler" in found["airflow-scheduler"].command, "tasks are forked from it"


def test_a_database_that_has_this_versions_tables_is_not_migrated_again(settings: Settings) -> None:
    database = next(program for program in programs(settings) if program.name == "airflow-database")
    assert database.stamp is not None
    path, text = database.stamp
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert "airflow-database" in names(settings), "the stamp alone is not enough: the file may be gone"

    Path(settings.airflow_database.removeprefix("sqlite:///")).touch()
    assert "airflow-database" not in names(settings)
    elsewhere = load_settings({}, home=settings.home, airflow_database_url="postgresql://host/other")
    assert "airflow-database" in names(elsewhere), "another database has tables of its own"


def test_an_older_mlflow_database_is_upgraded_first(settings: Settings) -> None:
    folder = settings.home / "mlflow"
    folder.mkdir(parents=True)
    (folder / "mlflow.db").touch()
    (folder / "schema").write_text("1.0.0")

    assert names(settings)[:2] == ["mlflow-database", "mlflow"]
    (folder / "schema").write_text(installed("mlflow"))
    assert "mlflow-database" not in names(settings)


def test_on_loopback_mlflow_keeps_its_own_host_check(settings: Settings) -> None:
    mlflow = programs(settings)[0]

    assert "--allowed-hosts" not in mlflow.command
    assert mlflow.command[mlflow.command.index("--host") + 1] == "127.0.0.1"


def test_on_all_interfaces_mlflow_knows_this_machines_names_and_no_others(tmp_path: Path) -> None:
    settings = load_settings({}, home=tmp_path, bind_host="0.0.0.0")
    command = programs(settings)[0].command

    allowed = command[command.index("--allowed-hosts") + 1].split(",")
    assert {"localhost", "localhost:*", "127.0.0.1"} <= set(allowed)
    assert not {"*", "0.0.0.0"} & set(allowed)


def test_no_secret_is_on_a_command_line(tmp_path: Path) -> None:
    settings = load_settings(
        {"HEADRACE_S3_ACCESS_KEY_ID": "key", "HEADRACE_S3_SECRET_ACCESS_KEY": "hidden-s3"},
        home=tmp_path,
        mlflow_database_url="postgresql://user:hidden-mlflow@host/db",
        airflow_database_url="postgresql://user:hidden-airflow@host/db",
    )
    shown = " ".join(part for program in programs(settings) for part in program.command)

    assert "hidden" not in shown
    variables = environment(settings, credentials(settings))
    assert "hidden-mlflow" in variables["MLFLOW_BACKEND_STORE_URI"]
    assert "hidden-airflow" in variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert variables["AWS_SECRET_ACCESS_KEY"] == "hidden-s3"


def test_the_processes_see_the_same_settings_wherever_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        {
            "HEADRACE_HOME": "state",
            "HEADRACE_LAKE_URL": "lake",
            "HEADRACE_SOURCE": "mine.yaml",
            "HEADRACE_MLFLOW_PORT": "5001",
        }
    )
    variables = environment(settings, credentials(settings))

    monkeypatch.chdir("/")
    seen = load_settings(variables)
    assert seen.home == tmp_path / "state"
    assert seen.lake == str(tmp_path / "lake")
    assert seen.source == str(tmp_path / "mine.yaml")
    assert seen.tracking == variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5001"


def test_an_s3_lake_stays_an_s3_lake(tmp_path: Path) -> None:
    settings = load_settings({"HEADRACE_LAKE_URL": "s3://bucket/lake"}, home=tmp_path)

    assert environment(settings, credentials(settings))["HEADRACE_LAKE_URL"] == "s3://bucket/lake"


def test_nothing_calls_home(settings: Settings) -> None:
    variables = environment(settings, credentials(settings))

    assert variables["DO_NOT_TRACK"] == variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert variables["GX_ANALYTICS_ENABLED"] == "false"


def test_airflow_reads_the_installed_dags() -> None:
    assert (dags_folder() / "__init__.py").is_file()


def test_a_missing_package_is_named_with_what_brings_it() -> None:
    with pytest.raises(ProcessError, match=r"not-there is not installed.*headrace\[pipeline"):
        installed("not-there")


CELERY = {
    "airflow_executor": "CeleryExecutor",
    "airflow_database_url": "postgresql://u:p@db/airflow?sslmode=require",
    "airflow_broker_url": "amqp://u:p@broker//",
}


def test_celery_has_its_workers_its_broker_and_its_database(tmp_path: Path) -> None:
    settings = load_settings({}, home=tmp_path, airflow_workers=2, **CELERY)
    workers = [each for each in programs(settings) if each.name.startswith("airflow-worker")]
    assert [each.name for each in workers] == ["airflow-worker", "airflow-worker-2"]
    assert all("--skip-serve-logs" in each.command for each in workers)
    (scheduler,) = (each for each in programs(settings) if each.name == "airflow-scheduler")
    assert "dags.scheduler" not in scheduler.command, "no task is forked from it"
    variables = environment(settings, credentials(settings))
    assert variables["AIRFLOW__CELERY__BROKER_URL"] == "amqp://u:p@broker//"
    assert variables["AIRFLOW__CELERY__RESULT_BACKEND"].startswith("db+postgresql+psycopg2://u:p@db/airflow")
    # asyncpg has another word for TLS than libpq.
    asynchronous = variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"]
    assert asynchronous == "postgresql+asyncpg://u:p@db/airflow?ssl=require"
    elsewhere = load_settings({}, home=tmp_path, airflow_workers=0, **CELERY)
    assert not [name for name in names(elsewhere) if "worker" in name]


def test_one_worker_of_a_machine_shows_the_logs_of_all(tmp_path: Path) -> None:
    settings = load_settings({}, home=tmp_path, airflow_workers=2, airflow_log_port=8793, **CELERY)
    found = {each.name: each for each in programs(settings)}
    assert "--skip-serve-logs" not in found["airflow-worker"].command
    assert "--skip-serve-logs" in found["airflow-worker-2"].command


def test_a_program_alone_gets_its_own_secrets_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "mlflow_webhook_key").write_text("key")
    settings = load_settings({}, home=tmp_path, environment="production", tracking_url="http://mlflow:5000")
    assert environment_of(settings, "mlflow")["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"] == "key"
    assert not [name for name in environment_of(settings, "serving") if "SECRET" in name or "FERNET" in name]
    with pytest.raises(SettingsError, match=r"airflow_passwords\.json is missing"):
        environment_of(settings, "airflow-scheduler")


def test_a_program_that_there_is_not_is_answered_with_those_that_there_are(settings: Settings) -> None:
    with pytest.raises(
        ProcessError, match=r"no program 'airflow'; there are .*airflow-worker, .*spool-shipper"
    ):
        program(settings, "airflow")
    assert program(settings, "airflow-worker-7").name == "airflow-worker-7"


def test_mlflow_answers_to_the_names_that_it_is_given(tmp_path: Path) -> None:
    settings = load_settings(
        {}, home=tmp_path, bind_host="0.0.0.0", mlflow_hosts="mlflow, mlflow.example.com"
    )
    command = program(settings, "mlflow").command
    allowed = command[command.index("--allowed-hosts") + 1].split(",")
    assert {"mlflow", "mlflow:*", "mlflow.example.com"} <= set(allowed)
    assert "https://mlflow.example.com" in command[command.index("--cors-allowed-origins") + 1]
