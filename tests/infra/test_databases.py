"""The script that makes the databases, on a real PostgreSQL."""

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from headrace.secrets_cli import make
from tests.services import postgres

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parents[2] / "infra/compose/postgres/databases.sh"
PARTS = ("airflow", "mlflow", "features", "tuning")


@pytest.fixture
def server(tmp_path):
    """A PostgreSQL without roles of these names, which it does not have afterwards either."""
    with postgres() as found:
        address = urlsplit(found.url)
        connection = psycopg2.connect(found.url)
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'headrace\\_%'")
        if cursor.fetchone() != (0,):
            pytest.skip("this PostgreSQL has roles of Headrace's already")
        folder = tmp_path / "secrets"
        make(folder, f"{address.hostname}:{address.port or 5432}", "redis:6379")
        environment = {
            "PATH": os.environ["PATH"],
            "PGHOST": address.hostname,
            "PGPORT": str(address.port or 5432),
            "PGUSER": address.username,
            "SECRETS": str(folder),
        }
        try:
            yield folder, environment, cursor
        finally:
            for part in PARTS:
                cursor.execute(f"DROP DATABASE IF EXISTS headrace_{part} WITH (FORCE)")
                cursor.execute(f"DROP ROLE IF EXISTS headrace_{part}")
            connection.close()


def test_each_part_reaches_its_own_database_and_no_other(server):
    folder, environment, cursor = server
    for _ in range(2):  # again: changes nothing
        subprocess.run(["bash", str(SCRIPT)], env=environment, check=True, capture_output=True)
    urls = {
        part: (folder / name).read_text().strip()
        for part, name in {
            "airflow": "headrace_airflow_database_url",
            "mlflow": "headrace_mlflow_database_url",
            "features": "headrace_feature_registry_url",
            "tuning": "headrace_tuning_url",
        }.items()
    }
    for url in urls.values():
        connection = psycopg2.connect(url)
        connection.cursor().execute("CREATE TABLE mine (number integer)")
        connection.close()
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        psycopg2.connect(f"{urls['airflow'].rpartition('/')[0]}/headrace_mlflow")
    cursor.execute(
        "SELECT count(*) FROM pg_authid WHERE rolname LIKE 'headrace\\_%' AND rolpassword IS NOT NULL"
    )
    assert cursor.fetchone() == (len(PARTS),)
