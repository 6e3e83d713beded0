"""The report in Markdown, short enough for a registered version's description."""

from __future__ import annotations

from pipelines.evaluate.checks import Check
from pipelines.evaluate.report.evidence import Evidence, number, signed
from pipelines.references import Outcome

#: MLflow keeps a version's description in a column of so many characters; PostgreSQL refuses more.
MAX_CHARACTERS = 5000

_NAMED = 160  # characters of one cell


def markdown(evidence: Evidence) -> str:
    """The verdict, what decided it, champion and candidate side by side, and where the rest is.

    Returns:
        At most ``MAX_CHARACTERS``: rows that passed are left out first, then metrics, then all else.
    """
    checks = sorted(evidence.verdict.checks, key=lambda check: _rank(check))
    metrics = list(evidence.metrics)
    # Steps of what may be left out, coarsest last; the first that fits is taken.
    for shown, figures in (
        (len(checks), len(metrics)),
        *((count, len(metrics)) for count in range(len(checks) - 1, 4, -1)),
        *((min(5, len(checks)), count) for count in range(len(metrics) - 1, -1, -1)),
    ):
        text = _text(evidence, checks[:shown], len(checks) - shown, metrics[:figures])
        if len(text) <= MAX_CHARACTERS:
            return text
    return _text(evidence, [], len(checks), [])[:MAX_CHARACTERS]


def _text(evidence: Evidence, checks: list[Check], left_out: int, metrics: list[str]) -> str:
    parts = [f"# {_cell(evidence.name)}: {evidence.verdict.outcome.value}", _cell(evidence.sentence(), 600)]
    if evidence.links:
        parts.append(" · ".join(f"[{_cell(link.text)}]({link.url})" for link in evidence.links))
    parts.append(_provenance(evidence))
    if checks:
        parts.append(_checks(checks))
    if left_out:
        parts.append(f"… and {left_out} more checks: they are in the report.")
    if metrics:
        parts.append(_side_by_side(evidence, metrics))
    return "\n\n".join(parts) + "\n"


def _provenance(evidence: Evidence) -> str:
    snapshot = evidence.candidate.snapshot
    champion = f"version {evidence.champion}" if evidence.champion else "none"
    positives = f", {snapshot.positives['holdout']} positive" if snapshot.positives else ""
    code = (
        f" Code {evidence.training.code.named()}; seed {evidence.training.seed}." if evidence.training else ""
    )
    return (
        f"Champion then serving: {champion}. Holdout: {snapshot.rows['holdout']} rows{positives}, of snapshot "
        f"`{snapshot.sha256[:12]}` ({_cell(snapshot.source)}).{code}"
    )


def _checks(checks: list[Check]) -> str:
    lines = ["| check | verdict | figure | interval | wanted | n |", "|---|---|---:|---:|---|---:|"]
    for check in checks:
        interval = f"{number(check.interval[0])} … {number(check.interval[1])}" if check.interval else ""
        word = check.outcome.value if check.outcome is Outcome.PASS else f"**{check.outcome.value}**"
        if not check.blocking:
            word += " (does not decide)"
        cells = (
            _cell(check.name),
            word,
            number(check.figure),
            interval,
            _cell(check.wanted),
            number(check.n),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _side_by_side(evidence: Evidence, metrics: list[str]) -> str:
    models = list(evidence.figures)
    rival = evidence.rival
    head = ["on the holdout", *map(_cell, models), *(["difference"] if rival else [])]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for metric in metrics:
        cells = [number(values[metric]) if metric in values else "" for values in evidence.figures.values()]
        if rival:
            apart = evidence.difference(metric)
            cells.append("" if apart is None else signed(apart))
        lines.append("| " + " | ".join([_cell(metric.replace("_", " ")), *cells]) + " |")
    return "\n".join(lines)


def _rank(check: Check) -> tuple[bool, int]:
    order = (Outcome.FAIL, Outcome.INSUFFICIENT, Outcome.PASS)
    return (not check.blocking, order.index(check.outcome))


def _cell(text: str, longest: int = _NAMED) -> str:
    """Text that breaks neither the table nor the page."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
