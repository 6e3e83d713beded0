"""The compose file: valid, hardened, and each container has the settings and secrets that its program asks for."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from headrace.environment import environment_of
from headrace.processes import program
from headrace.secrets_cli import make
from pipelines.settings import PREFIX, load_settings

pytestmark = pytest.mark.integration  # tools of seconds

INFRA = Path(__file__).parents[2] / "infra"
COMPOSE = INFRA / "compose" / "compose.yaml"
ONE_SHOT = {"volumes", "buckets", "airflow-init", "mlflow-init", "backup"}
# Nothing of these listens; supervision by the engine is all there is.
WITHOUT_CHECK = {"spool-shipper", "rollout-watcher"}


def _tool(name):
    found = shutil.which(name) or shutil.which(str(Path(sys.executable).with_name(name)))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def services():
    """As Docker's own reader understands the file, anchors and defaults worked in."""
    command = [
        _tool("docker-compose"),
        "--file",
        str(COMPOSE),
        "--profile",
        "*",
        "config",
        "--format",
        "json",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secrets")
    make(folder, "postgres:5432", "redis:6379")
    return folder


def test_nothing_runs_as_root_but_what_gives_the_volumes_away(services):
    roots = {name for name, service in services.items() if not service.get("user", "0").startswith("10001")}
    assert roots == {"volumes"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("read_only"), name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert set(service.get("cap_add", [])) <= {"CHOWN"}, name


def test_each_has_limits_a_check_and_an_image_of_one_version(services):
    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert limits["cpus"], name
        assert limits["memory"], name
        tag = service["image"].rpartition(":")[2]
        assert any(sign.isdigit() for sign in tag), f"{name}: {service['image']}"
        if name not in ONE_SHOT | WITHOUT_CHECK:
            assert service["healthcheck"]["test"], name


def test_pages_are_published_on_loopback_alone(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_no_secret_stands_in_the_file(services, made):
    text = COMPOSE.read_text()
    for path in made.glob("[!.]*"):
        content = path.read_text().strip()
        assert path.name.endswith("access_key_id") or content not in text, path.name
    declared = set(yaml.safe_load(text)["secrets"])
    assert declared == {path.name for path in made.glob("[!.]*")}, "`headrace secrets` makes what is mounted"


def _programs(service):
    words = [*(service.get("entrypoint") or []), *(service.get("command") or [])]
    return [after for word, after in pairwise(words) if word == "run"] or [
        part.split()[2] for word in words for part in word.split(" && ") if part.startswith("headrace run ")
    ]


def test_each_program_starts_with_the_settings_and_secrets_of_its_container(services, made, tmp_path):
    seen = set()
    for name, service in services.items():
        for wanted in _programs(service):
            seen.add(wanted)
            mounted = tmp_path / name
            mounted.mkdir(exist_ok=True)
            for secret in service.get("secrets", []):
                shutil.copy(
                    made / secret["source"], mounted / Path(secret.get("target", secret["source"])).name
                )
            given = {key: value for key, value in service["environment"].items() if key.startswith(PREFIX)}
            assert given.pop(f"{PREFIX}SECRETS_FOLDER") == "/run/secrets"
            settings = load_settings(given, home=tmp_path / "home", secrets_folder=mounted)
            assert settings.environment == "production"
            variables = environment_of(settings, wanted)
            assert program(settings, wanted).command
            if wanted.startswith("airflow"):
                assert variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql+psycopg2://")
                assert variables["AIRFLOW__CELERY__BROKER_URL"].startswith("redis://:")
    assert {"airflow-api", "airflow-scheduler", "airflow-dag-processor", "airflow-worker", "mlflow"} <= seen
    assert {"serving", "spool-shipper", "exporter", "rollout-watcher", "buckets", "airflow-pool"} <= seen


def test_who_answers_callers_has_no_key_to_the_lake_and_none_that_signs(services):
    mounted = {secret.get("target", secret["source"]) for secret in services["serving"]["secrets"]}
    assert not [
        name for name in mounted if "s3" in name or name.endswith("signing_key.pem") or "airflow" in name
    ]


def test_prometheus_scrapes_what_there_is(services):
    config = yaml.safe_load((INFRA / "compose/prometheus/prometheus.yml").read_text())
    targets = [
        target
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    assert {target.partition(":")[0] for target in targets} - {"localhost"} <= set(services)


def test_dockerfile_has_no_findings():
    done = subprocess.run(
        [_tool("hadolint"), str(INFRA / "images" / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert not done.stdout


def test_the_image_is_given_what_it_copies():
    """What .dockerignore lets through is what the Dockerfile copies: a forgotten folder would fail the build alone."""
    root = INFRA.parent
    let_through = {
        line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = set()
    for line in (INFRA / "images" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == let_through
    assert all((root / name).exists() for name in copied)
