"""Measure how often the gate errs, in worlds where the truth is known, beside `>=` and a naive t-test.

    python -m benchmarks.gates.report [--quick] [--only forecasts,detectors,decisions]

The functions under test are the gate's own: :func:`pipelines.evaluate.comparison.champion_checks` on
the tasks that models use. A candidate is promoted where all of its checks pass. ``results.json``
keeps the counts, ``RESULTS.md`` and the plots are written from it. Of the test over time the size is
computed besides, without simulation: :mod:`benchmarks.gates.exact`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from rich.console import Console
from scipy import stats

from benchmarks.gates import page
from benchmarks.gates.cells import ALARMS_WORSE, NOT_INFERIOR, SUPERIOR, Cell, read, write
from benchmarks.gates.exact import LEVEL
from benchmarks.gates.worlds import WORLDS, World, too_many_alarms
from models.base import Array
from models.specs import Gate
from pipelines.evaluate.checks import Check
from pipelines.evaluate.comparison import champion_checks
from pipelines.references import Outcome

SEED = 20260101
ROWS, PHIS = (200, 500, 2000), (0.0, 0.9)
REPEATS = (2000, 300)  # holdouts of an equal candidate, and of a better one


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
    detectors = world.name == "detectors"
    for rows in ROWS:
        # A bootstrap of many rows takes its time: half the holdouts do.
        share = 2 if detectors and rows >= 2000 else 1
        equal, other = (repeats or count // share for count in REPEATS)
        fewer = repeats or equal // 2
        for phi in PHIS:
            yield SUPERIOR, rows, phi, 0.0, equal
            # Whoever is worse is promoted by far less often than an equal one: fewer holdouts tell.
            yield SUPERIOR, rows, phi, world.worse, fewer
            for effect in world.better:
                yield SUPERIOR, rows, phi, effect, other
            yield NOT_INFERIOR, rows, phi, world.at_margin, fewer if detectors else equal
            if detectors:
                yield ALARMS_WORSE, rows, phi, max(world.better), fewer


def measure(world: World, rule: str, rows: int, phi: float, effect: float, repeats: int) -> Cell:
    """Let each method decide on the same holdouts. The seed hangs on the cell alone."""
    random = np.random.default_rng([SEED, rows, int(phi * 100), int((effect + 10) * 100), len(world.name)])
    gate = world.gate
    if rule == NOT_INFERIOR:
        asked = {"champion_rule": "not_inferior", "champion_margin": world.margin, "benefit": "measured here"}
        gate = Gate.model_validate(gate.model_dump() | asked)
    if rule == ALARMS_WORSE:
        world = replace(world, draw=too_many_alarms)
    promoted: dict[str, int] = {}
    for _ in range(repeats):
        part, candidate, champion = world.case(random, rows, phi, effect)
        checks = champion_checks(world.task, part, candidate, champion, gate, world.plan)
        gains = world.row_gain(world.task, part, candidate.answers, champion.answers)
        for name, yes in _decided(rule, checks, gains).items():
            promoted[name] = promoted.get(name, 0) + int(yes)
        if world.name == "forecasts" and effect == 0:
            yes = _bartlett(part.targets["load"], champion.answers["forecast"], candidate.answers["forecast"])
            promoted["Bartlett HAC"] = promoted.get("Bartlett HAC", 0) + int(yes)
    return Cell(world.name, rule, rows, phi, effect, repeats, promoted)


def _decided(rule: str, checks: tuple[Check, ...], gains: Array) -> dict[str, bool]:
    """Whether each method promotes. Detectors are judged twice: by their ranking and by their decisions."""
    ranking, *decisions = checks
    # Rows' gains of detectors are of right decisions: a margin in average precision says nothing of them.
    judged = decisions[0] if decisions and rule == ALARMS_WORSE else ranking
    bound = judged.bound or 0.0
    decided = {
        "gate": all(check.outcome is Outcome.PASS for check in checks),
        ">=": (judged.figure or 0.0) >= bound,
    }
    if not (decisions and rule == NOT_INFERIOR):
        decided["naive t-test"] = _naive(gains, bound)
    if decisions:
        decided["its bootstrap alone"] = ranking.outcome is Outcome.PASS
        decided["its McNemar alone"] = decisions[0].outcome is Outcome.PASS
    return decided


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
