"""A backup is restored by restoring it: into an empty home, from which a model answers."""

import json
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime

import httpx
import polars as pl
import psycopg2
import pytest
from fastapi.testclient import TestClient

from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.backup import databases, job
from pipelines.errors import BackupError
from pipelines.settings import load_settings
from tests.services import BUCKET, postgres

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def fill(settings, rows=3):
    """A home with a table, a database and a secret."""
    Lake.of(settings).append("raw/x/y", pl.DataFrame({"value": list(range(rows))}), work=[f"{rows} rows"])
    path = settings.home / "features" / "registry.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS t (n integer)")
        database.execute("INSERT INTO t VALUES (7)")
    secrets = settings.home / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "airflow_fernet_key").write_text("secret")
    (secrets / "signing_key.pub").write_text("public")
    (settings.home / "settings.env").write_text("HEADRACE_LOG_LEVEL=WARNING\n")


@pytest.fixture
def filled(tmp_path):
    settings = load_settings({}, home=tmp_path / "home")
    fill(settings)
    return settings


@pytest.mark.integration
def test_an_empty_home_becomes_what_the_other_was(filled, tmp_path):
    saved = job.save(tmp_path / "kept", filled, NOW, with_secrets=True)
    fill(filled, rows=5)  # what comes later is not in it
    empty = load_settings({}, home=tmp_path / "new")
    restored = job.restore(tmp_path / "kept", empty)
    assert restored == saved
    assert Lake.of(empty).scan("raw/x/y").collect().height == 3
    with sqlite3.connect(empty.home / "features" / "registry.db") as database:
        assert database.execute("SELECT n FROM t").fetchall() == [(7,)]
    assert (empty.home / "secrets" / "airflow_fernet_key").read_text() == "secret"
    assert (empty.home / "secrets").stat().st_mode & 0o777 == 0o700
    assert load_settings({"HEADRACE_HOME": str(empty.home)}).log_level == "WARNING"


@pytest.mark.integration
def test_a_database_that_is_named_is_saved_wherever_its_program_runs(tmp_path):
    for name in ("mlflow", "airflow"):
        with sqlite3.connect(tmp_path / f"{name}.db") as database:
            database.execute("CREATE TABLE t (n integer)")
    elsewhere = {"tracking_url": "http://mlflow:5000", "airflow_url": "http://airflow:8080"}
    saved = job.save(tmp_path / "neither", load_settings({}, home=tmp_path / "home", **elsewhere), NOW)
    assert not saved.files
    named = {f"{name}_database_url": f"sqlite:///{tmp_path}/{name}.db" for name in ("mlflow", "airflow")}
    saved = job.save(tmp_path / "both", load_settings({}, home=tmp_path / "home", **elsewhere, **named), NOW)
    assert set(saved.files) == {"mlflow.db", "airflow.db"}


@pytest.mark.integration
def test_secrets_stay_where_they_are_unless_they_are_asked_for(filled, tmp_path):
    saved = job.save(tmp_path / "kept", filled, NOW)
    assert not saved.secrets
    assert [name for name in saved.files if "secrets" in name] == ["home/secrets/signing_key.pub"]


@pytest.mark.integration
def test_what_is_not_whole_or_not_empty_is_refused(filled, tmp_path):
    kept = tmp_path / "kept"
    job.save(kept, filled, NOW)
    with pytest.raises(BackupError, match="is there already"):
        job.save(kept, filled, NOW)
    with pytest.raises(BackupError, match="is not empty"):
        job.restore(kept, filled)
    with pytest.raises(BackupError, match=r"refers|set what was set"):
        job.restore(kept, load_settings({}, home=tmp_path / "s3", lake_url="s3://bucket/lake"))
    changed = next(path for path in kept.rglob("*.parquet"))
    changed.write_bytes(b"other")
    with pytest.raises(BackupError, match="was changed"):
        job.restore(kept, load_settings({}, home=tmp_path / "new"))
    assert not (tmp_path / "new" / "lake").exists()
    with pytest.raises(BackupError, match="is no backup"):
        job.restore(tmp_path, filled)


@pytest.mark.integration
def test_a_backup_that_was_killed_leaves_none_and_is_made_again(filled, tmp_path):
    (tmp_path / ".kept.part").mkdir()
    (tmp_path / ".kept.part" / "half").write_text("x")
    job.save(tmp_path / "kept", filled, NOW)
    assert not (tmp_path / "kept" / "half").exists()


