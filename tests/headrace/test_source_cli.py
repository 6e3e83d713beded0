"""`headrace source`: a draft is written once, and what cannot be read ends with 1 and the reason."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from headrace.cli import app
from pipelines.errors import SourceError


@pytest.fixture
def headrace(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, words)


@pytest.fixture
def export(tmp_path):
    start = datetime(2026, 1, 5, tzinfo=UTC)
    rows = {
        "host": [f"web-{place % 2}" for place in range(40)],
        "at": [start + timedelta(minutes=5 * (place // 2)) for place in range(40)],
        "load": [float(place % 5) for place in range(40)],
    }
    pl.DataFrame(rows).write_csv(tmp_path / "export.csv")


def test_a_draft_names_its_file_from_its_own_folder_and_overwrites_nothing(headrace, export, tmp_path):
    (tmp_path / "profiles").mkdir()
    assert headrace("source", "draft", "export.csv", "--out", "profiles/mine.yaml").exit_code == 0
    written = (tmp_path / "profiles" / "mine.yaml").read_text()
    assert "url: ../export.csv" in written
    again = headrace("source", "draft", "export.csv", "--out", "profiles/mine.yaml")
    assert again.exit_code == 2
    assert (tmp_path / "profiles" / "mine.yaml").read_text() == written
    assert headrace("source", "draft", "export.csv").stdout.startswith("# Drafted from export.csv")
    assert headrace("source", "draft", "export.csv", "--out", "mine.txt").exit_code == 2


def test_what_cannot_be_read_ends_with_1_and_says_why(headrace, export, tmp_path):
    headrace("source", "draft", "export.csv", "--out", "mine.yaml")
    (tmp_path / "export.csv").unlink()
    told = headrace("source", "check", "mine.yaml", "--json")
    assert told.exit_code == 1
    assert "no file" in json.loads(told.stdout)["samples"][0]["error"]
    assert isinstance(headrace("source", "check", "other.yaml").exception, SourceError)
