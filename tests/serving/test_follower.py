"""The server follows aliases of a real MLflow, and outlives whatever goes wrong with it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient

from pipelines.adapters.exports import load_export
from pipelines.adapters.registry import Registry
from pipelines.adapters.signing import Trust
from pipelines.settings import Settings
from serving.app import create_app
from serving.cache import VersionCache
from serving.follower import Follower, Pointer
from serving.versions import VersionTable

ROW = {"cpu": 95.0, "latency": 40.0, "cores": 16, "zone": "b"}
NOBODY = "http://127.0.0.1:9"

Exports = dict[str, Path]


def probability(export: Path) -> float:
    """What a version answers for ``ROW``, from its export itself."""
    sample = json.loads((export / "sample.json").read_text())
    answer: float = sample["predictions"][2]["probability"]
    return answer


class Mlflow(NamedTuple):
    url: str
    artifacts: Path
    registry: Registry


@pytest.fixture(scope="module")
def mlflow(start_mlflow: Callable[[], Any]) -> Iterator[Mlflow]:
    """A server of this module's own: its stored files are tampered with."""
    server = start_mlflow()
    with Registry(server.url) as registry:
        yield Mlflow(server.url, server.artifacts, registry)


@pytest.fixture
def model() -> str:
    return f"model-{uuid4().hex[:8]}"


@pytest.fixture
def versions(
    mlflow: Mlflow,
    model: str,
    make_export: Callable[..., Path],
    register_export: Callable[..., str],
    tmp_path: Path,
) -> Exports:
    """Versions 1 and 2 of a model, which answer differently; none has an alias yet."""
    exports = {}
    for number in ("1", "2"):
        export = make_export(tmp_path / number, slope=float(number))
        assert register_export(mlflow.url, model, export) == number
        exports[number] = export
    return exports


@pytest.fixture
def table() -> VersionTable:
    return VersionTable()


@pytest.fixture
def follower(mlflow: Mlflow, model: str, settings: Settings, table: VersionTable) -> Iterator[Follower]:
    """Looks only when it is told to, and waits no time worth mentioning before it tries again."""
    follower = Follower(mlflow.registry, cache_of(settings), table, poll_seconds=1e-9, names=[model])
    yield follower
    follower.stop()


def cache_of(settings: Settings) -> VersionCache:
    return VersionCache(settings.home / "serving", Trust.of(settings))


def look(follower: Follower) -> None:
    follower.look()
    follower.settle()


def serving(table: VersionTable, model: str, alias: str = "production") -> str | None:
    live = table.at(model, alias)
    return live.version if live else None


def stored_file(mlflow: Mlflow, model: str, version: str, name: str) -> Path:
    """A file of a version where MLflow keeps it."""
    registered = mlflow.registry.version(model, version)
    assert registered is not None
    found = list(mlflow.artifacts.rglob(f"{registered.source.removeprefix('models:/')}/**/{name}"))
    assert len(found) == 1
    return found[0]


@pytest.mark.integration
def test_the_version_that_the_alias_names_answers(
    mlflow: Mlflow, follower: Follower, table: VersionTable, model: str, versions: Exports
) -> None:
    look(follower)
    assert serving(table, model) is None
    assert "no alias production" in (follower.status().pointers[Pointer(model, "production")].failure or "")
    for number in ("1", "2", "1"):
        mlflow.registry.set_alias(model, "production", number)
        look(follower)
        assert serving(table, model) == number
        assert follower.status().pointers[Pointer(model, "production")].behind_seconds == 0


@pytest.mark.integration
def test_a_challenger_is_loaded_beside_and_taken_over_when_promoted(
    mlflow: Mlflow, follower: Follower, table: VersionTable, model: str, versions: Exports
) -> None:
    mlflow.registry.set_alias(model, "production", "1")
    mlflow.registry.set_alias(model, "challenger", "2")
    look(follower)
    assert (serving(table, model), serving(table, model, "challenger")) == ("1", "2")
    challenger = table.find(model, "2")
    mlflow.registry.set_alias(model, "production", "2")
    mlflow.registry.delete_alias(model, "challenger")
    look(follower)
    assert table.find(model) is challenger
    assert serving(table, model, "challenger") is None


@pytest.mark.integration
def test_a_removed_alias_withdraws_the_model_for_good(
    mlflow: Mlflow, follower: Follower, table: VersionTable, model: str, versions: Exports, settings: Settings
) -> None:
    mlflow.registry.set_alias(model, "production", "1")
    look(follower)
    mlflow.registry.delete_alias(model, "production")
    look(follower)
    assert serving(table, model) is None
    restarted = VersionTable()
    look(Follower(Registry(NOBODY), cache_of(settings), restarted, poll_seconds=1e-9))
    assert restarted.live() == {}


