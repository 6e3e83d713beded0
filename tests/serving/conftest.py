"""A server whose registry is down and whose cache holds verified versions; no stand-in is needed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.settings import Settings
from serving.app import create_app
from serving.cache import Served, VersionCache

NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture
def fill_cache(make_export: Callable[..., Path]) -> Callable[..., Path]:
    """``fill_cache(settings, {"production": "1"})`` writes exports as a server that ran before left them."""

    def fill(settings: Settings, aliases: dict[str, str], name: str = "tiny") -> Path:
        folder = settings.home / "serving"
        served = []
        for alias, version in aliases.items():
            export = make_export(folder / name / version, seed=0, slope=float(version))
            served.append(
                Served(name=name, alias=alias, version=version, manifest_sha256=manifest_sha256(export))
            )
        VersionCache(folder, Trust.of(settings)).note(served)
        return folder / name

    return fill


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what another thread does; fails the test where it never comes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    return wait_until


@pytest.fixture(scope="session")
def client(
    make_export: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, trusted_keys: str
) -> Iterator[TestClient]:
    """A server with version 2 of ``tiny`` in production and version 3 as challenger."""
    from pipelines.settings import load_settings

    settings = load_settings(
        {},
        home=tmp_path_factory.mktemp("home"),
        trusted_keys=trusted_keys,
        serving_max_rows=50,
        serving_max_body_bytes=20_000,
    )
    folder = settings.home / "serving"
    served = []
    for alias, version in (("production", "2"), ("challenger", "3")):
        export = make_export(folder / "tiny" / version, slope=float(version))
        served.append(
            Served(name="tiny", alias=alias, version=version, manifest_sha256=manifest_sha256(export))
        )
    VersionCache(folder, Trust.of(settings)).note(served)
    with TestClient(create_app(settings, Registry(NOBODY)), raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        yield client
    shutil.rmtree(settings.home)
