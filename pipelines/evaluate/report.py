"""The gate's report in Markdown: verdict first, then each check."""

from __future__ import annotations

from pipelines.evaluate.checks import Verdict
from pipelines.references import CandidateRef, Outcome, SnapshotRef


def _word(outcome: Outcome) -> str:
    return outcome.value if outcome is Outcome.PASS else f"**{outcome.value}**"


def _positives(snapshot: SnapshotRef) -> str:
    return f", {snapshot.positives['holdout']} positive" if snapshot.positives else ""


def markdown(
    candidate: CandidateRef, champion: str | None, verdict: Verdict, figures: dict[str, dict[str, float]]
) -> str:
    """One page for the person who approves.

    Args:
        figures: Metrics by model ("candidate", "champion", a baseline's name), then by metric.
    """
    snapshot = candidate.snapshot
    lines = [
        f"# {candidate.registered_name} version {candidate.version}: {verdict.outcome.value}",
        "",
        f"Champion now serving: {f'version {champion}' if champion else 'none'}. "
        f"Holdout: {snapshot.rows['holdout']} rows{_positives(snapshot)}, "
        f"of snapshot `{snapshot.sha256[:12]}` ({snapshot.source}).",
        "",
        "| check | verdict | figure | 95 % interval | wanted | n |",
        "|---|---|---:|---:|---|---:|",
    ]
    for check in verdict.checks:
        interval = f"{check.interval[0]:.4f} … {check.interval[1]:.4f}" if check.interval else ""
        figure = "none" if check.figure is None else f"{check.figure:.4f}".rstrip("0").rstrip(".")
        lines.append(
            f"| {check.name} | {_word(check.outcome)} | {figure} | {interval} | {check.wanted} | {check.n} |"
        )
    names = list(dict.fromkeys(metric for values in figures.values() for metric in values))
    lines += ["", "| on the holdout | " + " | ".join(figures) + " |", "|---" + "|---:" * len(figures) + "|"]
    for metric in names:
        cells = [f"{values[metric]:.4f}" if metric in values else "" for values in figures.values()]
        lines.append(f"| {metric.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
