"""How often the rollout's statistics are wrong where there is nothing to find, and how soon they find what is there.

    python -m benchmarks.serving.sequential [--streams 4000]

Each stream of paired differences of losses is looked at after every value. Beside the confidence sequence stands
what it replaces: a 95 % interval of fixed size that is looked at as often. For the watch of a new champion: how
often a switch to one that fails as often is undone, and after how many requests one that fails more.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipelines.rollout.sequential import cautious_share, evidence_against, mean_sequence
from pipelines.rollout.watch import Limits

_LENGTH = 5_000
_CHUNK = 250
_SEED = 20260101
_FIRST_LOOK = 30
_ALPHA = 0.05


def differences(random: np.random.Generator, streams: int, mean: float, kind: str) -> NDArray[np.float64]:
    """Differences of losses in [-1, 1], shape (streams, length)."""
    shape = (streams, _LENGTH)
    if kind == "decisions":  # right or wrong: most agree
        found = random.choice([-1.0, 0.0, 1.0], size=shape, p=[0.05 - mean / 2, 0.9, 0.05 + mean / 2])
        return np.asarray(found)
    return np.clip(random.normal(mean, 0.1, shape), -1, 1)


def looked_at(streams: int, mean: float, kind: str) -> tuple[float, float, float]:
    """Share of streams in which each was ever wrong about the mean, and the median of values until it excludes 0."""
    random = np.random.default_rng(_SEED)
    wrong, fixed_wrong, until = 0, 0, []
    count = np.arange(1, _LENGTH + 1)
    for _ in range(0, streams, _CHUNK):
        values = differences(random, _CHUNK, mean, kind)
        lower, upper = mean_sequence(values, _ALPHA)
        wrong += int(np.any((lower > mean) | (upper < mean), axis=1).sum())
        running = np.cumsum(values, axis=1) / count
        spread = np.sqrt(np.maximum(np.cumsum(values**2, axis=1) / count - running**2, 0.0) / count)
        outside = np.abs(running - mean) > 1.96 * spread
        fixed_wrong += int(np.any(outside[:, _FIRST_LOOK:], axis=1).sum())
        found = lower > 0
        until += np.where(found.any(axis=1), found.argmax(axis=1) + 1, np.inf).tolist()
    return wrong / streams, fixed_wrong / streams, float(np.median(until))


def alarms(streams: int, before: float, after: float, requests: int) -> tuple[float, float]:
    """Share of switches that are undone within so many requests, and the median of requests until then.

    The version before was asked 1,000 times; looks are after every 10 requests.
    """
    random, limits = np.random.default_rng(_SEED), Limits()
    until = []
    for _ in range(streams):
        tolerated = limits.allowed + cautious_share(int(random.binomial(1000, before)), 1000)
        errors = np.cumsum(random.random(requests) < after)
        looks = (
            n
            for n in range(10, requests + 1, 10)
            if errors[n - 1] >= limits.min_errors
            and evidence_against(int(errors[n - 1]), n, tolerated) >= 1 / limits.false_alarms
        )
        until.append(next(looks, np.inf))
    return float(np.mean(np.isfinite(until))), float(np.median(until))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=int, default=4000)
    given = parser.parse_args()
    console = Console(width=110)
    table = Table(
        *("losses", "true difference", "sequence ever wrong", "fixed 95 % ever wrong", "values until found"),
        title=f"Looked at after each of {_LENGTH} values, {given.streams} streams, alpha {_ALPHA}",
    )
    for kind in ("decisions", "scores"):
        for mean in (0.0, 0.02, 0.05):
            wrong, fixed, until = looked_at(given.streams, mean, kind)
            found = f"{until:.0f}" if np.isfinite(until) else "never"
            table.add_row(kind, f"{mean:g}", f"{wrong:.2%}", f"{fixed:.1%}", found if mean else "")
    console.print(table)
    table = Table("before", "after", "undone", "requests until then", title="A new champion is watched")
    streams = max(1, given.streams // 10)
    for before, after in (
        (0.0, 0.0),
        (0.01, 0.01),
        (0.1, 0.1),
        (0.0, 0.1),
        (0.01, 0.2),
        (0.0, 0.5),
        (0.0, 1.0),
    ):
        undone, until = alarms(streams, before, after, 3000)
        told = f"{until:.0f}" if np.isfinite(until) else ""
        table.add_row(f"{before:.0%}", f"{after:.0%}", f"{undone:.1%}", told)
    console.print(table)


if __name__ == "__main__":
    main()
