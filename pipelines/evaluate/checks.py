"""What a verdict is made of."""

from __future__ import annotations

from enum import StrEnum

from feature_repo.datasets import Frozen
from pipelines.references import Outcome


class CheckKind(StrEnum):
    """Which question a check answers; the gates issue adds further kinds here."""

    EVIDENCE = "evidence"
    THRESHOLD = "threshold"
    BASELINE = "baseline"
    CHAMPION = "champion"


class Check(Frozen):
    """One piece of evidence."""

    name: str
    kind: CheckKind
    outcome: Outcome
    figure: float | None
    wanted: str
    n: int
    interval: tuple[float, float] | None = None
    detail: str = ""

    def sentence(self) -> str:
        figure = "no figure" if self.figure is None else f"{self.figure:.4g}"
        spread = f" (95 %: {self.interval[0]:.4g} to {self.interval[1]:.4g})" if self.interval else ""
        detail = f"; {self.detail}" if self.detail else ""
        return (
            f"{self.name}: {self.outcome.value}: {figure}{spread}, wanted {self.wanted}, n={self.n}{detail}"
        )


class Verdict(Frozen):
    """Pass only if every check passed, and there was at least one of each kind that applies."""

    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        outcomes = {check.outcome for check in self.checks}
        if not outcomes or Outcome.INSUFFICIENT in outcomes:
            return Outcome.FAIL if Outcome.FAIL in outcomes else Outcome.INSUFFICIENT
        return Outcome.FAIL if Outcome.FAIL in outcomes else Outcome.PASS

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences for what was not passed; for a pass, all of them."""
        told = [check for check in self.checks if check.outcome is not Outcome.PASS] or list(self.checks)
        return tuple(check.sentence() for check in told)
