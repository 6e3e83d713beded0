"""One server for all doors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.settings import load_settings
from serving.app import create_app
from serving.cache import Served, VersionCache
from tests.serving.conftest import wait_until
from tests.serving.doors.asking import CLIENT_SECONDS, MAX_BODY_BYTES, MAX_ROWS, Serving
from tests.serving.running import running
from tests.serving.small_models import SMALL_MODELS, write_small_model


@pytest.fixture(scope="session")
def serving(
    make_export: Callable[..., Path],
    signing_key: Path,
    trusted_keys: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serving]:
    """A server of ``tiny`` (LightGBM) and of one small model for each kind of head, as uvicorn runs it."""
    settings = load_settings(
        {},
        home=tmp_path_factory.mktemp("home"),
        trusted_keys=trusted_keys,
        serving_max_rows=MAX_ROWS,
        serving_max_body_bytes=MAX_BODY_BYTES,
        serving_max_held_bytes=2 * MAX_BODY_BYTES,
        serving_client_seconds=CLIENT_SECONDS,
    )
    folder = settings.home / "serving"
    make_export(folder / "tiny" / "1")
    for name in SMALL_MODELS:
        write_small_model(name, folder / name / "1", signing_key)
    VersionCache(folder, Trust.of(settings)).note(
        Served(
            name=name, alias="production", version="1", manifest_sha256=manifest_sha256(folder / name / "1")
        )
        for name in ("tiny", *SMALL_MODELS)
    )
    app = create_app(settings, Registry("http://127.0.0.1:9"))
    with running(app, settings) as url, httpx.Client(trust_env=False, timeout=30) as http:
        wait_until(lambda: http.get(f"{url}/v2/health/ready").status_code == 200)
        yield Serving(url, app, http)
