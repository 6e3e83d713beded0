"""Lineage records for tests."""

from datetime import UTC, datetime

from pipelines.lineage.code import Code, Environment
from pipelines.lineage.record import Lineage, Training
from pipelines.references import SnapshotRef, Window


def a_code(**changes):
    given = {
        "version": "0.1.0",
        "commit": "7" * 40,
        "dirty": False,
        "source_sha256": "e" * 64,
        "locks": {"requirements.lock": "8" * 64},
    }
    return Code(**(given | changes))


def an_environment(**changes):
    given = {
        "python": "3.11.7",
        "system": "Linux 6.1",
        "machine": "x86_64",
        "cpus": 2,
        "threads": {},
        "packages": {"numpy": "2.4.6", "lightgbm": "4.7.0"},
    }
    return Environment(**(given | changes))


def a_record(version="1", registered_name="failure", source="simulated", window=None, **changes):
    window = window or Window.parse("2026-01-01", "2026-02-01")
    given = {
        "model": "failure",
        "registered_name": registered_name,
        "trained_at": datetime(2026, 2, 1, int(version) % 24, tzinfo=UTC),
        "run_id": f"run{version}",
        "snapshot": SnapshotRef(
            model="failure", source=source, sha256="6" * 64, url="/x/data.parquet", rows={}, positives={}
        ),
        "window": window,
        "grid": None,
        "tables": {},
        "features": {"cpu_mean": "windows", "cpu_max": "windows", "load": ""},
        "study": "study",
        "params": {"leaves": 31, "rate": 0.1, "fast": True, "kind": "gbdt"},
        "seed": 1,
        "code": a_code(),
        "environment": an_environment(),
        "dag_run": None,
    }
    return Lineage(version=version, training=Training(**(given | changes)))
