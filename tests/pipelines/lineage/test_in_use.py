"""What an alias names survives a deletion in MLflow and ``mlflow gc``; what none names does not."""

import os
import subprocess
import sys

import pytest

from pipelines.adapters import tracking
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.lineage import in_use, record
from tests.pipelines.lineage.records import a_record

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(start_mlflow):
    return start_mlflow()


@pytest.fixture
def configured(settings, server):
    return settings.model_copy(update={"tracking_url": server.url})


def collect_garbage(server):
    """What an operator runs, or a cron job."""
    command = [
        *(sys.executable, "-m", "mlflow", "gc", "--tracking-uri", server.url),
        *("--backend-store-uri", f"sqlite:///{server.artifacts.parent}/mlflow.db"),
        *("--artifacts-destination", str(server.artifacts)),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ})


def test_runs_in_use_are_brought_back_before_they_are_collected(
    configured, server, make_export, register_export, tmp_path
):
    name = "guarded"
    exports = [make_export(tmp_path / f"export{seed}", seed=seed) for seed in range(2)]
    tags = [{"headrace.verdict": verdict} for verdict in ("pass", "fail")]
    old, refused = (
        register_export(server.url, name, export, tags=tag) for export, tag in zip(exports, tags, strict=True)
    )
    with Registry(server.url) as registry:
        registry.set_alias(name, "production", old)
        runs = {version: registry.version(name, version).run_id for version in (old, refused)}
        tables = {"clean/simulated/events": 3}
        record.keep(Lake.of(configured), a_record(old, name, tables=tables))

        found = in_use.in_use(configured)
        assert [(each.version, each.why) for each in found.versions] == [(old, ("production",))]
        assert found.runs == {runs[old]}
        assert found.snapshots == {"/x/data.parquet"}
        assert found.tables == {"clean/simulated/events": frozenset({3})}
        assert in_use.protect(configured) == ()

        client = tracking.client(configured)
        for run in runs.values():
            client.delete_run(run)
        (told,) = in_use.protect(configured)
        assert (told.version, told.what, told.restored) == (old, f"run {runs[old]}", True)
        assert in_use.protect(configured) == ()

        collect_garbage(server)
        assert registry.run(runs[old]) is not None
        assert registry.run(runs[refused]) is None
        registry.download(registry.version(name, old), tmp_path / "again")
        assert list((tmp_path / "again").rglob("manifest.json"))


def test_a_deleted_experiment_comes_back_with_its_run(
    configured, server, make_export, register_export, tmp_path
):
    name = "moved-away"
    version = register_export(server.url, name, make_export(tmp_path / "export"))
    with Registry(server.url) as registry:
        registry.set_alias(name, "previous", version)
    client = tracking.client(configured)
    experiment = client.get_experiment_by_name(name).experiment_id
    client.delete_experiment(experiment)

    told = [each for each in in_use.protect(configured) if each.registered_name == name]

    assert all(each.restored for each in told)
    assert any("experiment" in each.what for each in told)
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    (run,) = (each.run_id for each in in_use.in_use(configured).versions if each.registered_name == name)
    assert client.get_run(run).info.lifecycle_stage == "active"


def test_what_mlflow_cannot_bring_back_is_said(configured, server, make_export, register_export, tmp_path):
    name = "lost"
    version = register_export(server.url, name, make_export(tmp_path / "export"))
    with Registry(server.url) as registry:
        registry.set_alias(name, "challenger", version)
        source = registry.version(name, version).source
    tracking.client(configured).delete_logged_model(source.removeprefix("models:/"))

    (told,) = [each for each in in_use.protect(configured) if each.registered_name == name]

    assert not told.restored
    assert "cannot restore" in told.what


def test_versions_that_wait_are_in_use_and_refused_or_left_ones_are_not(
    configured, server, make_export, register_export, tmp_path
):
    name = "waiting"
    export = make_export(tmp_path / "export")
    unjudged = None
    numbers = {
        verdict: register_export(server.url, name, export, tags={} if verdict is None else {"headrace.verdict": verdict})
        for verdict in ("older", "champion", "fail", "pass", "insufficient evidence", unjudged)
    }  # fmt: skip
    with Registry(server.url) as registry:
        registry.set_alias(name, "production", numbers["champion"])

    found = {
        each.version: each.why for each in in_use.in_use(configured).versions if each.registered_name == name
    }

    assert found == {
        numbers["champion"]: ("production",),
        numbers["pass"]: ("passed, not promoted",),
        numbers[unjudged]: ("not judged yet",),
    }
