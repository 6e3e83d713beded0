"""Parts of the holdout by a property of its rows: where the candidate must not lose, and must not differ."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Observations, Task
from models.specs import Gate, Parity, Slice
from pipelines.evaluate import paired
from pipelines.evaluate.bounds import RESAMPLES, resampling
from pipelines.evaluate.checks import Check, CheckKind, by_interval
from pipelines.evaluate.comparison import LEAST_TIMES, Answered, Plan, compare, units_of
from pipelines.evaluate.paired import OverClusters, Paired
from pipelines.references import Outcome

LEAST_CLUSTERS = 5
LEVEL = 0.95

_CALENDAR = ("hour", "weekday")  # parts that a source may lack by its nature
Mask = NDArray[np.bool_]
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class _Part:
    """One part under judgement; no gain where there is too little of it."""

    name: str
    slice: Slice
    rows: int
    units: int
    gain: Paired | None
    levels: tuple[float, float]
    lacks: str


def masks(by: Slice, part: Observations) -> Iterator[tuple[str, Mask]]:
    """Name and rows of each part. Rows without the property are in none.

    Raises:
        KeyError: the holdout has no such input.
    """
    if by.by == "entity":
        names = part.entity.astype(str)
        for pattern in by.values:
            yield f"entity {pattern}", np.array([fnmatch.fnmatch(name, str(pattern)) for name in names])
        return
    values, name = _property(by, part)
    for value in by.values:
        told = _WEEKDAYS[int(value)] if by.by == "weekday" else value
        yield f"{name} {told}", np.asarray(values == value, dtype=bool)
    if by.edges:
        for low, high in zip((None, *by.edges), (*by.edges, None), strict=True):
            numbers = values.astype(np.float64)
            inside = ~np.isnan(numbers)
            inside &= numbers >= low if low is not None else True
            inside &= numbers < high if high is not None else True
            yield f"{name} {_span(low, high)}", inside


def slice_checks(
    task: Task,
    holdout: Observations,
    candidate: Answered,
    rival: Answered,
    gate: Gate,
    plan: Plan,
) -> tuple[Check, ...]:
    """Non-inferiority to the rival on each guarded part; Holm-adjusted over the parts that decide.

    A part of which there is too little is insufficient evidence, never a pass.
    """
    parts = [
        _judged(task, holdout, mask, name, by, candidate.answers, rival.answers, gate, plan)
        for by in gate.slices
        for name, mask in masks(by, holdout)
    ]
    checks: dict[str, Check] = {}
    for deciding in (True, False):
        family = [part for part in parts if part.slice.required is deciding and part.gain is not None]
        checks |= _adjusted(family, rival, gate, task)
    return tuple(checks.get(part.name) or _too_little(part, rival, gate) for part in parts)


def _adjusted(family: list[_Part], rival: Answered, gate: Gate, task: Task) -> dict[str, Check]:
    """Holm's procedure: the smallest p-value is held to the strictest level, and so on until one fails."""
    if not family:
        return {}
    margins = [part.slice.margin or gate.champion_margin for part in family]
    p_values = np.array(
        [part.gain.p_value(-margin) for part, margin in zip(family, margins, strict=True) if part.gain]
    )
    adjusted = paired.holm(p_values)
    steps = np.empty(len(family), dtype=np.intp)
    steps[np.argsort(p_values, kind="stable")] = np.arange(len(family))
    checks = {}
    for part, margin, p_value, step in zip(family, margins, adjusted, steps, strict=True):
        if part.gain is None:
            continue
        level = 1 - (1 - LEVEL) / (len(family) - int(step))
        interval, figure = part.gain.interval(level), part.gain.figure
        proved = p_value <= (1 - LEVEL) / 2
        outcome = Outcome.PASS if proved else by_interval(figure, (-np.inf, np.inf), -margin)
        missing = bool(np.isnan(figure) or np.isnan(interval[0]))
        checks[part.name] = Check(
            name=f"gain in {task.objective} where {part.name}",
            kind=CheckKind.SLICE,
            outcome=Outcome.INSUFFICIENT if missing else outcome,
            figure=None if missing else figure,
            wanted=f"lower bound above {-margin:g}",
            n=part.rows,
            interval=None if missing else interval,
            level=level,
            bound=-margin,
            margin=margin,
            units=part.units,
            p_value=float(p_value),
            blocking=part.slice.required,
            method=f"{part.gain.method}; Holm over {len(family)} slices",
            question=f"Does it lose to {rival.name} where {part.name}? A gain on average must not be paid for by some.",
            detail=f"{part.levels[0]:.4g} beside {part.levels[1]:.4g} of {rival.name}",
            remedy="Look at these rows: are they rarer in the training window than where the model serves?",
        )
    return checks


def _judged(
    task: Task,
    holdout: Observations,
    mask: Mask,
    name: str,
    by: Slice,
    ours: Answers,
    theirs: Answers,
    gate: Gate,
    plan: Plan,
) -> _Part:
    part = holdout.rows(mask)
    rows, units, positives = len(part), units_of(part, plan), None
    if rows:
        positives = task.positives(part)
    if plan.over == "entity":
        least, unit = LEAST_CLUSTERS, "clusters"
    else:
        least, unit = gate.min_times or LEAST_TIMES[plan.over], "days" if plan.over == "day" else "moments"
    lacks = ""
    if rows < by.min_rows:
        lacks = f"{rows} rows, {by.min_rows} are wanted"
    elif units < least:
        lacks = f"{units} independent {unit}, {least} are wanted"
    elif positives is not None and positives < by.min_positives:
        lacks = f"{positives} positives, {by.min_positives} are wanted"
    if lacks:
        return _Part(name, by, rows, units, None, (float("nan"), float("nan")), lacks)
    gain, levels = compare(task, part, _rows(ours, mask), _rows(theirs, mask), plan)
    return _Part(name, by, rows, units, gain, levels, "")


