"""What a report tells, and how it is put into words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.evaluate.checks import Check, CheckKind, Verdict
from pipelines.references import CandidateRef, Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipelines.lineage.record import Training

CANDIDATE = "candidate"
_ENDED = {
    Outcome.PASS: "passed",
    Outcome.FAIL: "failed",
    Outcome.INSUFFICIENT: "without enough evidence",
}


@dataclass(frozen=True)
class Link:
    """A page that the reader may want."""

    text: str
    url: str


@dataclass(frozen=True)
class Evidence:
    """Everything that one report shows.

    Attributes:
        champion: Version that served when the candidate was judged; None if none did.
        figures: Metrics on the holdout by model ("candidate", "version 3", a baseline's name), then
            by metric. The candidate comes first, a champion second.
        plots: The task's own figures by model, as in ``figures``, then by name.
        training: Where the candidate came from; None if that was not recorded.
        links: Pages about the candidate, most useful first.
        question: What the model answers.
    """

    candidate: CandidateRef
    champion: str | None
    verdict: Verdict
    figures: dict[str, dict[str, float]]
    judged_at: datetime
    question: str = ""
    plots: dict[str, dict[str, Figure]] = field(default_factory=dict)
    training: Training | None = None
    links: tuple[Link, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.candidate.registered_name} version {self.candidate.version}"

    @property
    def rival(self) -> str | None:
        """Name of the champion among the figures."""
        named = f"version {self.champion}"
        return named if self.champion is not None and named in self.figures else None

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(metric for values in self.figures.values() for metric in values))

    def difference(self, metric: str) -> float | None:
        """Candidate less champion; None where one of them has no such figure."""
        if self.rival is None:
            return None
        ours = self.figures.get(CANDIDATE, {}).get(metric)
        theirs = self.figures[self.rival].get(metric)
        return None if ours is None or theirs is None else ours - theirs

    @property
    def deciding(self) -> tuple[Check, ...]:
        """Checks that stand against a promotion, failures first."""
        against = [
            check for check in self.verdict.checks if check.blocking and check.outcome is not Outcome.PASS
        ]
        return tuple(sorted(against, key=lambda check: check.outcome is not Outcome.FAIL))

    def counts(self) -> str:
        """How many checks there are, and how they ended."""
        asked = [check for check in self.verdict.checks if check.blocking]
        ended = [
            f"{count} {words}"
            for outcome, words in _ENDED.items()
            if (count := sum(check.outcome is outcome for check in asked))
        ]
        aside = len(self.verdict.checks) - len(asked)
        more = f"; {aside} more for information" if aside else ""
        return f"{len(asked)} decide{': ' if ended else ''}{', '.join(ended)}{more}"

    def sentence(self) -> str:
        """The verdict in one sentence."""
        asked = [check for check in self.verdict.checks if check.blocking]
        match self.verdict.outcome:
            case Outcome.PASS:
                return f"{self.name} is proved: all {len(asked)} checks passed{self._gain()}."
            case Outcome.FAIL:
                failed = sum(check.outcome is Outcome.FAIL for check in self.deciding)
                return (
                    f"{self.name} is refused, as {failed} of {len(asked)} checks failed{self._first(failed)}."
                )
            case Outcome.INSUFFICIENT if self.deciding:
                open_ = len(self.deciding)
                lack = "lacks" if open_ == 1 else "lack"
                return f"{self.name} is not proved, as {open_} of {len(asked)} checks {lack} evidence{self._first(open_)}."
            case Outcome.INSUFFICIENT:
                return f"{self.name} is not proved: nothing was checked."

    def _first(self, count: int) -> str:
        first = self.deciding[0]
        return f"{', the first' if count > 1 else ''}: {first.name} is {stated(first)}"

    def _gain(self) -> str:
        for kind in (CheckKind.CHAMPION, CheckKind.BASELINE):
            for check in self.verdict.checks:
                if check.kind is kind and check.figure is not None and check.interval:
                    low, high = map(number, check.interval)
                    return f"; its {check.name} is {number(check.figure)} ({level(check)} interval {low} to {high})"
        return ", there being no champion to compare with" if self.champion is None else ""


def stated(check: Check) -> str:
    """Figure against what is wanted: ``0.013 (95 % interval …), wanted …``."""
    figure = "without a figure" if check.figure is None else number(check.figure)
    spread = ""
    if check.interval:
        spread = f" ({level(check)} interval {number(check.interval[0])} to {number(check.interval[1])})"
    return f"{figure}{spread}, wanted {check.wanted}"


def level(check: Check) -> str:
    return f"{100 * check.level:.3g} %"


def number(value: float | None) -> str:
    """Four significant digits, as people write them."""
    if value is None:
        return "none"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    if 1e-4 <= abs(value) < 1e6:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def signed(value: float) -> str:
    """A difference, its sign always said."""
    return number(value) if value <= 0 or math.isnan(value) else f"+{number(value)}"
