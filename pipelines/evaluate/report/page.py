"""The report as one page of HTML that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.evaluate.checks import Check, CheckKind
from pipelines.evaluate.report import forest
from pipelines.evaluate.report.evidence import CANDIDATE, Evidence, level, number, signed, stated
from pipelines.evaluate.report.pictures import picture
from pipelines.pages import template
from pipelines.references import Outcome

if TYPE_CHECKING:
    import jinja2

_TITLES = {
    CheckKind.EVIDENCE: "Is there enough to judge by?",
    CheckKind.CONTRACT: "Does it say what it takes and answers?",
    CheckKind.LEAKAGE: "Did it learn from what it could not have known?",
    CheckKind.THRESHOLD: "Is it good enough?",
    CheckKind.BASELINE: "Is it better than a naive answer?",
    CheckKind.CHAMPION: "Is it better than what serves now?",
    CheckKind.OLDER: "Does it still hold on older data?",
    CheckKind.SLICE: "Does it hold for each group that is guarded?",
    CheckKind.CALIBRATION: "Can its probabilities be taken at their word?",
    CheckKind.COVERAGE: "Do its intervals hold what they promise?",
    CheckKind.BIAS: "Does it treat groups alike?",
    CheckKind.STABILITY: "Does it keep its head when inputs shake or are missing?",
    CheckKind.SERVABILITY: "Does the real server serve it?",
}
_WORDS = {
    Outcome.PASS: ("pass", "passed", "✓"),
    Outcome.FAIL: ("fail", "failed", "✕"),
    Outcome.INSUFFICIENT: ("unsure", "not enough evidence", "?"),
}
_VERDICTS = {Outcome.PASS: "Proved", Outcome.FAIL: "Refused", Outcome.INSUFFICIENT: "Not proved"}


@dataclass(frozen=True)
class Group:
    """Checks that answer one question."""

    title: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> int:
        return sum(check.outcome is Outcome.PASS for check in self.checks)

    @property
    def worst(self) -> Outcome:
        """Of those that decide."""
        outcomes = {check.outcome for check in self.checks if check.blocking}
        for outcome in (Outcome.FAIL, Outcome.INSUFFICIENT):
            if outcome in outcomes:
                return outcome
        return Outcome.PASS


def html(evidence: Evidence) -> str:
    """The page. Everything that came from outside is escaped."""
    return _template().render(
        evidence=evidence,
        training=evidence.training,
        snapshot=evidence.candidate.snapshot,
        verdict=_VERDICTS[evidence.verdict.outcome],
        word=_WORDS[evidence.verdict.outcome],
        groups=groups(evidence.verdict.checks),
        models=[
            ("candidate" if name == CANDIDATE else name, values) for name, values in evidence.figures.items()
        ],
        pictures=[
            (model, picture(name.replace("_", " "), figure))
            for name in dict.fromkeys(name for drawn in evidence.plots.values() for name in drawn)
            for model, drawn in evidence.plots.items()
            if (figure := drawn.get(name)) is not None
        ],
    )


def groups(checks: tuple[Check, ...]) -> tuple[Group, ...]:
    """Checks by the question that they answer, in the order in which a reader would ask."""
    order = list(_TITLES)
    ranked = sorted(checks, key=lambda check: order.index(check.kind))  # stable: as asked within a kind
    return tuple(
        Group(_TITLES[kind], tuple(same)) for kind, same in groupby(ranked, key=lambda check: check.kind)
    )


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    return template(
        Path(__file__).with_name("page.html"),
        filters={
            "number": number,
            "signed": signed,
            "level": level,
            "stated": stated,
            "word": _WORDS.__getitem__,
            "row": forest.row,
        },
        names={"forest": forest, "Outcome": Outcome},
    )