@pytest.mark.integration
def test_a_lake_in_s3_goes_by_reference_and_is_looked_at(tmp_path, s3_server):
    from pipelines.adapters.object_store import ensure_bucket

    access = {"s3_endpoint_url": s3_server, "s3_access_key_id": "key", "s3_secret_access_key": "secret"}
    there = {"lake_url": f"s3://{BUCKET}/backup/lake", "mlflow_artifacts_url": f"s3://{BUCKET}/m", **access}
    settings = load_settings({}, home=tmp_path / "home", **there)
    ensure_bucket(settings, BUCKET)
    fill(settings)
    saved = job.save(tmp_path / "kept", settings, NOW)
    assert saved.tables == {"raw/x/y": 1}
    assert not (tmp_path / "kept" / "lake").exists()
    job.restore(tmp_path / "kept", load_settings({}, home=tmp_path / "new", **there))
    gone = json.loads((tmp_path / "kept" / job.MANIFEST).read_text())
    gone["tables"]["raw/x/gone"] = 4
    (tmp_path / "kept" / job.MANIFEST).write_text(json.dumps(gone))
    with pytest.raises(BackupError, match=r"raw/x/gone version 4"):
        job.restore(tmp_path / "kept", load_settings({}, home=tmp_path / "newer", **there))


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("pg_dump") is None, reason="pg_dump is not installed")
def test_postgresql_is_dumped_and_loaded_into_an_empty_database(tmp_path):
    with postgres() as server:
        one, other = server.database("one"), server.database("other")
        connection = psycopg2.connect(one)
        connection.cursor().execute("CREATE TABLE t AS SELECT 7 AS n")
        connection.commit()
        connection.close()
        saved = databases.dump(one.replace("postgresql://", "postgresql+psycopg2://"), tmp_path, "x")
        databases.load(other, saved)
        connection = psycopg2.connect(other)
        cursor = connection.cursor()
        cursor.execute("SELECT n FROM t")
        assert cursor.fetchall() == [(7,)]
        connection.close()
        with pytest.raises(BackupError, match="1 tables already"):
            databases.load(other, saved)
        with pytest.raises(BackupError, match="another kind"):
            databases.load(f"sqlite:///{tmp_path}/x.db", saved)


@pytest.mark.integration
def test_a_restored_home_serves(tmp_path, make_export, register_export, free_port, signing_key, trusted_keys):
    """MLflow's own database and artifacts in the home, a version in production: backup, loss, restore, answer."""
    from pipelines.adapters.registry import ALIAS_PRODUCTION
    from serving.app import create_app

    lost = load_settings({}, home=tmp_path / "lost", mlflow_port=free_port, trusted_keys=trusted_keys)
    Lake.of(lost).append("raw/x/y", pl.DataFrame({"value": [1]}), work=["w"])
    with mlflow_of(lost):
        version = register_export(lost.tracking, "tiny", make_export(tmp_path / "export"))
        with Registry(lost.tracking) as registry:
            registry.set_alias("tiny", ALIAS_PRODUCTION, version)
        job.save(tmp_path / "kept", lost, NOW)  # while it runs
    shutil.rmtree(lost.home)

    new = load_settings({}, home=tmp_path / "new", mlflow_port=free_port, trusted_keys=trusted_keys)
    job.restore(tmp_path / "kept", new)
    with mlflow_of(new), TestClient(create_app(new, Registry(new.tracking))) as client:
        for _ in range(300):
            answer = client.post("/models/tiny/predict", json={"records": [{"cpu": 1, "cores": 1}]})
            if answer.status_code == 200:
                break
        assert answer.json()["version"] == version


class mlflow_of:  # noqa: N801 - reads as a statement
    """The MLflow server of a home, as `headrace run mlflow` starts it."""

    def __init__(self, settings):
        self.settings = settings

    def __enter__(self):
        import os
        import time

        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "run", "mlflow"],
            env=os.environ
            | {
                "HEADRACE_HOME": str(self.settings.home),
                "HEADRACE_MLFLOW_PORT": str(self.settings.mlflow_port),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            try:
                if httpx.get(f"{self.settings.tracking}/health", trust_env=False).is_success:
                    return self
            except httpx.TransportError:
                time.sleep(0.2)
        pytest.fail("MLflow did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
