"""The gate: evidence on a holdout that neither training nor tuning has seen, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Observations
from models.manifest import FieldType, InputField
from models.metrics import RankedLabels, expected_calibration_error
from models.specs import Thresholds
from pipelines.evaluate.checks import Check, CheckKind, Verdict
from pipelines.references import Outcome

RESAMPLES = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Probabilities of one model on the holdout's rows, shape (n,)."""

    name: str
    probability: Array


def evaluate(
    holdout: Observations,
    candidate: Scores,
    baselines: tuple[Scores, ...],
    champion: Scores | None,
    thresholds: Thresholds,
    seed: int,
) -> Verdict:
    """Judge a candidate.

    Args:
        holdout: Rows after all that training and tuning saw.
        baselines: Naive answers on the same rows; the candidate must beat each.
        champion: The version now serving, on the same rows; None only where none serves.
        seed: Of the bootstrap.
    """
    enough = _evidence(holdout, thresholds)
    if any(check.outcome is not Outcome.PASS for check in enough):
        return Verdict(checks=enough)
    checks = [*enough, *_absolute(holdout, candidate, thresholds)]
    weights = cluster_weights(holdout.entity, RESAMPLES, seed)
    checks += [_beats(holdout, candidate, baseline, weights) for baseline in baselines]
    if champion is not None:
        checks.append(_not_worse_than(holdout, candidate, champion, thresholds.champion_margin, weights))
    return Verdict(checks=tuple(checks))


def metrics(part: Observations, scores: Scores, thresholds: Thresholds) -> dict[str, float]:
    """The figures of one model on a part; keys carry no prefix."""
    ranked = RankedLabels(part.label, scores.probability)
    _, recall, rate, precision = ranked.operating_point(part.weight, thresholds.max_false_positive_rate)
    return {
        "average_precision": ranked.average_precision(part.weight),
        "recall": recall,
        "false_positive_rate": rate,
        "precision": precision,
        "calibration_error": expected_calibration_error(part.label, scores.probability, part.weight),
    }


def alarm_metrics(part: Observations, probability: Array, alarm_threshold: float) -> dict[str, float]:
    """Figures at the threshold that the model serves with, which was learned before the holdout."""
    alarm = probability >= alarm_threshold
    positive = part.label == 1
    hits = float(np.sum(part.weight[alarm & positive]))
    return {
        "alarm_recall": hits / max(float(np.sum(part.weight[positive])), 1e-12),
        "alarm_precision": hits / max(float(np.sum(part.weight[alarm])), 1e-12),
        "alarm_false_positive_rate": float(np.sum(part.weight[alarm & ~positive]))
        / max(float(np.sum(part.weight[~positive])), 1e-12),
    }


def naive_baselines(
    train: Observations, holdout: Observations, inputs: tuple[InputField, ...]
) -> tuple[Scores, ...]:
    """Answers that need no model: the share of positives, and the best single feature.

    The feature and its direction are chosen on the training part, so that the baseline peeks at
    the holdout no more than the candidate does.
    """
    prior = float(np.average(train.label, weights=train.weight))
    best_name, best_sign, best = "", 1.0, -1.0
    for field in inputs:
        if field.type is FieldType.STRING:
            continue
        for sign in (1.0, -1.0):
            values = _ordered(train.columns[field.name], sign)
            reached = RankedLabels(train.label, values).average_precision(train.weight)
            if reached > best:
                best_name, best_sign, best = field.name, sign, reached
    arrow = "high" if best_sign > 0 else "low"
    return (
        Scores("share of positives", np.full(len(holdout), prior)),
        Scores(
            f"best single feature ({best_name}, {arrow})", _ordered(holdout.columns[best_name], best_sign)
        ),
    )


def cluster_weights(entity: NDArray, resamples: int, seed: int) -> Callable[[int], Array]:
    """Weights of bootstrap resamples of whole entities: rows of one machine are not independent.

    Returns:
        A function from the number of the resample, ``0 <= number < resamples``, to the
        multiplicity of each row, shape (n,).
    """
    names, index = np.unique(entity.astype(str), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=resamples
    )
    return lambda number: drawn[number][index].astype(np.float64)


