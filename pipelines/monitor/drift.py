"""Which columns have drifted: what their aspects say, judged together over columns and windows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.specs import DriftTest
from pipelines.monitor import calibration
from pipelines.monitor.aspects import Aspect, Tested
from pipelines.monitor.aspects import Reference as Reference
from pipelines.monitor.aspects import tested as aspects_of
from pipelines.monitor.sketch import Binned, Sketch, jensen_shannon


@dataclass(frozen=True)
class Finding:
    """What a check says of one column.

    Attributes:
        p_value: Of the strongest aspect, corrected for their number; None: not enough data.
        adjusted: By Benjamini and Hochberg over columns.
        effect: Of the strongest aspect: standard deviations of training for location, the logarithm of the ratio
            of standard deviations for spread, a difference of shares for missing and category.
        distance: Jensen-Shannon distance to the distribution of training, for people.
        rows: That are not missing, in the window.
        smallest: Shift of location, in standard deviations of training, that such a window shows with a
            probability of 0.8 where it is the only one tested; None where it has none.
        bins: Length of the window that this is of.
    """

    column: str
    drifted: bool
    p_value: float | None
    adjusted: float | None
    aspect: Aspect
    effect: float
    detail: str
    distance: float
    rows: float
    smallest: float | None
    importance: float
    bins: int


def check(
    reference: Reference,
    window: Mapping[str, Binned],
    phase: int,
    test: DriftTest,
    importance: Mapping[str, float],
) -> list[Finding]:
    """Test each column of a window that is in the reference, in the reference's order.

    Args:
        window: By column, all of the same number of bins.
        phase: Of the window's first bin.
        importance: Of columns, not negative. What is not named counts as the least that is.
    """
    tested = aspects_of(reference, window, phase, test)
    least = min((share for share in importance.values() if share > 0), default=1.0)
    weight = np.array([max(importance.get(name, least), least) for name in tested])
    best = {name: _strongest(aspects) for name, aspects in tested.items()}
    p = np.array([_corrected(aspects, best[name]) for name, aspects in tested.items()])
    found, adjusted = calibration.weighted_discoveries(p, weight, test.false_alarm_rate)
    return [
        Finding(
            column=name,
            drifted=bool(found[number] and best[name].counts),
            p_value=_known(p[number]),
            adjusted=_known(adjusted[number]),
            aspect=best[name].aspect,
            effect=best[name].effect,
            detail=best[name].detail if np.isfinite(p[number]) else "not enough data",
            distance=_distance(reference.sketches[name], window[name]),
            rows=float(np.sum(window[name].present)),
            smallest=next((each.smallest for each in aspects if each.smallest is not None), None),
            importance=float(weight[number]),
            bins=len(window[name].rows),
        )
        for number, (name, aspects) in enumerate(tested.items())
    ]


def together(checks: Sequence[Sequence[Finding]], test: DriftTest) -> list[Finding]:
    """One finding per column of checks of several windows that end together: the surest, corrected for their number.

    The weighted Benjamini-Hochberg step is taken anew over the corrected p-values.
    """
    if len(checks) == 1:
        return list(checks[0])
    picked = []
    for same in zip(*checks, strict=True):
        asked = [finding for finding in same if finding.p_value is not None]
        chosen = min(asked, key=lambda finding: finding.p_value or 0.0) if asked else same[0]
        p = None if chosen.p_value is None else min(1.0, chosen.p_value * len(asked))
        picked.append((chosen, p))
    p = np.array([np.nan if p is None else p for _, p in picked])
    weight = np.array([finding.importance for finding, _ in picked])
    found, adjusted = calibration.weighted_discoveries(p, weight, test.false_alarm_rate)
    return [
        replace(
            finding,
            p_value=p,
            adjusted=_known(adjusted[number]),
            drifted=bool(found[number]) and _matters(finding, test),
        )
        for number, (finding, p) in enumerate(picked)
    ]


def _matters(finding: Finding, test: DriftTest) -> bool:
    bound = test.min_effect if finding.aspect in {"location", "spread"} else test.min_share
    return abs(finding.effect) >= bound


def _strongest(aspects: list[Tested]) -> Tested:
    # Where several are equally sure, the largest effect tells most.
    return min(
        aspects,
        key=lambda each: (each.p, -abs(each.effect)),
        default=Tested(float("nan"), "location", 0.0, False, "not enough data"),
    )


def _corrected(aspects: list[Tested], best: Tested) -> float:
    return min(1.0, best.p * len(aspects)) if aspects else float("nan")


def _distance(sketch: Sketch, window: Binned) -> float:
    return jensen_shannon(sketch.shares, window.cells)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
