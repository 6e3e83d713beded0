"""`headrace doctor`: what it finds, and that it says what to do."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from headrace import doctor
from headrace.display import findings_table
from headrace.doctor import Finding, State
from pipelines.settings import load_settings


@pytest.fixture(autouse=True)
def _no_extras_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed packages are this environment's; one test looks at them."""
    monkeypatch.setattr(doctor, "_LOOKS", tuple(look for look in doctor._LOOKS if look[0] != "versions"))


def _by_subject(found: list[Finding]) -> dict[str, Finding]:
    return {each.subject: each for each in found}


def _environment(tmp_path: Path, **more: str) -> dict[str, str]:
    ports = []
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ports.append(listener.getsockname()[1])
    names = ("AIRFLOW", "MLFLOW", "SERVING", "SERVING_GRPC", "EVIDENTLY")
    return {
        "HEADRACE_HOME": str(tmp_path / "home"),
        **{f"HEADRACE_{name}_PORT": str(port) for name, port in zip(names, ports, strict=True)},
        **more,
    }


def test_a_new_home_has_nothing_to_mend_and_stays_untouched(tmp_path: Path) -> None:
    found = doctor.examine(load_settings(_environment(tmp_path)))
    assert not [each for each in found if each.state is State.FAIL]
    assert {each.area for each in found} >= {"machine", "clock", "ports", "credentials"}
    assert not (tmp_path / "home").exists()


def test_all_that_is_not_fine_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = _environment(tmp_path) | {"HEADRACE_MLFLOW_PORT": str(port)}
        logs = tmp_path / "home" / "logs"
        logs.mkdir(parents=True)
        (logs / "serving.log").write_text("")
        tomorrow = time.time() + 86_400
        os.utime(logs / "serving.log", (tomorrow, tomorrow))
        secrets = tmp_path / "home" / "secrets"
        secrets.mkdir()
        (secrets / "airflow_jwt_secret").write_text("x")
        (secrets / "airflow_jwt_secret").chmod(0o644)
        found = doctor.examine(load_settings(environment))
    worse = [each for each in found if each.state is not State.FINE]
    assert all(each.mend for each in worse)
    by_subject = _by_subject(found)
    assert by_subject["taken"].state is State.FAIL
    assert str(port) in by_subject["taken"].found
    assert "HEADRACE_MLFLOW_PORT" in by_subject["taken"].mend
    assert by_subject["this machine"].state is State.FAIL
    assert "went back" in by_subject["this machine"].found
    assert by_subject["secrets"].state is State.WARN
    assert "airflow_jwt_secret" in by_subject["secrets"].found


def test_what_runs_elsewhere_and_does_not_answer_is_named_and_its_password_is_not(
    tmp_path: Path, free_port: int
) -> None:
    dead = f"http://127.0.0.1:{free_port}"
    environment = _environment(
        tmp_path,
        HEADRACE_TRACKING_URL=dead,
        HEADRACE_ONLINE_STORE_URL=f"redis://:hunter2@127.0.0.1:{free_port}/0",
    )
    found = doctor.examine(load_settings(environment))
    by_subject = _by_subject(found)
    for subject in ("MLflow", "the online store"):
        assert by_subject[subject].state is State.FAIL
        assert str(free_port) in by_subject[subject].found
    assert "hunter2" not in str(found)


def test_production_without_secrets_is_refused_before_it_starts(tmp_path: Path) -> None:
    found = doctor.examine(load_settings(_environment(tmp_path, HEADRACE_ENVIRONMENT="production")))
    assert _by_subject(found)["secrets"].state is State.FAIL


def test_a_package_of_another_version_is_named_with_the_one_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        doctor,
        "requires",
        lambda name: [
            "numpy>=99",
            "rich>=1",
            'lightgbm>=1; extra == "serving"',
            'no-such-thing; extra == "pipeline"',
        ],
    )
    found = _by_subject(list(doctor._versions(load_settings(_environment(tmp_path)))))
    assert found["base"].state is State.FAIL
    assert "numpy" in found["base"].found
    assert ">=99" in found["base"].found
    assert found["serving"].state is State.FINE
    assert found["pipeline"].found == "is not installed here"


def test_the_table_tells_each_remedy_below_its_finding() -> None:
    from io import StringIO

    from rich.console import Console

    page = StringIO()
    finding = Finding("machine", "disk", State.FAIL, "1.0 GiB free", "free some space")
    Console(file=page, width=100).print(findings_table([finding]))
    assert page.getvalue().index("1.0 GiB free") < page.getvalue().index("→ free some space")
