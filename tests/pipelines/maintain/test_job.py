"""Housekeeping on a real lake and a real MLflow: what a registered version needs can still be read afterwards."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from pipelines.adapters import tracking
from pipelines.adapters.lake import Lake
from pipelines.adapters.object_store import ensure_bucket
from pipelines.adapters.registry import Registry, RegistryUnreachableError
from pipelines.errors import LakeError, MaintenanceError
from pipelines.lineage import record
from pipelines.maintain import job
from pipelines.maintain.tables import care
from pipelines.maintain.tracked import collect_garbage
from pipelines.references import SnapshotRef
from pipelines.settings import load_settings
from tests.pipelines.lineage.records import a_record

pytestmark = pytest.mark.integration

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TABLE = "features/simulated/windows"


def fill(lake, table=TABLE, days=4, commits=3):
    """Rows of some days, in several commits, each day replaced once; returns rows by version."""
    held = {}
    for commit in range(commits):
        rows = pl.DataFrame(
            {
                "unit": ["a", "b"] * days,
                "value": [float(commit)] * 2 * days,
                "day": [(NOW - timedelta(days=day // 2)).date() for day in range(2 * days)],
            }
        )
        if commit % 2:
            ref = lake.replace(
                table,
                rows.filter(pl.col("day") == NOW.date()),
                where=f"day = '{NOW.date()}'",
                partition_by="day",
            )
        else:
            ref = lake.append(table, rows, work=[f"{commit}"], partition_by="day")
        held[ref.version] = rows_of(lake, table, ref.version)
    return held


def rows_of(lake, table, version=None):
    return lake.scan(table, version).collect().sort("unit", "day", "value")


def files_of(lake, table=TABLE):
    return {path for path in Path(lake.address(table)).rglob("*.parquet") if "_delta_log" not in path.parts}


def test_compaction_and_vacuum_keep_the_rows_and_each_version_in_use(settings):
    lake = Lake.of(settings)
    held = fill(lake, commits=5)
    kept = sorted(held)[1]
    newest = rows_of(lake, TABLE)
    orphan = Path(lake.address(TABLE)) / f"day={NOW.date()}" / "part-of-a-killed-writer.parquet"
    orphan.write_bytes(b"never committed")
    before = files_of(lake)
    told = list(care(lake, NOW, {}, timedelta(0), {TABLE: frozenset({kept})}, dry_run=True))
    assert files_of(lake) == before
    assert {deed.action for deed in told} == {"join files", "remove files"}

    done = list(care(lake, NOW, {}, timedelta(0), {TABLE: frozenset({kept})}, dry_run=False))
    assert not [deed for deed in done if deed.failed]
    assert not orphan.exists()
    assert len(files_of(lake)) < len(before)
    assert rows_of(lake, TABLE).equals(newest)
    assert rows_of(lake, TABLE, kept).equals(held[kept])
    others = [version for version in held if version not in {kept, max(held)}]
    lost = 0
    for version in others:
        try:
            lost += not rows_of(lake, TABLE, version).equals(held[version])
        except (LakeError, OSError, pl.exceptions.PolarsError):
            lost += 1
    assert lost, "vacuum removed nothing that only old versions needed"
    # And the work that was done is still known: nothing is appended twice.
    assert lake.done(TABLE, ["0", "2"]) == {"0", "2"}
    again = lake.append(TABLE, newest.head(1), work=["0"])
    assert again.rows_added == 0
    assert list(care(lake, NOW, {}, timedelta(0), {TABLE: frozenset({kept})}, dry_run=False)) == []


def test_young_files_stay(settings):
    lake = Lake.of(settings)
    held = fill(lake)
    list(care(lake, NOW, {}, timedelta(days=7), {}, dry_run=False))
    for version, rows in held.items():
        assert rows_of(lake, TABLE, version).equals(rows)


def test_retention_takes_whole_days_and_records_are_left_alone(settings):
    lake = Lake.of(settings)
    fill(lake)
    lake.append("ledger/moves", pl.DataFrame({"day": [NOW.date() - timedelta(days=900)]}), work=["1"])
    lake.append("ledger/moves", pl.DataFrame({"day": [NOW.date() - timedelta(days=900)]}), work=["2"])
    done = list(care(lake, NOW, {"features": 1}, timedelta(days=7), {}, dry_run=False))
    assert next((deed.name, deed.action) for deed in done) == (TABLE, "delete rows")
    assert rows_of(lake, TABLE)["day"].min() == NOW.date() - timedelta(days=1)
    assert lake.version("ledger/moves") == 2


def test_a_version_in_use_that_cannot_be_read_stops_the_vacuum_of_its_table(settings):
    lake = Lake.of(settings)
    fill(lake)
    before = files_of(lake)
    *_, failed = care(lake, NOW, {}, timedelta(0), {TABLE: frozenset({99})}, dry_run=False)
    assert failed.failed
    assert "has no version 99" in failed.note
    assert before <= files_of(lake)


def test_logs_are_kept_for_tables_made_before_this_rule(settings):
    lake = Lake.of(settings)
    DeltaTable.create(lake.address(TABLE), pl.DataFrame({"day": [NOW.date()]}).to_arrow().schema)
    assert lake.open(TABLE).metadata().configuration == {}
    list(care(lake, NOW, {}, timedelta(days=7), {}, dry_run=False))
    assert lake.open(TABLE).metadata().configuration == {"delta.enableExpiredLogCleanup": "false"}
    lake.create("clean/simulated/new", pl.DataFrame({"day": [NOW.date()]}))
    assert "delta.enableExpiredLogCleanup" in lake.open("clean/simulated/new").metadata().configuration


def test_a_lake_in_s3_is_kept_likewise(s3_server, tmp_path):
    configured = load_settings(
        {},
        home=tmp_path,
        lake_url="s3://kept/lake",
        s3_endpoint_url=s3_server,
        s3_access_key_id="test",
        s3_secret_access_key="test-secret",
    )
    ensure_bucket(configured, "kept")
    lake = Lake.of(configured)
    fill(lake)
    lake.write_object("snapshots/s/m/abc/data.parquet", b"rows")
    assert lake.tables() == [TABLE]
    [held] = lake.objects("snapshots")
    assert (held.path, held.size) == ("snapshots/s/m/abc/data.parquet", 4)
    newest = rows_of(lake, TABLE)
    done = list(care(lake, NOW, {}, timedelta(0), {}, dry_run=False))
    assert not [deed for deed in done if deed.failed]
    assert rows_of(lake, TABLE).equals(newest)
    lake.delete_object("snapshots/s/m/abc/data.parquet")
    assert lake.objects("snapshots") == []


@pytest.fixture(scope="module")
def server(start_mlflow):
    return start_mlflow()


@pytest.fixture
def configured(settings, server):
    return settings.model_copy(update={"tracking_url": server.url})


def registered(configured, server, make_export, register_export, tmp_path, name):
    """A version with its run, a trial below it, a snapshot and a version of a table."""
    version = register_export(
        server.url, name, make_export(tmp_path / f"export-{name}"), tags={"headrace.verdict": "fail"}
    )
    with Registry(server.url) as registry:
        run_id = registry.version(name, version).run_id
    client = tracking.client(configured)
    client.set_tag(run_id, tracking.RUN_KEY, name)
    experiment = client.get_run(run_id).info.experiment_id
    trial = client.create_run(experiment, tags={"mlflow.parentRunId": run_id}).info.run_id
    lake = Lake.of(configured)
    sha256 = name.encode().hex().ljust(64, "0")
    url = lake.write_object(f"snapshots/simulated/failure/{sha256}/data.parquet", b"rows")
    snapshot = SnapshotRef(model="failure", source="simulated", sha256=sha256, url=url, rows={}, positives={})
    record.keep(lake, a_record(version, name, run_id=run_id, snapshot=snapshot))
    return run_id, trial, url


def test_what_no_registered_version_refers_to_goes_and_all_else_stays(
    configured, server, make_export, register_export, tmp_path
):
    run_id, trial, url = registered(configured, server, make_export, register_export, tmp_path, "kept")
    client = tracking.client(configured)
    experiment = client.get_run(run_id).info.experiment_id
    orphan = client.create_run(experiment, tags={tracking.RUN_KEY: "orphan"}).info.run_id
    foreign = client.create_run(client.create_experiment("somebody's")).info.run_id
    lake = Lake.of(configured)
    lost = lake.write_object("snapshots/simulated/failure/0000/data.parquet", b"rows")
    log = configured.home / "logs" / "tasks" / "dag" / "old.log"
    log.parent.mkdir(parents=True)
    log.write_text("said")
    month = time.time() - 40 * 86_400
    for path in (log, lost, url):
        os.utime(path, (month, month))
    later = datetime.now(UTC) + timedelta(days=31)

    told = job.run(configured, later, dry_run=True)
    assert {(deed.part, deed.action) for deed in told.deeds} == {
        ("snapshots", "delete"),
        ("runs", "delete"),
        ("logs", "delete"),
    }
    assert client.get_run(orphan).info.lifecycle_stage == "active"
    assert log.exists()

    job.run(configured, later)
    assert client.get_run(orphan).info.lifecycle_stage == "deleted"
    for each in (run_id, trial, foreign):
        assert client.get_run(each).info.lifecycle_stage == "active"
    assert Path(url).exists()
    assert not Path(lost).exists()
    assert not log.parent.exists()
    assert configured.home.joinpath("logs", "tasks").exists()
    own = configured.model_copy(
        update={
            "mlflow_database_url": f"sqlite:///{server.artifacts.parent}/mlflow.db",
            "mlflow_artifacts_url": str(server.artifacts),
        }
    )
    assert collect_garbage(own).count == 0, "it was deleted a moment ago, and may be restored"
    assert collect_garbage(own, "0s").count == 1
    with Registry(server.url) as registry:
        assert registry.run(orphan) is None
        assert registry.run(run_id) is not None
    young = lake.write_object("snapshots/simulated/failure/1111/data.parquet", b"rows")
    job.run(configured, datetime.now(UTC))
    assert Path(young).exists()


def test_a_version_without_lineage_stops_everything(
    configured, server, make_export, register_export, tmp_path
):
    name = "without-lineage"
    version = register_export(
        server.url, name, make_export(tmp_path / "export"), tags={"headrace.manifest_sha256": "0"}
    )
    lost = Lake.of(configured).write_object("snapshots/simulated/failure/2222/data.parquet", b"rows")
    os.utime(lost, (0, 0))
    with pytest.raises(MaintenanceError, match=rf"{name} {version}.*Nothing was touched"):
        job.run(configured, datetime.now(UTC) + timedelta(days=400))
    assert Path(lost).exists()
    tracking.client(configured).delete_model_version(name, version)


def test_without_a_registry_nothing_is_touched(settings, free_port):
    alone = settings.model_copy(update={"tracking_url": f"http://127.0.0.1:{free_port}"})
    lost = Lake.of(alone).write_object("snapshots/simulated/failure/3333/data.parquet", b"rows")
    os.utime(lost, (0, 0))
    with pytest.raises(RegistryUnreachableError):
        job.run(alone, datetime.now(UTC))
    assert Path(lost).exists()
