"""The suite's two profiles: everything in files, or PostgreSQL, Redis and S3. One setting chooses.

``HEADRACE_TEST_PROFILE=services`` gives the fixtures ``settings`` and ``start_mlflow`` the services, found by
``HEADRACE_TEST_POSTGRES_URL`` and ``HEADRACE_TEST_REDIS_URL``; S3 is a server (moto) of the test run's own. Tests
that are marked ``services`` run in both profiles in CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

POSTGRES_URL = os.environ.get("HEADRACE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("HEADRACE_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
BUCKET = "headrace"
_CLAIM = "headrace-test-claims-this-database"

# In a process of its own: deltalake holds Python's lock while it waits for an answer, so a server
# in one of this process's threads could never give it.
_SERVE_S3 = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def chosen() -> str:
    """``embedded`` or ``services``."""
    profile = os.environ.get("HEADRACE_TEST_PROFILE", "embedded")
    if profile not in {"embedded", "services"}:
        raise pytest.UsageError(f"HEADRACE_TEST_PROFILE={profile!r}: embedded or services")
    return profile


@contextmanager
def s3() -> Iterator[str]:
    """Address of an S3 server that speaks the real wire format."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE_S3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.communicate()  # the end of its input is its sign to stop
    assert process.wait(30) == 0


@dataclass
class Postgres:
    """Databases and schemas of this test run's own, dropped at its end."""

    url: str
    _databases: list[str] = field(default_factory=list)

    def _run(self, statement: str) -> None:
        import psycopg2

        connection = psycopg2.connect(self.url, connect_timeout=2)
        connection.autocommit = True  # a database is not made within a transaction
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def database(self, about: str) -> str:
        """URL of a new, empty database."""
        name = f"headrace_test_{about}_{uuid.uuid4().hex[:12]}"
        self._run(f'CREATE DATABASE "{name}"')
        self._databases.append(name)
        return f"{self.url.rsplit('/', 1)[0]}/{name}"

    def schema(self, database: str) -> str:
        """URL by which a database has a new, empty schema: cheaper than a database."""
        name = f"s_{uuid.uuid4().hex[:16]}"
        Postgres(database)._run(f'CREATE SCHEMA "{name}"')
        return f"{database}?options=-csearch_path%3D{name}"

    def close(self) -> None:
        while self._databases:
            self._run(f'DROP DATABASE IF EXISTS "{self._databases.pop()}" WITH (FORCE)')


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Skips the test where no PostgreSQL answers."""
    import psycopg2

    server = Postgres(POSTGRES_URL)
    try:
        server._run("SELECT 1")
    except psycopg2.OperationalError:
        pytest.skip("no PostgreSQL answers at HEADRACE_TEST_POSTGRES_URL")
    try:
        yield server
    finally:
        server.close()


@contextmanager
def redis_database() -> Iterator[str]:
    """URL of a numbered database that was empty and is nobody else's; emptied at the end."""
    import redis

    server = REDIS_URL.rsplit("/", 1)[0]
    for number in range(1, 16):
        client = redis.Redis.from_url(f"{server}/{number}", socket_connect_timeout=1)
        try:
            # The claim is the first key, or it is none: another run may look at the same moment.
            if client.set(_CLAIM, str(os.getpid()), nx=True, ex=7200) and client.dbsize() == 1:
                break
        except redis.RedisError:
            pytest.skip("no Redis answers at HEADRACE_TEST_REDIS_URL")
        if client.get(_CLAIM) == str(os.getpid()).encode():
            client.delete(_CLAIM)
    else:
        pytest.skip(f"{server} has no empty database")
    try:
        yield f"{server}/{number}"
    finally:
        client.flushdb()


@dataclass(frozen=True)
class Services:
    """What a test run has of services; :meth:`settings` makes settings of a place of its own in each of them."""

    s3_endpoint: str
    postgres: Postgres
    shared_database: str
    redis: str

    def settings(self) -> dict[str, Any]:
        place = uuid.uuid4().hex
        return {
            "lake_url": f"s3://{BUCKET}/{place}/lake",
            "mlflow_artifacts_url": f"s3://{BUCKET}/{place}/mlflow",
            "feature_registry_url": self.postgres.schema(self.shared_database),
            "tuning_url": self.postgres.schema(self.shared_database),
            "online_store_url": self.redis,
            **self.access(),
        }

    def access(self) -> dict[str, Any]:
        return {
            "s3_endpoint_url": self.s3_endpoint,
            "s3_access_key_id": "key",
            "s3_secret_access_key": "secret",
        }

    def mlflow(self) -> tuple[str, str, dict[str, str]]:
        """A new backend, a new place for artifacts, and the variables by which a server reaches it."""
        variables = {
            "MLFLOW_S3_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        backend = self.postgres.database("mlflow").replace("postgresql://", "postgresql+psycopg2://")
        return backend, f"s3://{BUCKET}/{uuid.uuid4().hex}", variables


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server (moto) that speaks the real wire format."""
    with s3() as url:
        yield url


@pytest.fixture(scope="session")
def services(s3_server: str) -> Iterator[Services]:
    """PostgreSQL, Redis and a bucket in S3; skips where one is missing."""
    from pipelines.adapters.object_store import ensure_bucket
    from pipelines.settings import load_settings

    with postgres() as database, redis_database() as redis:
        found = Services(s3_server, database, database.database("shared"), redis)
        ensure_bucket(load_settings({}, **found.access()), BUCKET)
        yield found


@pytest.fixture
def by_profile(request: pytest.FixtureRequest) -> Callable[[], dict[str, Any]]:
    """``by_profile()``: what settings say beside the home, in the profile that was chosen; each call another place."""
    if chosen() == "embedded":
        return dict
    found: Services = request.getfixturevalue("services")

    import redis

    # Keys carry the names of a source's tables, which are the same in each test.
    client = redis.Redis.from_url(found.redis)
    for key in client.scan_iter():
        if key != _CLAIM.encode():
            client.delete(key)
    return found.settings