def _evidence(holdout: Observations, thresholds: Thresholds) -> tuple[Check, ...]:
    positives, entities = int(np.sum(holdout.label)), len(np.unique(holdout.entity.astype(str)))

    def check(name: str, found: int, wanted: int) -> Check:
        outcome = Outcome.PASS if found >= wanted else Outcome.INSUFFICIENT
        return Check(
            name=name,
            kind=CheckKind.EVIDENCE,
            outcome=outcome,
            figure=found,
            wanted=f"at least {wanted}",
            n=len(holdout),
        )

    return (
        check("positives in the holdout", positives, thresholds.min_positives),
        check("entities in the holdout", entities, thresholds.min_entities),
    )


def _absolute(holdout: Observations, candidate: Scores, thresholds: Thresholds) -> list[Check]:
    found = metrics(holdout, candidate, thresholds)
    point = f"recall at {thresholds.max_false_positive_rate:.2%} false positives"
    return [
        _threshold(point, found["recall"], thresholds.min_recall, True, holdout),
        _threshold(
            "average precision", found["average_precision"], thresholds.min_average_precision, True, holdout
        ),
        _threshold(
            "expected calibration error",
            found["calibration_error"],
            thresholds.max_calibration_error,
            False,
            holdout,
        ),
    ]


def _threshold(
    name: str, figure: float, bound: float, higher_is_better: bool, holdout: Observations
) -> Check:
    # NaN compares false both ways: no figure is never a pass.
    passed = figure >= bound if higher_is_better else figure <= bound
    return Check(
        name=name,
        kind=CheckKind.THRESHOLD,
        outcome=Outcome.PASS if passed else Outcome.FAIL,
        figure=None if np.isnan(figure) else figure,
        wanted=f"{'at least' if higher_is_better else 'at most'} {bound:g}",
        n=len(holdout),
    )


def _beats(
    holdout: Observations, candidate: Scores, baseline: Scores, weights: Callable[[int], Array]
) -> Check:
    gain, low, high = _paired_gain(holdout, candidate, baseline, weights)
    return Check(
        name=f"gain in average precision over {baseline.name}",
        kind=CheckKind.BASELINE,
        outcome=Outcome.PASS if low > 0 else Outcome.FAIL,
        figure=gain,
        wanted="lower bound above 0",
        n=len(holdout),
        interval=(low, high),
    )


def _not_worse_than(
    holdout: Observations, candidate: Scores, champion: Scores, margin: float, weights: Callable[[int], Array]
) -> Check:
    gain, low, high = _paired_gain(holdout, candidate, champion, weights)
    return Check(
        name=f"gain in average precision over champion {champion.name}",
        kind=CheckKind.CHAMPION,
        outcome=Outcome.PASS if low > -margin else Outcome.FAIL,
        figure=gain,
        wanted=f"lower bound above -{margin:g}",
        n=len(holdout),
        interval=(low, high),
    )


def _paired_gain(
    holdout: Observations, candidate: Scores, other: Scores, weights: Callable[[int], Array]
) -> tuple[float, float, float]:
    """Difference of average precision on the same rows, with a 95 % percentile interval.

    Paired bootstrap clustered by entity (Field and Welsh, 2007). Resamples without a positive
    row have no average precision and are left out.
    """
    ours, theirs = (RankedLabels(holdout.label, scores.probability) for scores in (candidate, other))
    gains = np.array(
        [
            ours.average_precision(weight) - theirs.average_precision(weight)
            for weight in (holdout.weight * weights(number) for number in range(RESAMPLES))
        ]
    )
    low, high = np.nanquantile(gains, [0.025, 0.975])
    point = ours.average_precision(holdout.weight) - theirs.average_precision(holdout.weight)
    return float(point), float(low), float(high)


def _ordered(values: NDArray, sign: float) -> Array:
    """A feature as a score; a missing value ranks last."""
    return np.nan_to_num(sign * values.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
