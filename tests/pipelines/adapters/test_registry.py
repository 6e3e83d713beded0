"""The REST client against a real MLflow server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from models.manifest import MANIFEST_TAG
from pipelines.adapters.exports import find_export, load_export, manifest_sha256
from pipelines.adapters.registry import ModelVersion, Registry, RegistryRefusedError, RegistryUnreachableError
from pipelines.errors import RegistryError


def test_no_answer_says_the_address_and_the_remedy(free_port: int) -> None:
    with (
        Registry(f"http://127.0.0.1:{free_port}") as registry,
        pytest.raises(RegistryUnreachableError, match=rf"127\.0\.0\.1:{free_port}.*headrace up"),
    ):
        registry.registered_models()


class Hostile(BaseHTTPRequestHandler):
    """A server that answers with what a sound MLflow never would."""

    answers: ClassVar[dict[str, tuple[int, str]]] = {
        "/api/2.0/mlflow/registered-models/search": (200, "<html>a login page</html>"),
        "/api/2.0/mlflow/runs/get": (502, "bad gateway"),
        "/api/2.0/mlflow/registered-models/get": (403, "Invalid Host header"),
        "/api/2.0/mlflow/model-versions/get-download-uri": (
            200,
            '{"artifact_uri": "mlflow-artifacts:/1/models/m"}',
        ),
        "/api/2.0/mlflow-artifacts/artifacts": (
            200,
            '{"files": [{"path": "../../escaped", "is_dir": false}]}',
        ),
    }

    def do_GET(self) -> None:
        status, body = self.answers[self.path.partition("?")[0]]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hostile() -> Iterator[Registry]:
    server = HTTPServer(("127.0.0.1", 0), Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Registry(f"http://127.0.0.1:{server.server_port}") as registry:
        yield registry
    server.shutdown()
    server.server_close()


def test_what_is_not_mlflow_is_said_to_be_so(hostile: Registry) -> None:
    with pytest.raises(RegistryRefusedError, match="is this MLflow"):
        hostile.registered_models()
    with pytest.raises(RegistryRefusedError, match=r"502 .*MLflow's own log"):
        hostile.run("x")
    with pytest.raises(RegistryRefusedError, match="--allowed-hosts"):
        hostile.registered_model("x")


def test_a_listed_path_cannot_lead_out_of_the_folder(hostile: Registry, tmp_path: Path) -> None:
    version = ModelVersion(
        name="x",
        version="1",
        source="",
        run_id=None,
        status="READY",
        description="",
        tags={},
        aliases=(),
        created_at="2026-01-01T00:00:00Z",
    )
    with pytest.raises(RegistryError, match="not a plain file name"):
        hostile.download(version, tmp_path / "download")
    assert not (tmp_path.parent / "escaped").exists()


@pytest.fixture
def registry(mlflow_server: str) -> Iterator[Registry]:
    with Registry(mlflow_server) as registry:
        yield registry


@pytest.fixture(scope="module")
def registered(
    mlflow_server: str,
    make_export: Callable[..., Path],
    register_export: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Two versions of the model ``registry-test``; returns the export of both."""
    export = make_export(tmp_path_factory.mktemp("registered") / "export")
    for number in ("1", "2"):
        assert register_export(mlflow_server, "registry-test", export) == number
    return export


@pytest.mark.integration
def test_what_is_not_there_is_none(registry: Registry, registered: Path) -> None:
    assert registry.registered_model("none") is None
    assert registry.version("none", "1") is None
    assert registry.version("registry-test", "99") is None
    assert registry.alias_version("none", "production") is None
    assert registry.alias_version("registry-test", "never-set") is None
    assert registry.run("none") is None
    assert registry.experiment_id("none") is None
    assert registry.search_runs("none") == ()
    assert registry.versions("none") == ()


@pytest.mark.integration
def test_aliases_are_set_moved_read_and_removed(registry: Registry, registered: Path) -> None:
    for number in ("1", "2", "2"):
        registry.set_alias("registry-test", "moving", number)
        version = registry.alias_version("registry-test", "moving")
        assert version is not None
        assert (version.version, version.aliases) == (number, ("moving",))
        model = next(model for model in registry.registered_models() if model.name == "registry-test")
        assert model.aliases["moving"] == number
        assert registry.registered_model("registry-test") == model
    for _ in range(2):
        registry.delete_alias("registry-test", "moving")
        assert registry.alias_version("registry-test", "moving") is None


