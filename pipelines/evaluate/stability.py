"""Do answers move much where the inputs hardly do, or where one of them is missing?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Answers, Observations
from models.manifest import FieldType, InputField
from models.specs import Stability
from pipelines.evaluate.checks import Check, CheckKind
from pipelines.references import Outcome

SAMPLE_ROWS = 2000
_DECISIONS, _NUMBERS = (0.02, 0.1), (0.1, 1.0)  # largest changes: under noise, with an input missing

Predict = Callable[[Mapping[str, NDArray]], Answers]


@dataclass(frozen=True)
class Asked:
    """A model that can be asked again, and what it takes.

    Attributes:
        predict: Answers to columns.
        inputs: What it takes; inputs that are required are never left out.
        chosen: Names of inputs that callers choose (a supposed load, steps ahead, the entity): they are
            questions rather than measurements, and are left as they are.
        importance: Weight of inputs in the answers; empty: not known, and inputs are drawn.
    """

    predict: Predict
    inputs: tuple[InputField, ...]
    chosen: frozenset[str] = frozenset()
    importance: Mapping[str, float] | None = None


def stability_checks(
    model: Asked, train: Observations, holdout: Observations, answer: str, config: Stability, seed: int
) -> tuple[Check, ...]:
    """The change of the answer under noise, and the largest change where one input is missing."""
    random = np.random.default_rng(seed)
    size = min(SAMPLE_ROWS, len(holdout))
    columns = holdout.rows(np.sort(random.choice(len(holdout), size, replace=False))).columns
    plain = model.predict(columns)[answer]
    limits = _NUMBERS if plain.dtype.kind == "f" else _DECISIONS
    measured = [field for field in model.inputs if field.name in columns and field.name not in model.chosen]
    noisy = {**columns, **_perturbed(measured, columns, train, config.noise, random)}
    moved = change(plain, model.predict(noisy)[answer])
    checks = [
        _check(
            f"change of {answer} under small noise",
            moved,
            config.max_change or limits[0],
            size,
            question=f"Does {answer} stay about the same where every measurement is off by {config.noise:.0%} of its spread?",
            detail=_unit(plain),
        )
    ]
    left_out = _weightiest([field for field in measured if not field.required], model, config.missing, random)
    if left_out:
        changes = {
            field.name: change(plain, model.predict({**columns, field.name: _missing(field, size)})[answer])
            for field in left_out
        }
        worst = max(changes, key=lambda name: changes[name])
        checks.append(
            _check(
                f"change of {answer} where one input is missing",
                changes[worst],
                config.max_change_missing or limits[1],
                size,
                question="Does one sensor that falls silent turn the answers over?",
                detail=f"most where {worst} is missing, of {sorted(changes)}; {_unit(plain)}",
            )
        )
    return tuple(checks)


def change(plain: NDArray, moved: NDArray) -> float:
    """Share of decisions that differ; of numbers the mean absolute change over their mean deviation.

    Infinite where an answer is no number.
    """
    if plain.dtype.kind != "f":
        return float(np.mean(plain != moved))
    if not np.all(np.isfinite(moved)) or not np.all(np.isfinite(plain)):
        return float("inf")
    moves, spread = np.mean(np.abs(moved - plain)), np.mean(np.abs(plain - np.median(plain)))
    if spread == 0:
        return 0.0 if moves == 0 else float("inf")
    return float(moves / spread)


def _perturbed(
    fields: list[InputField],
    columns: Mapping[str, NDArray],
    train: Observations,
    share: float,
    random: np.random.Generator,
) -> dict[str, NDArray]:
    """Numbers with noise of a share of their spread in training, within what the fields allow."""
    noisy: dict[str, NDArray] = {}
    for field in fields:
        if field.type is FieldType.STRING:
            continue
        values = columns[field.name].astype(np.float64)
        rest, spread = noise_of(train.columns[field.name])
        moved = values + random.normal(size=len(values)) * share * spread
        # Equality is meant: a counter that says nothing happened says so exactly.
        noisy[field.name] = np.clip(np.where(values == rest, values, moved), field.minimum, field.maximum)
    return noisy


def noise_of(values: NDArray) -> tuple[float, float]:
    """The value that a number rests at, and the spread of its values elsewhere.

    A number rests where the middle half of its values is one value, as a counter of errors does at 0: there is
    nothing to measure there, so nothing to measure wrongly, and the few large values that make up its standard
    deviation say nothing of it. The spread is the smaller of standard deviation and normal-consistent
    interquartile range that is not 0, because outliers stretch one of them.

    Returns:
        NaN, which equals nothing, where it does not rest; and the spread, 0 where values do not differ.
    """
    known = values[np.isfinite(values)]
    rest = float("nan")
    if len(known) and np.ptp(np.quantile(known, [0.25, 0.75])) == 0:
        rest = float(np.median(known))
        known = known[known != rest]
    if len(known) == 0:
        return rest, 0.0
    low, high = np.quantile(known, [0.25, 0.75])
    wide = [spread for spread in (float(np.std(known)), float(high - low) / 1.349) if spread > 0]
    return rest, min(wide, default=0.0)


def _weightiest(
    fields: list[InputField], model: Asked, count: int, random: np.random.Generator
) -> list[InputField]:
    importance = model.importance or {}
    if any(field.name in importance for field in fields):
        return sorted(fields, key=lambda field: -importance.get(field.name, 0.0))[:count]
    chosen = random.permutation(len(fields))[:count]
    return [fields[place] for place in chosen]


def _missing(field: InputField, rows: int) -> NDArray:
    if field.type is FieldType.STRING:
        return np.full(rows, None, dtype=object)
    return np.full(rows, np.nan)


def _unit(plain: NDArray) -> str:
    return "as a share of how much answers vary" if plain.dtype.kind == "f" else "as a share of decisions"


def _check(name: str, figure: float, most: float, rows: int, *, question: str, detail: str) -> Check:
    broken = not np.isfinite(figure)
    return Check(
        name=name,
        kind=CheckKind.STABILITY,
        outcome=Outcome.PASS if figure <= most else Outcome.FAIL,
        figure=None if broken else figure,
        wanted=f"at most {most:g}",
        n=rows,
        bound=most,
        better="lower",
        question=question,
        detail=f"{detail}; an answer is no number" if broken else detail,
        method="the candidate's serving export, asked again",
        remedy="Such a model follows noise: more regularisation, or fewer inputs that say the same",
    )
