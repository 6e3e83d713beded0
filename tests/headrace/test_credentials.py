from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.credentials import credentials
from pipelines.errors import SettingsError
from pipelines.settings import Settings, load_settings


def test_secrets_are_made_once_and_for_the_owner_alone(settings: Settings) -> None:
    first = credentials(settings)

    assert credentials(settings) == first
    assert len(first.airflow_password) == 16
    assert json.loads(first.airflow_password_file.read_text()) == {"admin": first.airflow_password}
    folder = settings.home / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_two_homes_share_no_secret(tmp_path: Path) -> None:
    first, second = (credentials(load_settings({}, home=tmp_path / name)) for name in "ab")

    for field in ("airflow_password", "airflow_jwt_secret", "airflow_fernet_key", "mlflow_webhook_key"):
        assert getattr(first, field) != getattr(second, field)


def test_production_refuses_to_make_secrets_up(tmp_path: Path) -> None:
    settings = load_settings({"HEADRACE_ENVIRONMENT": "production"}, home=tmp_path)

    with pytest.raises(SettingsError, match=r"airflow_passwords\.json is missing"):
        credentials(settings)


def test_production_takes_the_secrets_that_are_there(tmp_path: Path) -> None:
    made = credentials(load_settings({}, home=tmp_path))

    assert credentials(load_settings({"HEADRACE_ENVIRONMENT": "production"}, home=tmp_path)) == made


def test_what_is_mounted_is_read_and_airflow_has_a_copy_that_it_can_write(tmp_path: Path) -> None:
    made = credentials(load_settings({}, home=tmp_path / "made"))
    mounted = tmp_path / "made" / "secrets"
    before = {path: path.stat().st_mtime_ns for path in mounted.iterdir()}
    settings = load_settings(
        {"HEADRACE_ENVIRONMENT": "production"}, home=tmp_path / "home", secrets_folder=mounted
    )
    found = credentials(settings)
    assert found.airflow_jwt_secret == made.airflow_jwt_secret
    assert found.airflow_password_file.is_relative_to(tmp_path / "home")
    assert found.airflow_password_file.stat().st_mode & 0o777 == 0o600
    assert json.loads(found.airflow_password_file.read_text()) == {"admin": made.airflow_password}
    assert {path: path.stat().st_mtime_ns for path in mounted.iterdir()} == before