def tamper(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.integration
@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (tamper, "model.txt", "model.txt"),
        (truncate, "model.txt", "incomplete"),
        (tamper, "sample.json", "sample.json"),
        (tamper, "manifest.json", "changed after it was registered"),
        (lambda path: path.unlink(), "model.txt", "lacks"),
        (lambda path: (path.parent / "extra.bin").write_bytes(b"x"), "model.txt", "does not name"),
    ],
)
def test_a_damaged_version_is_refused_the_old_one_serves_on_and_a_repair_is_taken_up(
    mlflow: Mlflow,
    follower: Follower,
    table: VersionTable,
    model: str,
    versions: Exports,
    damage: Callable[[Path], Any],
    name: str,
    said: str,
) -> None:
    mlflow.registry.set_alias(model, "production", "1")
    look(follower)
    path = stored_file(mlflow, model, "2", name)
    shutil.copytree(path.parent, path.parent.with_name("sound"))
    shutil.move(path.parent.with_name("sound"), mlflow.artifacts.parent / f"sound-{model}")
    damage(path)
    mlflow.registry.set_alias(model, "production", "2")
    for attempt in (1, 2):
        look(follower)
        state = follower.status().pointers[Pointer(model, "production")]
        assert (state.wanted, state.serving, state.failures) == ("2", "1", attempt)
        assert said in (state.failure or "")
        assert state.behind_seconds > 0
    shutil.rmtree(path.parent)
    shutil.move(mlflow.artifacts.parent / f"sound-{model}", path.parent)
    look(follower)
    assert serving(table, model) == "2"
    assert follower.status().pointers[Pointer(model, "production")].failure is None


@pytest.mark.integration
def test_a_version_without_the_digest_or_with_another_one_is_not_served(
    mlflow: Mlflow,
    follower: Follower,
    table: VersionTable,
    model: str,
    versions: Exports,
    register_export: Callable[..., str],
) -> None:
    untagged = register_export(mlflow.url, model, versions["1"], tags={})
    mlflow.registry.set_alias(model, "production", untagged)
    look(follower)
    assert "no tag headrace.manifest_sha256" in (
        follower.status().pointers[Pointer(model, "production")].failure or ""
    )
    mlflow.registry.set_version_tag(model, untagged, "headrace.manifest_sha256", "0" * 64)
    look(follower)
    assert serving(table, model) is None
    assert "registered" in (follower.status().pointers[Pointer(model, "production")].failure or "")


@pytest.mark.integration
def test_a_damaged_cache_is_downloaded_afresh(
    mlflow: Mlflow, follower: Follower, table: VersionTable, model: str, versions: Exports, settings: Settings
) -> None:
    mlflow.registry.set_alias(model, "production", "1")
    look(follower)
    cached = settings.home / "serving" / model / "1"
    tamper(cached / "model.txt")
    restarted = VersionTable()
    again = Follower(mlflow.registry, cache_of(settings), restarted, poll_seconds=1e-9, names=[model])
    look(again)
    assert serving(restarted, model) == "1"
    load_export(cached)


@pytest.mark.integration
def test_a_broken_new_version_at_restart_leaves_the_one_that_served_last(
    mlflow: Mlflow, follower: Follower, table: VersionTable, model: str, versions: Exports, settings: Settings
) -> None:
    mlflow.registry.set_alias(model, "production", "1")
    look(follower)
    truncate(stored_file(mlflow, model, "2", "model.txt"))
    mlflow.registry.set_alias(model, "production", "2")
    restarted = VersionTable()
    again = Follower(mlflow.registry, cache_of(settings), restarted, poll_seconds=1e-9, names=[model])
    look(again)
    state = again.status().pointers[Pointer(model, "production")]
    assert (state.wanted, state.serving) == ("2", "1")
    assert "incomplete" in (state.failure or "")


@pytest.mark.integration
def test_going_back_needs_no_download(
    mlflow: Mlflow, follower: Follower, table: VersionTable, model: str, versions: Exports
) -> None:
    for number in ("1", "2"):
        mlflow.registry.set_alias(model, "production", number)
        look(follower)
    stored_file(mlflow, model, "1", "model.txt").unlink()
    mlflow.registry.set_alias(model, "production", "1")
    look(follower)
    assert serving(table, model) == "1"


