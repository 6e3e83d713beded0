"""Measure how often the gate errs, in worlds where the truth is known, beside `>=` and a naive t-test.

    python -m benchmarks.gates.report [--quick] [--only forecasts,detectors,decisions]

The functions under test are the gate's own: :func:`pipelines.evaluate.comparison.champion_checks` on
the tasks that models use. A candidate is promoted where all of its checks pass. ``results.json``
keeps the counts, ``RESULTS.md`` and the plots are written from it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from scipy import stats

from benchmarks.gates import page
from benchmarks.gates.cells import NOT_INFERIOR, Cell, read, write
from benchmarks.gates.worlds import WORLDS, World
from models.base import Array
from models.specs import Gate
from pipelines.evaluate.comparison import champion_checks
from pipelines.references import Outcome

SEED = 20260101
ROWS, PHIS = (200, 500, 2000), (0.0, 0.9)
REPEATS = (2000, 300)  # holdouts of an equal candidate, and of a better one
LEVEL = 0.025  # one-sided, of the gate and of the tests beside it


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40 holdouts each; nothing is kept")
    parser.add_argument("--only", default="", help="worlds, with commas between; default: all")
    given = parser.parse_args()
    names = [name for name in given.only.split(",") if name] or [world.name for world in WORLDS]
    if unknown := sorted(set(names) - {world.name for world in WORLDS}):
        parser.error(f"--only: no worlds {unknown}; there are {[world.name for world in WORLDS]}")
    kept = [] if given.quick else [cell for cell in read() if cell.world not in names]
    console = Console()
    for world in WORLDS:
        if world.name not in names:
            continue
        for rule, rows, phi, effect, repeats in cells(world, 40 if given.quick else None):
            begun = time.perf_counter()
            cell = measure(world, rule, rows, phi, effect, repeats)
            kept.append(cell)
            shares = ", ".join(f"{name} {count / repeats:.1%}" for name, count in cell.promoted.items())
            console.print(
                f"{world.name} {rule} n={rows} phi={phi} effect={effect:+g}: {shares} "
                f"({time.perf_counter() - begun:.0f} s)"
            )
            if not given.quick:
                write(kept)
    if not given.quick:
        page.write(read(), SEED)
        console.print(f"written: {page.PAGE}")


def cells(world: World, repeats: int | None) -> Iterator[tuple[str, int, float, float, int]]:
    for rows in ROWS:
        # A bootstrap of many rows takes its time: half the holdouts do.
        share = 2 if world.name == "detectors" and rows >= 2000 else 1
        equal, other = (repeats or count // share for count in REPEATS)
        for phi in PHIS:
            yield "superior", rows, phi, 0.0, equal
            # Whoever is worse is promoted by far less often than an equal one: fewer holdouts tell.
            yield "superior", rows, phi, world.worse, repeats or equal // 2
            for effect in world.better:
                yield "superior", rows, phi, effect, other
            if world.name == "forecasts":
                # The margin, 0.01 of WAPE, is one sd of the loss difference here.
                yield NOT_INFERIOR, rows, phi, -1.0, equal


def measure(world: World, rule: str, rows: int, phi: float, effect: float, repeats: int) -> Cell:
    """Let each method decide on the same holdouts. The seed hangs on the cell alone."""
    random = np.random.default_rng([SEED, rows, int(phi * 100), int((effect + 10) * 100), len(world.name)])
    gate = world.gate
    if rule == NOT_INFERIOR:
        gate = Gate(bounds=gate.bounds, champion_rule="not_inferior", benefit="it is measured here")
    promoted: dict[str, int] = {}
    for _ in range(repeats):
        part, candidate, champion = world.case(random, rows, phi, effect)
        checks = champion_checks(world.task, part, candidate, champion, gate, world.plan)
        bound = checks[0].bound or 0.0
        gains = world.row_gain(world.task, part, candidate.answers, champion.answers)
        decided = {
            "gate": all(check.outcome is Outcome.PASS for check in checks),
            ">=": (checks[0].figure or 0.0) >= bound,
            "naive t-test": _naive(gains, bound),
        }
        if world.name == "forecasts" and effect == 0:
            decided["Bartlett HAC"] = _bartlett(
                part.targets["load"], champion.answers["forecast"], candidate.answers["forecast"]
            )
        for name, yes in decided.items():
            promoted[name] = promoted.get(name, 0) + int(yes)
    return Cell(world.name, rule, rows, phi, effect, repeats, promoted)


def _naive(gains: Array, bound: float) -> bool:
    """The paired t-test that takes rows for independent."""
    error = float(np.std(gains, ddof=1)) / np.sqrt(len(gains))
    return bool(np.mean(gains) - bound > error * stats.t.ppf(1 - LEVEL, len(gains) - 1))


def _bartlett(truth: Array, theirs: Array, ours: Array) -> bool:
    """Diebold-Mariano as statsmodels has it: Bartlett weights, and the small-sample correction."""
    from statsmodels.tsa.stattools import diebold_mariano_test

    found = diebold_mariano_test(truth, theirs, ours, criterion="mae", harvey_adj=True)
    return bool(found.statistic > 0 and found.pvalue < 2 * LEVEL)


if __name__ == "__main__":
    main()