def _too_little(part: _Part, rival: Answered, gate: Gate) -> Check:
    margin = part.slice.margin or gate.champion_margin
    return Check(
        name=f"where {part.name}",
        kind=CheckKind.SLICE,
        outcome=Outcome.INSUFFICIENT,
        figure=None,
        wanted=f"no loss to {rival.name} beyond {margin:g}",
        n=part.rows,
        units=part.units,
        margin=margin,
        blocking=part.slice.required,
        detail=f"the holdout has {part.lacks}",
        question=f"Does it lose to {rival.name} where {part.name}? A gain on average must not be paid for by some.",
        remedy="Use a longer window, or mark the slice required=False in the spec to have it reported only",
    )


def parity_checks(
    task: Task, holdout: Observations, candidate: Answered, gate: Gate, plan: Plan
) -> tuple[Check, ...]:
    """The largest difference of a figure between groups, with an interval of that pair's difference."""
    return tuple(_parity_check(task, holdout, candidate, parity, plan) for parity in gate.parities)


def _parity_check(
    task: Task, holdout: Observations, candidate: Answered, parity: Parity, plan: Plan
) -> Check:
    groups = dict(masks(parity.groups, holdout))
    by = parity.groups.input or parity.groups.by
    common: dict[str, Any] = {
        "name": f"difference in {parity.metric.replace('_', ' ')} between groups of {by}",
        "kind": CheckKind.BIAS,
        "wanted": f"at most {parity.maximum:g} (the whole interval)",
        "bound": parity.maximum,
        "better": "lower",
        "blocking": parity.groups.required,
        "question": f"Is the model about as good for every group of {by}? Who gets worse answers bears the costs.",
        "remedy": "Look for what the groups differ in, and whether each is well represented in training",
    }
    only = next((name for name, mask in groups.items() if len(holdout) and mask.all()), None)
    if only is not None and len(groups) > 1 and parity.groups.by in _CALENDAR:
        # Telemetry of one hour a day has no other hours; a gate that waited for them would never open. Of an
        # input or an entity it would mean that a group has vanished from the holdout: no evidence.
        detail = f"every row of the holdout is where {only}: there is no other group to differ from"
        return Check(outcome=Outcome.PASS, figure=0.0, n=len(holdout), detail=detail, **common)
    metric = task.figures(holdout, candidate.answers).get(parity.metric)
    few = {name: int(mask.sum()) for name, mask in groups.items() if mask.sum() < parity.groups.min_rows}
    if metric is None or few or len(groups) < 2:
        lacks = (
            f"groups with fewer than {parity.groups.min_rows} rows: {few}"
            if few
            else (
                f"the task has no figure {parity.metric!r} that can be taken by group"
                if metric is None
                else "there are fewer than two groups"
            )
        )
        return Check(
            outcome=Outcome.INSUFFICIENT,
            figure=None,
            n=len(holdout),
            detail=lacks,
            **common,
        )
    figures = {name: metric(mask.astype(np.float64)) for name, mask in groups.items()}
    high, low = max(figures, key=lambda name: figures[name]), min(figures, key=lambda name: figures[name])
    gap = figures[high] - figures[low]
    weights, units = resampling(holdout, plan)
    drawn = np.array(
        [
            metric(weights(number) * groups[high]) - metric(weights(number) * groups[low])
            for number in range(RESAMPLES)
        ]
    )
    interval = OverClusters(gap, drawn, units).interval()
    missing = bool(np.isnan(gap) or np.isnan(interval[0]))
    return Check(
        outcome=Outcome.INSUFFICIENT if missing else by_interval(gap, interval, parity.maximum, "lower"),
        figure=None if missing else gap,
        n=int(sum(mask.sum() for mask in groups.values())),
        interval=None if missing else interval,
        units=units,
        method="bootstrap of the two groups that differ most",
        detail=f"{figures[high]:.4g} where {high}, {figures[low]:.4g} where {low}",
        **common,
    )


def _property(by: Slice, part: Observations) -> tuple[NDArray, str]:
    if by.by == "input":
        name = str(by.input)
        if name not in part.columns:
            raise KeyError(f"the holdout has no input {name!r}; it has {sorted(part.columns)[:8]} …")
        return part.columns[name], name
    seconds = part.time.astype("datetime64[s]").astype(np.int64)
    if by.by == "hour":
        return (seconds // 3600 % 24).astype(np.float64), "hour"
    return ((seconds // 86_400 + 3) % 7).astype(np.float64), "weekday"  # the epoch was a Thursday


def _rows(answers: Answers, mask: Mask) -> Answers:
    return {name: values[mask] for name, values in answers.items()}


def _span(low: float | None, high: float | None) -> str:
    if low is None:
        return f"below {high:g}"
    return f"from {low:g} on" if high is None else f"from {low:g} to below {high:g}"
