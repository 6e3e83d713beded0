"""How each aspect of a column lies beside its history: location, spread, missing share, categories. Pure.

Location and spread are the first two components of a smooth test (Neyman, 1937; Rayner and Best, 1989) on
normal scores, bin by bin beside the profile of training. :mod:`pipelines.monitor.calibration` says how far
each strays by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.base import Array
from models.specs import DriftTest
from pipelines.monitor import calibration
from pipelines.monitor.calibration import History
from pipelines.monitor.sketch import Binned, NumberSketch, Sketch, over

Aspect = Literal["location", "spread", "missing", "category"]

#: A variance of scores is never taken for less: a column that never varied would else be infinitely sure.
_LEAST_VARIANCE = 1e-3
_LEAST_SQUARE = 1e-4


@dataclass(frozen=True)
class Reference:
    """What is known of the time in which a model learned.

    Attributes:
        sketches: By column.
        history: By column: bins from the first of the training window on; the first has phase 0.
        period: Bins of a rhythm.
    """

    sketches: Mapping[str, Sketch]
    history: Mapping[str, Binned]
    period: int


@dataclass(frozen=True)
class Tested:
    """One aspect of one column."""

    p: float
    aspect: Aspect
    effect: float
    counts: bool  # whether the effect is large enough to matter
    detail: str
    smallest: float | None = None


def tested(
    reference: Reference, window: Mapping[str, Binned], phase: int, test: DriftTest
) -> dict[str, list[Tested]]:
    """Aspects of each column; none where there is not enough data."""
    names = [name for name in reference.sketches if name in window]
    found: dict[str, list[Tested]] = {name: [] for name in names}
    enough = [name for name in names if _enough(reference, name, window[name], test)]
    numbers = [name for name in enough if isinstance(reference.sketches[name], NumberSketch)]
    texts = [name for name in enough if name not in numbers]
    if numbers:
        for name, aspects in zip(numbers, _numeric(reference, window, numbers, phase, test), strict=True):
            found[name] += aspects
    for name in texts:
        found[name] += _categories(reference, window[name], name, phase, test)
    for name, missing in _missing(reference, window, enough, phase, test):
        found[name].append(missing)
    return found


def _enough(reference: Reference, name: str, window: Binned, test: DriftTest) -> bool:
    # A column that is missing all of a sudden has no rows to test, and that is the finding.
    rows = np.sum(window.rows)
    covered = np.mean(window.rows > 0)
    cycles = np.sum(reference.history[name].rows > 0) / reference.period
    gone = np.sum(window.present) < test.min_rows and np.sum(window.missing) < test.min_rows
    return bool(
        rows >= test.min_rows and covered >= test.min_cover and cycles >= test.min_cycles and not gone
    )


def _numeric(
    reference: Reference, window: Mapping[str, Binned], names: list[str], phase: int, test: DriftTest
) -> list[list[Tested]]:
    """Location and spread of numeric columns, all at once."""
    past = [reference.history[name] for name in names]
    now = [window[name] for name in names]
    location = History(_columns(past, _mean), reference.period)
    current = _columns(now, _mean)
    rows = np.array([np.sum(each.present) for each in now])
    length = len(current)

    usual = _variances(past, location, 0, within=True)
    varied = _mean_seen(usual)
    floor = np.maximum(varied, _LEAST_VARIANCE) / np.maximum(rows, 1)
    learned = calibration.spread(location, length)
    shift = calibration.mean_of(location, current, phase).gap
    error = np.sqrt(np.maximum(learned.variance, floor))
    before = calibration.earlier(location, length, phase).gap
    p_location = calibration.p_values(
        shift / error, learned.freedom, before / np.sqrt(np.maximum(learned.within, floor))
    )
    # t at the level that a single test has, and one more standard error for a power of 0.8.
    smallest = (-_t_quantile(test.false_alarm_rate / 2, learned.freedom) + 0.84) * error

    squares = History(usual, reference.period)
    p_spread, ratio = _spread_of(squares, _variances(now, location, phase, within=False), rows, phase)
    aspects = []
    for number in range(len(names)):
        both = []
        if np.isfinite(p_location[number]):
            both.append(
                Tested(
                    float(p_location[number]),
                    "location",
                    float(shift[number]),
                    bool(abs(shift[number]) >= test.min_effect),
                    f"{'higher' if shift[number] > 0 else 'lower'} by {abs(shift[number]):.2f} standard deviations",
                    float(smallest[number]),
                )
            )
            both.append(
                Tested(
                    float(p_spread[number]),
                    "spread",
                    float(ratio[number]),
                    bool(abs(ratio[number]) >= test.min_effect),
                    f"scatters {np.exp(ratio[number]):.2f} times as much",
                )
            )
        aspects.append(both)
    return aspects


def _spread_of(squares: History, current: Array, rows: Array, phase: int) -> tuple[Array, Array]:
    """p-values of the mean square, and the logarithm of the ratio of standard deviations, shapes (k,).

    A mean of squares of a series with memory is skewed. Of the powers that make such a quadratic form normal
    (Jensen and Solomon, 1972), the one for a first-order autoregression is 0, the logarithm. For the same reason its
    variance is known worse than that of a normal series: of d degrees of freedom the excess kurtosis is about
    30 / d there, which adds 15 / d to the relative variance of each window's say.
    """
    length, cycles = len(current), squares.cycles
    learned = calibration.spread(squares, length)
    level = np.maximum(_mean_seen(squares.values), _LEAST_VARIANCE)
    relative = np.maximum(learned.alone / level**2, 2 / np.maximum(rows, 1))
    freedom = 1 / (1 / learned.freedom + 15 * relative / 2 * length / len(squares.values))
    now, before = calibration.mean_of(squares, current, phase), calibration.earlier(squares, length, phase)
    ratio = _log_ratio(now.expected + now.gap, now.expected)
    others = before.expected - before.gap / (cycles - 1)

    def studentised(ratio: Array, cycles: float) -> Array:
        # The mean of a logarithm lies below the logarithm of the mean by half the relative variance.
        centred: Array = ratio + relative / 2 * (1 - 1 / cycles)
        error: Array = np.sqrt(relative * (1 + 1 / cycles))
        return centred / error

    past = studentised(_log_ratio(before.expected + before.gap, others), cycles - 1)
    return calibration.p_values(studentised(ratio, cycles), freedom, past), ratio / 2


def _log_ratio(over: Array, under: Array) -> Array:
    ratio: Array = np.log(np.maximum(over, _LEAST_SQUARE) / np.maximum(under, _LEAST_SQUARE))
    return ratio


def _missing(
    reference: Reference, window: Mapping[str, Binned], names: list[str], phase: int, test: DriftTest
) -> list[tuple[str, Tested]]:
    """Share of missing values, of the columns where any is or was."""
    names = [
        name
        for name in names
        if np.sum(window[name].missing) > 0 or np.sum(reference.history[name].missing) > 0
    ]
    if not names:
        return []
    past, now = [reference.history[name] for name in names], [window[name] for name in names]
    p, gap = _shares(
        History(_columns(past, _missing_share), reference.period),
        _columns(now, _missing_share),
        np.array([np.sum(each.rows) for each in now]),
        phase,
    )
    return [
        (
            name,
            Tested(
                float(p[number]),
                "missing",
                float(gap[number]),
                bool(abs(gap[number]) >= test.min_share),
                f"missing {gap[number]:+.1%} of rows",
            ),
        )
        for number, name in enumerate(names)
    ]


def _categories(reference: Reference, window: Binned, name: str, phase: int, test: DriftTest) -> list[Tested]:
    """The share of each category."""
    sketch, past = reference.sketches[name], reference.history[name]
    p, gap = _shares(
        History(past.shares, reference.period),
        window.shares,
        np.full(len(sketch.shares), np.sum(window.present)),
        phase,
    )
    labels = getattr(sketch, "categories", ())
    totals = window.cells
    return [
        Tested(
            float(p[number]),
            "category",
            float(gap[number]),
            bool(abs(gap[number]) >= test.min_share),
            f"category {label} {'vanished' if totals[number] == 0 and gap[number] < 0 else f'{gap[number]:+.1%} of rows'}",
        )
        for number, label in enumerate(labels)
        if np.isfinite(p[number])
    ]


def _shares(history: History, current: Array, rows: Array, phase: int) -> tuple[Array, Array]:
    """p-values and changes of shares, shapes (k,). No surer than independent rows would be."""
    length = len(current)
    learned = calibration.spread(history, length, lend=False)
    now = calibration.mean_of(history, current, phase)
    usual = (np.nan_to_num(now.expected) * rows + 0.5) / (rows + 1)
    floor = usual * (1 - usual) / np.maximum(rows, 1)
    return (
        calibration.p_values(
            now.gap / np.sqrt(np.maximum(learned.variance, floor)),
            learned.freedom,
            calibration.earlier(history, length, phase).gap / np.sqrt(np.maximum(learned.within, floor)),
        ),
        now.gap,
    )


def _variances(columns: list[Binned], location: History, phase: int, within: bool) -> Array:
    """Mean square of scores about the profile of training, shape (bins, k), whatever the profile was learned of.

    A historical bin had a part in its own profile, so it lies closer to it than a new one does; both
    are brought to what they would be about the true profile.
    """
    mean = _columns(columns, _mean)
    phases = (phase + np.arange(len(mean))) % location.period
    inside = np.maximum(_columns(columns, _mean_square) - mean**2, 0.0)
    between = (mean - location.profile[phases]) ** 2
    return inside + between / (1 - 1 / location.cycles if within else 1 + 1 / location.cycles)


def _mean_seen(values: Array) -> Array:
    """Mean over bins of what was seen, shape (k,); 0 where nothing was."""
    seen = np.isfinite(values)
    mean: Array = np.where(seen, values, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    return mean


def _columns(columns: Sequence[Binned], what: Callable[[Binned], Array]) -> Array:
    return np.stack([what(column) for column in columns], axis=1)


def _mean(column: Binned) -> Array:
    return column.first


def _mean_square(column: Binned) -> Array:
    return column.second


def _missing_share(column: Binned) -> Array:
    return over(column.missing, column.rows)


def _t_quantile(level: float, freedom: Array) -> Array:
    from scipy import stats

    quantile: Array = stats.t.ppf(level, freedom)
    return quantile
