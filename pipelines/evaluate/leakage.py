"""Does anything in the training set know what it could not know when it serves?"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.base import Array, Observations
from models.manifest import FieldType, InputField
from models.specs import Leakage
from pipelines.evaluate.checks import Check, CheckKind
from pipelines.references import Outcome

SAMPLE_ROWS = 20_000
_MOST_CATEGORIES = 50


@dataclass(frozen=True)
class Parts:
    """A snapshot's parts as they were made.

    Attributes:
        by: What the split promised.
        horizon: Of the target: a label looks so far ahead of its row.
        watched: Target that says how many hours of the future a row's label has seen, where it varies by row.
    """

    train: Observations
    valid: Observations
    holdout: Observations
    by: Literal["time", "entity", "entity_and_time"]
    horizon: timedelta
    watched: str | None = None


def leakage_checks(
    parts: Parts,
    inputs: tuple[InputField, ...],
    chosen: frozenset[str],
    config: Leakage,
    seed: int,
) -> tuple[Check, ...]:
    """Inputs too good to be true, entities in two parts, labels that reach over a cut.

    Args:
        chosen: Inputs that callers choose: they are no measurements, and are not judged.
    """
    checks = [_feature_check(parts.train, inputs, chosen, config, seed)]
    if parts.by != "time":
        checks.append(_entity_check(parts))
    if parts.by != "entity":
        checks.append(_time_check(parts))
    return tuple(checks)


def _feature_check(
    train: Observations, inputs: tuple[InputField, ...], chosen: frozenset[str], config: Leakage, seed: int
) -> Check:
    judged = [
        field
        for field in inputs
        if field.name not in chosen and not any(fnmatch.fnmatch(field.name, name) for name in config.trusted)
    ]
    sample = train
    if len(train) > SAMPLE_ROWS:
        sample = train.rows(np.random.default_rng(seed).choice(len(train), SAMPLE_ROWS, replace=False))
    worst, name, target, binary = -1.0, "", "", True
    for target_name, truth in sample.targets.items():
        known = np.isfinite(truth)
        is_binary = bool(np.isin(truth[known], (0.0, 1.0)).all())
        found = (
            _aucs(sample, truth, known, judged) if is_binary else _correlations(sample, truth, known, judged)
        )
        most = config.max_auc if is_binary else config.max_correlation
        for field_name, figure in found.items():
            # By what share of the way from worthless to the bound, so that both kinds compare.
            reach = (figure - 0.5) / (most - 0.5) if is_binary else figure / most
            if reach > worst:
                worst, name, target, binary = reach, field_name, target_name, is_binary
                best = figure
    most, unit = (
        (config.max_auc, "AUC") if binary else (config.max_correlation, "correlation within entities")
    )
    missing = not name
    return Check(
        name=f"strongest single input ({name})" if name else "strongest single input",
        kind=CheckKind.LEAKAGE,
        outcome=Outcome.PASS if missing or best <= most else Outcome.FAIL,
        figure=None if missing else best,
        wanted=f"at most {most:g}",
        n=len(sample),
        bound=most,
        better="lower",
        question="Does one input give the outcome away? What is too good to be true usually was written down afterwards.",
        method=f"{unit} with {target or 'the target'}, on the training part",
        detail="no input varies with any target" if missing else f"{unit} with {target}",
        remedy=f"Find out when {name or 'it'} becomes known. If it is known in time, name it in gate.leakage.trusted; "
        "if not, leave it out of `inputs`",
    )


def _aucs(
    part: Observations, truth: Array, known: NDArray[np.bool_], fields: list[InputField]
) -> dict[str, float]:
    """Area under the ROC curve of each input in its better direction; a missing value ranks below all others."""
    from scipy.stats import rankdata

    label = truth[known] == 1
    positives, negatives = int(label.sum()), int((~label).sum())
    if positives == 0 or negatives == 0:
        return {}
    found = {}
    for field in fields:
        values = part.columns[field.name][known]
        if field.type is FieldType.STRING:
            names, index = np.unique(values.astype(str), return_inverse=True)
            if len(names) > _MOST_CATEGORIES:
                continue
            values = (np.bincount(index, weights=label) / np.bincount(index))[index]
        ranks = rankdata(np.nan_to_num(values.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf))
        area = (float(ranks[label].sum()) - positives * (positives + 1) / 2) / (positives * negatives)
        found[field.name] = max(area, 1 - area)
    return found


def _correlations(
    part: Observations, truth: Array, known: NDArray[np.bool_], fields: list[InputField]
) -> dict[str, float]:
    """Absolute correlation of each number with the target, both less their entity's mean.

    Levels of entities differ and persist, so that any past value tells them; what an input knows
    beyond the level is the question. Where most entities have one row, there is no level to take off.
    """
    names, entity = np.unique(part.entity[known].astype(str), return_inverse=True)
    if len(names) > len(entity) / 2:
        entity = np.zeros(len(entity), dtype=np.intp)
    target = _centred(truth[known], entity)
    found = {}
    for field in fields:
        if field.type is FieldType.STRING:
            continue
        values = part.columns[field.name][known].astype(np.float64)
        there = np.isfinite(values)
        if there.sum() < 3:
            continue
        ours, theirs = _centred(values[there], entity[there]), _centred(target[there], entity[there])
        scale = float(np.sqrt(np.sum(ours**2) * np.sum(theirs**2)))
        size = float(np.max(np.abs(values[there])))
        # What is left of a constant is rounding.
        if scale > 0 and float(np.max(np.abs(ours))) > 1e-9 * size:
            found[field.name] = abs(float(ours @ theirs)) / scale
    return found


def _centred(values: Array, group: NDArray[np.intp]) -> Array:
    means = np.bincount(group, weights=values) / np.maximum(np.bincount(group), 1)
    centred: Array = values - means[group]
    return centred


def _entity_check(parts: Parts) -> Check:
    learned = np.concatenate([parts.train.entity, parts.valid.entity]).astype(str)
    both = np.intersect1d(learned, parts.holdout.entity.astype(str)).tolist()
    return Check(
        name="entities of the holdout in other parts",
        kind=CheckKind.LEAKAGE,
        outcome=Outcome.FAIL if both else Outcome.PASS,
        figure=len(both),
        wanted="0",
        n=len(parts.holdout),
        bound=0.0,
        better="lower",
        question="Does the holdout hold only entities that training never saw, as the split promises?",
        detail=f"such as {both[:3]}" if both else "",
        remedy="The snapshot was not parted as its spec says: build it anew (headrace train MODEL)",
    )


def _time_check(parts: Parts) -> Check:
    horizon = np.timedelta64(parts.horizon)
    late = 0
    examples: list[str] = []
    for earlier, later in (
        (parts.train, parts.valid),
        (parts.train, parts.holdout),
        (parts.valid, parts.holdout),
    ):
        if len(earlier) == 0 or len(later) == 0:
            continue
        reach = earlier.time + horizon
        if parts.watched is not None:
            watched = np.floor(earlier.targets[parts.watched] * 3600).astype("timedelta64[s]")
            reach = np.maximum(reach, earlier.time + watched)
        over = reach > later.time.min()
        late += int(over.sum())
        examples += [
            f"{name} at {time}"
            for name, time in zip(earlier.entity[over][:1], earlier.time[over][:1], strict=True)
        ]
    return Check(
        name="rows whose label reaches over a cut",
        kind=CheckKind.LEAKAGE,
        outcome=Outcome.FAIL if late else Outcome.PASS,
        figure=late,
        wanted="0",
        n=len(parts.train) + len(parts.valid),
        bound=0.0,
        better="lower",
        question="Does every label that was learned of end before the next part begins, as it would in production?",
        detail=f"such as {', '.join(examples[:2])} (horizon {parts.horizon})" if late else "",
        remedy="The snapshot was not cut as its spec says: build it anew (headrace train MODEL)",
    )
