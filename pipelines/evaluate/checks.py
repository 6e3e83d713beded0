"""What a verdict is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field

from feature_repo.datasets import Frozen
from pipelines.references import Outcome

_LOG = logging.getLogger(__name__)


class CheckKind(StrEnum):
    """Which question a check answers."""

    EVIDENCE = "evidence"
    THRESHOLD = "threshold"
    BASELINE = "baseline"
    CHAMPION = "champion"
    OLDER = "older holdout"
    SLICE = "slice"
    CALIBRATION = "calibration"
    COVERAGE = "coverage"
    BIAS = "bias"
    STABILITY = "stability"
    LEAKAGE = "leakage"
    CONTRACT = "contract"
    SERVABILITY = "servability"


class Check(Frozen):
    """One piece of evidence.

    A check that needs certainty is judged by its interval: pass where all of it lies on the good
    side of the bound, fail where the figure itself does not, and insufficient evidence between.
    """

    name: str
    kind: CheckKind
    outcome: Outcome
    figure: float | None
    wanted: str
    n: int = Field(description="Rows that the figure is of.")
    interval: tuple[float, float] | None = None
    detail: str = ""
    question: str = Field("", description="What is asked, and why it matters, for the person who approves.")
    method: str = Field("", description="The test or the estimate, with its source of uncertainty.")
    bound: float | None = Field(None, description="Where good begins, in the figure's unit.")
    better: Literal["higher", "lower"] = "higher"
    margin: float | None = Field(None, description="How much may be lost, in the figure's unit.")
    level: float = Field(0.95, description="Confidence of the interval, two-sided.")
    p_value: float | None = Field(None, description="One-sided; adjusted where several are asked at once.")
    units: int | None = Field(None, description="Independent units: time points or clusters.")
    blocking: bool = Field(True, description="False: reported, and never decides.")
    remedy: str = ""

    def sentence(self) -> str:
        figure = "no figure" if self.figure is None else _number(self.figure)
        spread = ""
        if self.interval:
            low, high = self.interval
            spread = f" ({100 * self.level:.3g} %: {low:.4g} to {high:.4g})"
        detail = f"; {self.detail}" if self.detail else ""
        remedy = f". {self.remedy}" if self.remedy and self.outcome is not Outcome.PASS else ""
        return (
            f"{self.name}: {self.outcome.value}: {figure}{spread}, wanted {self.wanted}, n={self.n}"
            f"{detail}{remedy}"
        )


class Verdict(Frozen):
    """Pass only if every check that decides has passed, and there was at least one."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...] = Field((), description="What was not asked, and why it did not apply.")

    @property
    def outcome(self) -> Outcome:
        outcomes = {check.outcome for check in self.checks if check.blocking}
        if not outcomes or Outcome.INSUFFICIENT in outcomes:
            return Outcome.FAIL if Outcome.FAIL in outcomes else Outcome.INSUFFICIENT
        return Outcome.FAIL if Outcome.FAIL in outcomes else Outcome.PASS

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences for what decided against the candidate; for a pass, all of them."""
        deciding = [check for check in self.checks if check.blocking]
        told = [check for check in deciding if check.outcome is not Outcome.PASS] or list(self.checks)
        return tuple(check.sentence() for check in told)

    def extended(self, checks: Iterable[Check], notes: Iterable[str] = ()) -> Self:
        """This verdict with further checks."""
        return self.model_copy(update={"checks": (*self.checks, *checks), "notes": (*self.notes, *notes)})


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if figure.is_integer() else f"{figure:.4g}"


def by_interval(
    figure: float,
    interval: tuple[float, float],
    bound: float,
    better: Literal["higher", "lower"] = "higher",
) -> Outcome:
    """Pass where the whole interval is on the good side of the bound, fail where the figure is not.

    A figure or an interval that is not a number is insufficient evidence.
    """
    sign = 1.0 if better == "higher" else -1.0
    worst = interval[0] if better == "higher" else -interval[1]
    # Comparisons with NaN are false, so that no figure is never a pass.
    if worst > sign * bound and sign * figure > sign * bound:
        return Outcome.PASS
    return Outcome.FAIL if sign * figure <= sign * bound else Outcome.INSUFFICIENT


def held(kind: CheckKind, name: str, rows: int, asked: Callable[[], Iterable[Check]]) -> tuple[Check, ...]:
    """The checks that ``asked`` makes; one that fails with the reason where it crashes.

    A crash in one check says nothing of the others, and is never a silent pass.
    """
    try:
        return tuple(asked())
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the candidate is not proved
        _LOG.exception("the check %r crashed", name)
        return (
            Check(
                name=name,
                kind=kind,
                outcome=Outcome.FAIL,
                figure=None,
                wanted="a check that runs to its end",
                n=rows,
                detail=f"the check crashed: {type(error).__name__}: {error}",
                remedy="The log of the evaluate step has the traceback; nothing was proved here",
            ),
        )