@pytest.mark.integration
def test_an_alias_moved_in_mlflow_switches_without_a_failed_or_mixed_answer(
    mlflow: Mlflow,
    model: str,
    versions: Exports,
    settings: Settings,
    wait_until: Callable[..., None],
) -> None:
    """The alias is moved by MLflow's own client, as the MLflow UI moves it, while four clients ask."""
    from mlflow import MlflowClient

    people = MlflowClient(mlflow.url)
    people.set_registered_model_alias(model, "production", "1")
    expected = {number: probability(export) for number, export in versions.items()}
    answers: list[tuple[str, float]] = []
    failures: list[str] = []
    done = threading.Event()
    settings = settings.model_copy(update={"serving_models": model})

    with TestClient(create_app(settings, Registry(mlflow.url)), raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)

        def ask() -> None:
            while not done.is_set():
                answer = client.post(f"/models/{model}/predict", json={"records": [ROW] * 5})
                if answer.status_code != 200:
                    failures.append(answer.text)
                    continue
                content = answer.json()
                answers.extend((content["version"], row["probability"]) for row in content["predictions"])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in ("2", "1", "2"):
            people.set_registered_model_alias(model, "production", number)
            wait_until(
                lambda number=number: client.get(f"/v2/models/{model}/ready").json()["version"] == number
            )
            assert (
                client.post(f"/models/{model}/predict", json={"records": [ROW]}).json()["version"] == number
            )
        done.set()
        for thread in threads:
            thread.join()

    assert failures == []
    assert {version for version, _ in answers} == {"1", "2"}
    for version, answered in answers:
        assert answered == pytest.approx(expected[version], abs=1e-9)


@pytest.mark.integration
def test_without_mlflow_it_serves_on_and_starts_again_from_its_cache(
    start_mlflow: Callable[[], Any],
    make_export: Callable[..., Path],
    register_export: Callable[..., str],
    settings: Settings,
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    server = start_mlflow()
    export = make_export(tmp_path / "export")
    register_export(server.url, "tiny", export)
    with Registry(server.url) as registry:
        registry.set_alias("tiny", "production", "1")

    def answers(client: TestClient) -> bool:
        answer = client.post("/models/tiny/predict", json={"records": [ROW]})
        return bool(
            answer.status_code == 200
            and answer.json()["predictions"][0]["probability"] == pytest.approx(probability(export), abs=1e-9)
        )

    with TestClient(create_app(settings, Registry(server.url))) as client:
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        server.kill()
        wait_until(lambda: client.get("/v2/health/ready").json()["warnings"] != [])
        assert client.get("/v2/health/ready").json()["ready"] is True
        assert answers(client)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/health", trust_env=False)
    with TestClient(create_app(settings, Registry(server.url))) as client:
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert answers(client)


def test_a_cache_that_was_changed_while_the_registry_is_down_is_not_served(
    settings: Settings, fill_cache: Callable[..., Path]
) -> None:
    folder = fill_cache(settings, {"production": "1"})
    tamper(folder / "1" / "model.txt")
    table = VersionTable()
    follower = Follower(Registry(NOBODY), cache_of(settings), table, poll_seconds=1e-9)
    look(follower)
    assert table.live() == {}
    assert "changed" in (follower.status().pointers[Pointer("tiny", "production")].failure or "")


def test_a_note_that_names_a_folder_outside_the_cache_is_not_followed(
    settings: Settings, fill_cache: Callable[..., Path]
) -> None:
    fill_cache(settings, {"production": "1"})
    note = settings.home / "serving" / "state.json"
    note.write_text(note.read_text().replace('"version": "1"', '"version": "../../1"'))
    table = VersionTable()
    look(Follower(Registry(NOBODY), cache_of(settings), table, poll_seconds=1e-9))
    assert table.live() == {}


@pytest.mark.parametrize("content", ["", "{", '{"served": [{"name": "x"}]}', "[]"])
def test_a_broken_note_starts_an_empty_server(settings: Settings, content: str) -> None:
    (settings.home / "serving").mkdir(parents=True)
    (settings.home / "serving" / "state.json").write_text(content)
    table = VersionTable()
    follower = Follower(Registry(NOBODY), cache_of(settings), table, poll_seconds=1e-9)
    look(follower)
    assert table.live() == {}
    assert "no answer from MLflow" in (follower.status().registry_error or "")


def test_interrupted_downloads_are_removed_at_the_next_start(settings: Settings) -> None:
    folder = settings.home / "serving"
    gone, here = folder / ".incoming-999999999-a", folder / ".incoming-1-a"
    for path in (gone, here):
        path.mkdir(parents=True)
    cache_of(settings).remove_interrupted()
    assert (gone.exists(), here.exists()) == (False, True)
