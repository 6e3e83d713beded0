from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.settings_page import to_json
from pipelines.settings import Settings, load_settings

HEAVY = (
    "airflow",
    "httpx",
    "lightgbm",
    "mlflow",
    "numpy",
    "pandas",
    "polars",
    "psutil",
    "pydantic",
    "supervisor",
)


@pytest.fixture
def environment(tmp_path: Path, free_port: int) -> dict[str, str]:
    """A home of its own, and ports on which nobody listens."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("HEADRACE_")}
    dead = f"http://127.0.0.1:{free_port}"
    urls = {f"HEADRACE_{name}_URL": dead for name in ("TRACKING", "AIRFLOW", "SERVING")}
    return kept | urls | {"HEADRACE_HOME": str(tmp_path / "home"), "COLUMNS": "200"}


def headrace(*arguments: str, env: dict[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments],
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_the_commands_and_imports_nothing_heavy(environment: dict[str, str]) -> None:
    code = (
        "import sys\nfrom headrace.cli import app\ntry:\n    app(['--help'])\nfinally:\n"
        f"    print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    assert "heavy: []" in done.stdout
    for command in (
        "up",
        "down",
        "status",
        "settings",
        "train",
        "promote",
        "rollback",
        "predict",
        "history",
        "simulate",
        "demo",
        "serve",
    ):
        assert f" {command} " in done.stdout
    assert "Exit codes" in done.stdout


@pytest.mark.integration
def test_status_for_scripts_has_one_shape_even_when_nothing_runs(environment: dict[str, str]) -> None:
    done = headrace("status", "--json", env=environment)

    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert set(found["services"]) == {"airflow", "mlflow", "serving", "serving_grpc", "evidently"}
    assert found["services"]["mlflow"] == {"url": environment["HEADRACE_TRACKING_URL"], "state": "down"}
    assert found["services"]["evidently"] == {"url": None, "state": "absent"}
    assert found["models"]["failure"] == {
        "production": None,
        "previous": None,
        "challenger": None,
        "serving": None,
    }


@pytest.mark.integration
def test_the_shell_completes_commands(environment: dict[str, str]) -> None:
    asked = {"_HEADRACE_COMPLETE": "complete_bash", "COMP_WORDS": "headrace doc", "COMP_CWORD": "1"}
    command = Path(sys.executable).with_name("headrace")
    done = subprocess.run(
        [str(command)], env=environment | asked, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["doctor"]


@pytest.mark.integration
def test_doctor_ends_with_1_where_something_must_be_mended(environment: dict[str, str]) -> None:
    done = headrace("doctor", "--json", env=environment)  # nothing answers at the addresses
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert not found["fine"]
    failed = [each for each in found["findings"] if each["state"] == "fail"]
    assert {each["subject"] for each in failed} == {"MLflow", "Airflow", "the server"}
    assert all(each["mend"] for each in failed)


def test_an_error_is_one_message_without_a_traceback(environment: dict[str, str]) -> None:
    done = headrace("predict", "failure", "--entity", "m1", env=environment)

    assert done.returncode == 3
    assert done.stderr.startswith("headrace: no answer from the server at ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.integration
def test_debug_shows_the_traceback(environment: dict[str, str]) -> None:
    done = headrace(
        "predict", "failure", "--entity", "m1", env={**environment, "HEADRACE_LOG_LEVEL": "DEBUG"}
    )

    assert "Traceback" in done.stderr


@pytest.mark.integration
def test_an_unreachable_registry_is_exit_code_3(environment: dict[str, str]) -> None:
    assert headrace("rollback", "failure", "--reason", "test", env=environment).returncode == 3


def test_a_wrong_setting_is_named(environment: dict[str, str]) -> None:
    done = headrace("status", env={**environment, "HEADRACE_MLFLOW_PROT": "1"})

    assert done.returncode == 1
    assert "HEADRACE_MLFLOW_PROT (did you mean HEADRACE_MLFLOW_PORT?)" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("train", "nonsense"),
        ("train", "failure", "--trials", "0"),
        ("predict", "failure"),
        ("predict", "failure", "--entity", "m1", "--json-file", "-"),
        ("predict", "failure", "--json-file", "not-there.json"),
        ("promote", "failure", "1"),
        ("simulate", "rows", "telemetry", "--start", "2026-01-01", "--end", "2026-01-02", "--out", "x.xlsx"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: tuple[str, ...], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(sys, "argv", ["headrace", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


@pytest.mark.integration
def test_down_with_nothing_running_is_fine(environment: dict[str, str]) -> None:
    assert headrace("down", env=environment).returncode == 0


def test_settings_are_all_listed_and_secrets_are_masked(tmp_path: Path) -> None:
    settings = load_settings(
        {"HEADRACE_S3_ACCESS_KEY_ID": "key", "HEADRACE_S3_SECRET_ACCESS_KEY": "hidden"},
        home=tmp_path,
        airflow_database_url="postgresql://user:hidden@host:5432/db",
    )
    listed = {item["name"]: item for item in to_json(settings)}

    assert set(listed) == {f"HEADRACE_{name.upper()}" for name in Settings.model_fields}
    assert "hidden" not in json.dumps(list(listed.values()))
    assert listed["HEADRACE_AIRFLOW_DATABASE_URL"]["value"] == "postgresql+psycopg2://user:***@host:5432/db"
    assert listed["HEADRACE_LAKE_URL"]["value"] == str(tmp_path / "lake"), (
        "the value that holds, not the empty one"
    )


@pytest.mark.integration
def test_a_regime_is_added_to_a_script(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.yaml"
    added = headrace(
        "simulate",
        "regime",
        str(script),
        "load_scale",
        "--from",
        "2026-02-01",
        "--factor",
        "1.5",
        env=environment,
    )
    refused = headrace(
        "simulate", "regime", str(script), "load_scale", "--from", "2026-02-01", env=environment
    )

    assert added.returncode == 0
    assert refused.returncode == 1
    assert "factor: Field required" in refused.stderr
    assert script.read_text().count("load_scale") == 1
