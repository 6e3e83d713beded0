"""The API's description is true: whatever it allows is answered as it says, and nothing with a server error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.adapters.exports import manifest_sha256
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.settings import load_settings
from serving.app import create_app
from serving.cache import Served, VersionCache
from tests.serving.conftest import wait_until
from tests.serving.running import running

pytestmark = pytest.mark.integration  # some hundred requests for each operation


@pytest.fixture(scope="module")
def api(
    make_export: Callable[..., Path], trusted_keys: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    import schemathesis

    settings = load_settings({}, home=tmp_path_factory.mktemp("home"), trusted_keys=trusted_keys)
    folder = settings.home / "serving"
    export = make_export(folder / "tiny" / "2")
    served = Served(name="tiny", alias="production", version="2", manifest_sha256=manifest_sha256(export))
    VersionCache(folder, Trust.of(settings)).note([served])
    with running(create_app(settings, Registry("http://127.0.0.1:9")), settings) as url:
        wait_until(lambda: httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200)
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_does_what_the_description_says(api: Any) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    tried = []
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(), known=st.booleans())
        def holds(case: Any, known: bool) -> None:
            if known and "name" in (case.path_parameters or {}):  # the others end at the name
                version = {"version": "2"} if "version" in case.path_parameters else {}
                case.path_parameters = {"name": "tiny"} | version
            response = case.call(timeout=60)
            asks_store = isinstance(case.body, dict) and "entities" in case.body
            if response.status_code == 503 and (asks_store or case.path.endswith("ready")):
                return  # no store was ever filled here; and of readiness 503 is the news, not an error
            case.validate_response(response, checks=checks)

        holds()
        tried.append(operation.label)
    assert len(tried) == sum(len(operations) for operations in api.raw_schema["paths"].values())


def test_the_page_of_the_api_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for part in ("swagger-ui-bundle.js", "swagger-ui.css"):
        (path,) = [text for text in page.split('"') if text.endswith(part)]
        assert client.get(path).status_code == 200


def test_every_door_is_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for prefix in ("", "/versions/{version}"):
        for door in (
            f"/v2/models/{{name}}{prefix}/infer",
            f"/models/{{name}}{prefix}/predict",
            f"/models/{{name}}{prefix}/invocations",
        ):
            assert door in paths
    assert {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/repository/index", "/metrics"} <= set(paths)
    assert "422" not in paths["/v2/models/{name}"]["get"]["responses"]
