"""The notebook runs as it stands, against a champion, and leaves a candidate that the gate has judged."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pipelines.adapters.registry import Registry
from pipelines.chain import run_chain
from pipelines.references import Window
from pipelines.workbench import MADE_BY_TAG, SOURCE_ARTIFACT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "try_an_estimator.ipynb"
END = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_no_outputs_are_committed(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_the_notebook_registers_a_candidate_that_is_judged(notebook, settings, start_mlflow, monkeypatch):
    import mlflow

    url = start_mlflow().url
    configured = settings.model_copy(update={"tracking_url": url})
    run_chain("failure", None, Window(start=END - timedelta(days=42), end=END), configured, "test", trials=1)
    with Registry(url) as registry:
        registry.set_alias(
            "failure", "production", "1"
        )  # whatever its own gate says: there must be a champion
        for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
            monkeypatch.delenv(name)
        for name, value in {
            "HEADRACE_HOME": settings.home,
            "HEADRACE_TRACKING_URL": url,
            "HEADRACE_SIGNING_KEY": settings.signing_key,
            "HEADRACE_TRUSTED_KEYS": settings.trusted_keys,
        }.items():
            monkeypatch.setenv(name, str(value))

        done = NotebookClient(notebook, timeout=600, kernel_name="python3").execute()

        candidate = registry.version("failure", "2")
        assert candidate.tags["headrace.verdict"] in {"pass", "fail", "insufficient evidence"}
        assert registry.alias_version("failure", "production").version == "1"
        run = mlflow.MlflowClient(url).get_run(candidate.run_id)
        assert run.data.tags[MADE_BY_TAG] == "notebook"
        source = mlflow.artifacts.load_text(f"runs:/{candidate.run_id}/{SOURCE_ARTIFACT}")
        assert "class LinearBuilder" in source
    told = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", []))
    assert "gain in average precision" in told
    assert "version 2: " in told
