from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import preflight
from headrace.preflight import check_disk, check_ports
from headrace.processes import programs
from pipelines.errors import ProcessError
from pipelines.settings import load_settings


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def _environment(**ports: int) -> dict[str, str]:
    return {f"HEADRACE_{name}": str(number) for name, number in ports.items()}


def test_a_taken_port_is_named_with_its_owner_and_the_setting_that_changes_it(
    tmp_path: Path, taken: int, free_port: int
) -> None:
    settings = load_settings(
        _environment(MLFLOW_PORT=taken, AIRFLOW_PORT=free_port), home=tmp_path, serving_url="http://other"
    )

    with pytest.raises(ProcessError) as refusal:
        check_ports(programs(settings), settings.bind_host)

    text = str(refusal.value)
    assert text.startswith(f"port {taken} (MLflow) is taken by process ")
    assert f"(pid {os.getpid()})" in text
    assert "set HEADRACE_MLFLOW_PORT to a free one" in text
    assert str(free_port) not in text


def test_every_taken_port_is_named_at_once(tmp_path: Path, taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second:
        other = second.getsockname()[1]
        settings = load_settings(
            _environment(MLFLOW_PORT=taken, SERVING_PORT=other), home=tmp_path, airflow_url="http://x"
        )
        with pytest.raises(ProcessError, match=rf"(?s)port {taken} .*port {other} "):
            check_ports(programs(settings), settings.bind_host)


def test_one_port_for_two_programs_is_refused(tmp_path: Path, free_port: int) -> None:
    settings = load_settings(
        _environment(MLFLOW_PORT=free_port, SERVING_PORT=free_port), home=tmp_path, airflow_url="http://x"
    )

    with pytest.raises(ProcessError, match="HEADRACE_SERVING_PORT and HEADRACE_MLFLOW_PORT are both"):
        check_ports(programs(settings), settings.bind_host)


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    settings = load_settings({}, home=tmp_path, bind_host="192.0.2.1")

    with pytest.raises(ProcessError, match=r"cannot listen on 192\.0\.2\.1"):
        check_ports(programs(settings), settings.bind_host)


def test_too_little_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_disk(tmp_path)
    monkeypatch.setattr(preflight, "LEAST_FREE_BYTES", 2**60)

    with pytest.raises(
        ProcessError, match=r"GiB are free at .*set HEADRACE_HOME to a folder on another disk"
    ):
        check_disk(tmp_path)
