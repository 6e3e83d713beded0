"""The report in a real MLflow server: on the run, on the version, and back through the command."""

import pytest
from typer.testing import CliRunner

from headrace.cli import app
from pipelines.adapters import tracking
from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry
from pipelines.errors import EvaluationError
from pipelines.evaluate.checks import Verdict
from pipelines.evaluate.report import fetch, publish
from pipelines.lineage import record
from pipelines.lineage.record import Lineage
from tests.pipelines.evaluate.test_report import Page, a_figure
from tests.pipelines.evaluate.verdicts import CANDIDATE, a_training, all_kinds

pytestmark = pytest.mark.integration

FIGURES = {"candidate": {"average_precision": 0.4}, "share of positives": {"average_precision": 0.04}}


@pytest.fixture
def configured(settings, mlflow_server, monkeypatch):
    monkeypatch.setenv("HEADRACE_HOME", str(settings.home))
    monkeypatch.setenv("HEADRACE_TRACKING_URL", mlflow_server)
    return settings.model_copy(update={"tracking_url": mlflow_server})


@pytest.fixture
def candidate(configured, make_export, register_export, tmp_path):
    name = "reported"
    version = register_export(configured.tracking, name, make_export(tmp_path / "export"))
    with Registry(configured.tracking) as registry:
        run_id = registry.version(name, version).run_id
    return CANDIDATE.model_copy(update={"registered_name": name, "version": version, "run_id": run_id})


def test_it_stands_on_the_run_and_on_the_version_however_often(configured, candidate, tmp_path):
    import mlflow

    name, version = candidate.registered_name, candidate.version
    training = a_training().model_copy(update={"registered_name": name, "run_id": candidate.run_id})
    record.keep(Lake.of(configured), Lineage(version=version, training=training))
    verdict = Verdict(checks=all_kinds())
    with pytest.raises(EvaluationError, match="has not judged it"):
        fetch(name, version, configured, page=False)

    with Registry(configured.tracking) as registry:
        urls = {
            publish(
                candidate,
                "3",
                verdict,
                FIGURES,
                {"candidate": {"calibration": a_figure()}},
                registry,
                configured,
            )
            for _ in range(2)
        }
        found = registry.version(name, version)

    (url,) = urls
    assert found.tags["headrace.report"] == url
    assert found.tags["headrace.verdict"] == "fail"
    assert f"[The report, with plots]({url})" in found.description
    assert "| zone eu-west-1: average precision | **fail** |" in found.description
    client = tracking.client(configured)
    files = {file.path for file in client.list_artifacts(candidate.run_id, "gate")}
    assert {f"gate/report.{kind}" for kind in ("html", "md")} <= files
    assert "gate/verdict.json" in files
    assert client.get_run(candidate.run_id).data.metrics["holdout_average_precision"] == 0.4

    page = Page(mlflow.artifacts.load_text(f"runs:/{candidate.run_id}/gate/report.html"))
    assert f"{name} version {version} is refused" in page.text
    assert "train_failure, scheduled__2026-11-20T03:00:00+00:00" in page.text
    assert len(page.addresses) == 2

    shown = CliRunner().invoke(app, ["report", name, version], catch_exceptions=False)
    assert shown.stdout.strip() == url
    saved = tmp_path / "report.html"
    CliRunner().invoke(app, ["report", name, version, "--out", str(saved)], catch_exceptions=False)
    assert Page(saved.read_text()).text == page.text


def test_a_version_without_lineage_has_a_report_that_says_so(configured, candidate, caplog):
    with Registry(configured.tracking) as registry:
        publish(candidate, None, Verdict(checks=()), {"candidate": {}}, {}, registry, configured)

    text = fetch(candidate.registered_name, candidate.version, configured, page=True).page
    assert "Not recorded" in Page(text).text
    assert "without lineage" in caplog.text
