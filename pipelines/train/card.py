"""What MLflow's pages say of a model and of a run that is not judged yet, as Markdown."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.specs import ModelSpec
    from pipelines.adapters.registry import Registry
    from pipelines.references import SnapshotRef, StudyRef

#: Artifact of the run: the model card as it was when the version was trained.
CARD = "model_card.md"
#: Tag of a registered model: digest of the description that was written here.
_OURS = "headrace.described"
_LONGEST = 5000  # characters that MLflow's registry takes
_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://)[^)]*\)")

_BY_HAND = (
    "**Promote or roll back here**: open a version, press the pencil beside *Aliases*, add or remove `production`, save. "
    "Every server answers with the version that `production` names within two seconds; the version before is kept as "
    "`previous`, and the ledger notes the move (`headrace history {name}`). `challenger` with the tag `headrace.traffic` "
    "(`shadow`, or a percentage) gives a version some of the requests first."
)


def card(spec: ModelSpec) -> str | None:
    """The model card; None: this model's folder has none.

    Links into the source tree, which lead nowhere from MLflow's pages, become plain text.
    """
    path = files("models").joinpath(spec.name, "README.md")
    return _one_line_each(_RELATIVE_LINK.sub(r"\1", path.read_text("utf-8"))) if path.is_file() else None


def _one_line_each(text: str) -> str:
    """Paragraphs without the line breaks of their source, which MLflow's pages would show."""
    lines: list[str] = []
    fenced = joins = False
    for line in text.splitlines():
        fence = line.startswith("```")
        plain = (
            bool(line) and not fenced and not fence and not line.startswith(("|", "#", "-", "*", ">", "    "))
        )
        if plain and joins:
            lines[-1] = f"{lines[-1]} {line.strip()}"
        else:
            lines.append(line)
        # A list's item goes on in the lines below it; a table's row and a heading do not.
        joins = plain or (not fenced and line.startswith(("-", "*")))
        fenced ^= fence
    return "\n".join(lines)


def of_model(spec: ModelSpec, registered_name: str, airflow: str) -> str:
    """Description of a registered model: its question, how it is moved by hand, where it runs, and its card.

    Args:
        airflow: Address of Airflow.
    """
    links = " · ".join(
        f"[{title}]({airflow}/dags/{dag}_{spec.name})"
        for title, dag in (("train", "train"), ("monitor", "monitor"), ("roll out", "rollout"))
    )
    text = f"**{spec.question}** Owner: {spec.owner}. In Airflow: {links}.\n\n{_BY_HAND.format(name=registered_name)}"
    whole = card(spec)
    if whole is None:
        return text
    room = _LONGEST - len(text) - 60
    if len(whole) > room:
        whole = f"{whole[:room].rsplit(chr(10), 1)[0]}\n\n(All of it: artifact `{CARD}` of each run.)"
    return f"{text}\n\n{whole}"


def describe(registry: Registry, spec: ModelSpec, registered_name: str, airflow: str) -> None:
    """Make the registered model, or bring its description up to date; what a person wrote there stays.

    Raises:
        RegistryError: MLflow does not answer, or refuses.
    """
    about = of_model(spec, registered_name, airflow)
    if registry.ensure_registered_model(registered_name, about, {"owner": spec.owner, _OURS: _digest(about)}):
        return
    found = registry.registered_model(registered_name)
    if found is None or found.description == about:
        return
    if found.description in {"", spec.question} or _digest(found.description) == found.tags.get(_OURS):
        registry.set_model_description(registered_name, about)
        registry.set_model_tag(registered_name, _OURS, _digest(about))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_run(registered_name: str, version: str, snapshot: SnapshotRef, study: StudyRef, dag_run: str) -> str:
    """Description of a run until the gate has judged it.

    Args:
        dag_run: Address of the Airflow run; empty: there was none.
    """
    rows = ", ".join(f"{part} {count:,}" for part, count in snapshot.rows.items())
    ran = f"\n\n[DAG run in Airflow]({dag_run})" if dag_run else ""
    return (
        f"Version {version} of `{registered_name}`, **not judged yet**.\n\nBest of {study.trials} trials: "
        f"{study.best_value:.4g}. Rows: {rows}; snapshot `{snapshot.sha256[:12]}` of {snapshot.source}.{ran}"
    )