@pytest.mark.integration
def test_an_alias_for_a_version_that_is_not_there_is_refused(registry: Registry, registered: Path) -> None:
    with pytest.raises(RegistryRefusedError, match=r"version=77.*not found") as refused:
        registry.set_alias("registry-test", "production", "77")
    assert (refused.value.status, refused.value.code) == (404, "RESOURCE_DOES_NOT_EXIST")


@pytest.mark.integration
def test_versions_are_found_by_tag_and_run_and_carry_their_tags(registry: Registry, registered: Path) -> None:
    newest, oldest = registry.versions("registry-test")
    assert (newest.version, oldest.version) == ("2", "1")
    assert oldest.tags[MANIFEST_TAG] == manifest_sha256(registered)
    registry.set_version_tag("registry-test", "1", "headrace.note", "it's so")
    registry.set_version_description("registry-test", "1", "**why**")
    found = registry.versions("registry-test", tags={"headrace.note": "it's so"}, run_id=oldest.run_id)
    assert [(version.version, version.description) for version in found] == [("1", "**why**")]
    assert registry.versions("registry-test", tags={"headrace.note": "other"}) == ()


@pytest.mark.integration
def test_a_registered_model_is_made_once(registry: Registry) -> None:
    assert registry.ensure_registered_model("made-once", "what it is for", {"a": "b"}) is True
    assert registry.ensure_registered_model("made-once") is False
    made = registry.registered_model("made-once")
    assert made is not None
    assert (made.description, made.tags, made.aliases) == ("what it is for", {"a": "b"}, {})
    with pytest.raises(RegistryRefusedError, match="Invalid model name"):
        registry.ensure_registered_model("a/b")


@pytest.mark.integration
def test_a_version_is_downloaded_whole_and_verifies(
    registry: Registry, registered: Path, tmp_path: Path
) -> None:
    version = registry.version("registry-test", "2")
    assert version is not None
    registry.download(version, tmp_path)
    export = find_export(tmp_path)
    assert export.parent.name == "data"
    load_export(export, version.tags[MANIFEST_TAG])
    assert (tmp_path / "MLmodel").is_file()


@pytest.mark.integration
def test_runs_are_read_with_tags_and_status(registry: Registry, registered: Path) -> None:
    runs = registry.search_runs("registry-test")
    assert len(runs) == 2
    assert runs[0].started_at >= runs[1].started_at
    assert registry.run(runs[0].run_id) == runs[0]
    assert runs[0].status == "FINISHED"
    assert registry.search_runs("registry-test", "tags.nothing = 'x'") == ()
    assert registry.run_page(runs[0]).endswith(
        f"/#/experiments/{runs[0].experiment_id}/runs/{runs[0].run_id}"
    )


@pytest.mark.integration
def test_mlflow_itself_loads_the_version_without_any_pickle(
    mlflow_server: str, registry: Registry, registered: Path, tmp_path: Path
) -> None:
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(mlflow_server)
    registry.set_alias("registry-test", "loaded", "1")
    model = mlflow.pyfunc.load_model("models:/registry-test@loaded")
    sample = json.loads((registered / "sample.json").read_text())
    frame = pd.DataFrame(sample["rows"]).astype({"cores": "int64"})
    frame.index = pd.Index([7, 8, 9])
    predictions = model.predict(frame)
    assert list(predictions.index) == [7, 8, 9]
    expected = [prediction["probability"] for prediction in sample["predictions"]]
    assert predictions["probability"].tolist() == pytest.approx(expected, abs=1e-9)
    bare = model.predict(pd.DataFrame({"cpu": [5.0], "cores": [4]}))
    assert list(bare.columns) == ["probability", "alarm"]
    version = registry.version("registry-test", "1")
    assert version is not None
    registry.download(version, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".pkl", ".pickle", ".cloudpickle"}]
