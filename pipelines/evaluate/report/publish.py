"""Where the report goes: the run, the version's description and tags, and the log of whoever asked."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipelines.errors import EvaluationError, LineageError
from pipelines.evaluate.report.evidence import CANDIDATE, Evidence, Link
from pipelines.evaluate.report.intervals import intervals
from pipelines.evaluate.report.markdown import markdown
from pipelines.evaluate.report.page import html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipelines.adapters.registry import Registry
    from pipelines.evaluate.checks import Verdict
    from pipelines.lineage.record import Training
    from pipelines.references import CandidateRef
    from pipelines.settings import Settings

HTML, MARKDOWN, VERDICT = "gate/report.html", "gate/report.md", "gate/verdict.json"
#: Tags of a version.
REPORT_TAG, VERDICT_TAG = "headrace.report", "headrace.verdict"

log = logging.getLogger(__name__)


def publish(
    candidate: CandidateRef,
    champion: str | None,
    verdict: Verdict,
    figures: dict[str, dict[str, float]],
    plots: dict[str, dict[str, Figure]],
    registry: Registry,
    settings: Settings,
) -> str:
    """Put the evidence on the run, and verdict and report on the version.

    Evidence first, the verdict last: a version never has a verdict without its reasons. Done
    again, it all says the same.

    Args:
        figures: Metrics by model, then by name.
        plots: The task's figures by model, then by name.

    Returns:
        Address of the report.
    """
    import mlflow

    from pipelines.adapters import tracking

    name, version = candidate.registered_name, candidate.version
    with tracking.resumed(settings, candidate.run_id):
        experiment = mlflow.get_run(candidate.run_id).info.experiment_id
        run_page = f"{settings.tracking}/#/experiments/{experiment}/runs/{candidate.run_id}"
        url = f"{run_page}/artifacts/{HTML}"
        evidence = Evidence(
            candidate=candidate,
            champion=champion,
            verdict=verdict,
            figures=figures,
            judged_at=datetime.now(UTC),
            question=_question(candidate.model),
            plots=plots,
            training=(training := _training(candidate, settings)),
            links=_links(candidate, champion, run_page, training, registry, settings),
        )
        mlflow.log_metrics({f"holdout_{metric}": value for metric, value in figures[CANDIDATE].items()})
        mlflow.log_dict(verdict.model_dump(mode="json") | {"figures": figures}, VERDICT)
        for plot, figure in plots.get(CANDIDATE, {}).items():
            mlflow.log_figure(figure, f"gate/holdout_{plot}.png")
        if (seen := intervals(verdict.checks)) is not None:
            mlflow.log_figure(seen, "gate/intervals.png")
        # The page turns the figures' colours for dark surroundings, so it comes after them.
        mlflow.log_text(html(evidence), HTML)
        short = markdown(_with_report(evidence, url))
        mlflow.log_text(short, MARKDOWN)
        mlflow.set_tag("mlflow.note.content", short)
    registry.set_version_description(name, version, short)
    registry.set_version_tag(name, version, REPORT_TAG, url)
    registry.set_version_tag(name, version, VERDICT_TAG, verdict.outcome.value)
    log.info("%s The report: %s", evidence.sentence(), url)
    return url


def _with_report(evidence: Evidence, url: str) -> Evidence:
    return replace(evidence, links=(Link("The report, with plots", url), *evidence.links))


def _question(model: str) -> str:
    from models.catalogue import CATALOGUE

    return CATALOGUE[model].question if model in CATALOGUE else ""


def _training(candidate: CandidateRef, settings: Settings) -> Training | None:
    """Where the candidate came from; the report says so where that is not known."""
    from pipelines.adapters.lake import Lake
    from pipelines.lineage import record

    try:
        return record.find(Lake.of(settings), candidate.registered_name, candidate.version).training
    except LineageError as error:
        log.warning("the report goes without lineage: %s", error)
        return None


def _links(
    candidate: CandidateRef,
    champion: str | None,
    run_page: str,
    training: Training | None,
    registry: Registry,
    settings: Settings,
) -> tuple[Link, ...]:
    from pipelines.lineage.record import dag_run

    name = candidate.registered_name
    links = [
        Link(f"Version {candidate.version} in MLflow", registry.version_page(name, candidate.version)),
        Link("Its training run", run_page),
    ]
    if champion is not None:
        links.append(Link(f"Champion, version {champion}", registry.version_page(name, champion)))
    if (ran := dag_run() or (training.dag_run if training else None)) is not None:
        path = f"dags/{quote(ran.dag_id, safe='')}/runs/{quote(ran.run_id, safe='')}"
        links.append(Link("DAG run in Airflow", f"{settings.airflow}/{path}"))
    return tuple(links)


@dataclass(frozen=True)
class Published:
    """A report that stands in MLflow.

    Attributes:
        page: The HTML; empty where it was not asked for.
    """

    version: str
    url: str
    page: str


def fetch(name: str, version: str, settings: Settings, *, page: bool) -> Published:
    """The report on a version.

    Raises:
        EvaluationError: there is no such version, or it was never judged.
    """
    from pipelines.adapters.registry import Registry

    with Registry(settings.tracking) as registry:
        found = registry.version(name, version)
    if found is None:
        raise EvaluationError(f"{name} has no version {version}")
    url = found.tags.get(REPORT_TAG)
    if url is None or found.run_id is None:
        raise EvaluationError(
            f"version {version} of {name} has no tag {REPORT_TAG}: the gate has not judged it"
        )
    text = ""
    if page:
        import mlflow

        from pipelines.adapters import tracking

        tracking.client(settings)
        text = str(mlflow.artifacts.load_text(f"runs:/{found.run_id}/{HTML}"))
    return Published(version, url, text)
