"""Settings: the environment and a file, nothing unknown, nothing unclear."""

import pytest

from pipelines.errors import SettingsError
from pipelines.settings import load_settings


def load(tmp_path, **variables):
    return load_settings({"HEADRACE_HOME": str(tmp_path), **variables})


def test_one_home_holds_all_state_by_default(tmp_path):
    settings = load(tmp_path)
    for address in (
        settings.lake,
        settings.mlflow_database,
        settings.airflow_database,
        settings.online_store,
        settings.tuning,
    ):
        assert str(tmp_path) in address
    assert settings.tracking == "http://127.0.0.1:5000"


def test_one_switch_each(tmp_path):
    settings = load(
        tmp_path,
        HEADRACE_LAKE_URL="s3://lake/x",
        HEADRACE_TRACKING_URL="http://mlflow:5000/",
        HEADRACE_AIRFLOW_DATABASE_URL="postgresql://db/airflow",
        HEADRACE_ONLINE_STORE_URL="redis://cache:6379/0",
    )
    assert settings.lake == "s3://lake/x"
    assert settings.tracking == "http://mlflow:5000"
    assert settings.airflow_database == "postgresql+psycopg2://db/airflow", "psycopg 3 is not installed"
    assert settings.online_store == "redis://cache:6379/0"


def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(
        SettingsError, match=r"HEADRACE_SERVING_PROT \(did you mean HEADRACE_SERVING_PORT\?\)"
    ):
        load(tmp_path, HEADRACE_SERVING_PROT="80")


def test_a_wrong_value_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"HEADRACE_MLFLOW_PORT='99999'"):
        load(tmp_path, HEADRACE_MLFLOW_PORT="99999")


def test_the_file_in_the_home_is_read_and_the_environment_wins(tmp_path):
    (tmp_path / "settings.env").write_text(
        "# ports\nHEADRACE_MLFLOW_PORT=5001\nHEADRACE_SERVING_PORT = 8005\n"
    )
    settings = load(tmp_path, HEADRACE_SERVING_PORT="8006")
    assert (settings.mlflow_port, settings.serving_port) == (5001, 8006)


def test_an_unknown_name_in_the_file_is_refused(tmp_path):
    (tmp_path / "settings.env").write_text("HEADRACE_NOPE=1\n")
    with pytest.raises(SettingsError, match="HEADRACE_NOPE"):
        load(tmp_path)


def test_a_line_that_is_no_setting_is_refused_with_its_number(tmp_path):
    (tmp_path / "settings.env").write_text("\nPATH=/bin\n")
    with pytest.raises(SettingsError, match=r"settings\.env:2"):
        load(tmp_path)


def test_a_mounted_secret_is_the_value_of_its_setting_and_the_environment_wins(tmp_path):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "headrace_tuning_url").write_text("postgresql://u:p@db/tuning\n")
    (mounted / "headrace_online_store_url").write_text("redis://cache/0\n")
    (mounted / "airflow_fernet_key").write_text("another part's")
    given = {"HEADRACE_SECRETS_FOLDER": str(mounted), "HEADRACE_ONLINE_STORE_URL": "redis://other/0"}
    settings = load(tmp_path, **given)
    assert settings.tuning == "postgresql+psycopg2://u:p@db/tuning"
    assert settings.online_store == "redis://other/0"
    (mounted / "headrace_nope").write_text("1")
    with pytest.raises(SettingsError, match="HEADRACE_NOPE"):
        load(tmp_path, **given)


def test_workers_on_many_machines_need_what_they_share(tmp_path):
    celery = {"HEADRACE_AIRFLOW_EXECUTOR": "CeleryExecutor"}
    with pytest.raises(SettingsError, match="needs AIRFLOW_BROKER_URL"):
        load(tmp_path, **celery)
    with pytest.raises(SettingsError, match="needs AIRFLOW_DATABASE_URL"):
        load(tmp_path, **celery, HEADRACE_AIRFLOW_BROKER_URL="redis://cache/1")


def test_a_refused_address_is_shown_without_its_password(tmp_path):
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, HEADRACE_AIRFLOW_BROKER_URL="http://user:hunter2@cache")
    assert "http://user:***@cache" in str(refused.value)


def test_secrets_do_not_show(tmp_path):
    assert "hunter2" not in repr(
        load(tmp_path, HEADRACE_S3_ACCESS_KEY_ID="k", HEADRACE_S3_SECRET_ACCESS_KEY="hunter2")
    )
