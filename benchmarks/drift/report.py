"""How often drift is seen where there is none, and how soon where there is: `make bench-drift`.

    python -m benchmarks.drift.report [--quick] [--resume] [--seed N] [--only TEXT]

The functions under test are those that monitor runs. Beside them stand Evidently's defaults and ±3
standard deviations of the history's chunks, on the same data. ``RESULTS.md`` and the plot are written from
``results.json``, which is kept as the run goes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.drift import page
from benchmarks.drift.methods import DAY, HISTORY, WEEK, Looked, alarm_day
from benchmarks.drift.worlds import (
    World,
    categories,
    concept,
    fleet,
    make,
    scattered,
    shifted,
    stuck,
)
from models.specs import Monitor

SEED = 20261121
HERE = Path(__file__).parent
NULL_REPEATS, HARDER_REPEATS, POWER_REPEATS, DELAY_REPEATS = 300, 150, 60, 20
RIVAL_REPEATS = 50  # of the same data; their rates are far from 2 %
WATCHED_DAYS = 14
MONITOR = Monitor()


@dataclass
class Row:
    """Shares of repeats in which a method flagged a check.

    Attributes:
        truth: What has happened.
        shares: By method and window.
        delay_days: Median of days until the alarm where it came, and the share of repeats in which it came.
    """

    truth: str
    changed: bool
    phi: float
    features: int
    repeats: int
    shares: dict[str, float] = field(default_factory=dict)
    delay_days: float | None = None
    alarmed: float | None = None


@dataclass(frozen=True)
class Cell:
    truth: str
    changed: bool
    phi: float
    features: int
    repeats: int
    world: Callable[[np.random.Generator, int], World]
    rivals: bool = True
    delay: bool = False
    column: str | None = None  # the only one that counts; None: any


def cells() -> Iterator[Cell]:
    for phi in (0.9, 0.98):
        for features in (10, 50):
            yield Cell(
                "nothing", False, phi, features, NULL_REPEATS,
                lambda rng, days, phi=phi, features=features: make(rng, phi, features, days),
            )  # fmt: skip
    for phi in (0.9, 0.98):
        for name, change in (
            ("one feature shifted by 0.5 sd", shifted(0.5)),
            ("one feature shifted by 1 sd", shifted(1.0)),
            ("one feature shifted by 2 sd", shifted(2.0)),
            ("one feature scatters twice as much", scattered(2.0)),
            ("one sensor stuck", stuck),
        ):
            yield Cell(name, True, phi, 10, POWER_REPEATS,
                       lambda rng, days, phi=phi, change=change: make(rng, phi, 10, days, change), delay=True)  # fmt: skip
        yield Cell("a category vanished", True, phi, 1, POWER_REPEATS,
                   lambda rng, days, phi=phi: categories(rng, phi, days, gone=True), delay=True)  # fmt: skip
        yield Cell("4 hotter machines join 8", True, phi, 10, 30,
                   lambda rng, days, phi=phi: fleet(rng, phi, 10, days, newcomers=True))  # fmt: skip
        yield Cell("concept drift: seen in the inputs", True, phi, 10, POWER_REPEATS,
                   lambda rng, days, phi=phi: _without_error(concept(rng, phi, days, changed=True)))  # fmt: skip
        yield Cell("concept drift: seen in the realised error", True, phi, 10, POWER_REPEATS,
                   lambda rng, days, phi=phi: concept(rng, phi, days, changed=True), delay=True, column="error")  # fmt: skip
    for phi in (0.9, 0.98):
        yield Cell("nothing; features share half of their variance", False, phi, 50, HARDER_REPEATS,
                   lambda rng, days, phi=phi: make(rng, phi, 50, days, common=0.5), rivals=False)  # fmt: skip
        yield Cell("nothing; heavy tails (t, 4)", False, phi, 10, HARDER_REPEATS,
                   lambda rng, days, phi=phi: make(rng, phi, 10, days, heavy=True), rivals=False)  # fmt: skip
        yield Cell("nothing; four categories", False, phi, 1, HARDER_REPEATS,
                   lambda rng, days, phi=phi: categories(rng, phi, days, gone=False))  # fmt: skip


def _without_error(world: World) -> World:
    return World({name: values for name, values in world.columns.items() if name != "error"}, world.hour)


def measure(cell: Cell, repeats: int, seed: int) -> Row:
    row = Row(cell.truth, cell.changed, cell.phi, cell.features, repeats)
    counts: dict[str, int] = {}
    delays: list[int | None] = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat, int(cell.phi * 100), cell.features, len(cell.truth)])
        watched = cell.delay and repeat < DELAY_REPEATS
        looked = Looked(cell.world(rng, WATCHED_DAYS if watched else 7))
        end = HISTORY + WEEK
        place = list(looked.reference.sketches).index(cell.column) if cell.column else None

        def flagged(columns: list[bool], place: int | None = place) -> bool:
            return any(columns) if place is None else bool(columns[place])

        day, week = looked.headrace(HISTORY + DAY, DAY), looked.headrace(end, WEEK)
        seen = {
            "headrace day": [each.drifted for each in day],
            "headrace week": [each.drifted for each in week],
        }
        seen["headrace both"] = [each.drifted for each in looked.both(end)]
        for name, columns in seen.items():
            counts[name] = counts.get(name, 0) + flagged(columns)
        if cell.rivals and cell.column is None and repeat < RIVAL_REPEATS:
            for name, at, length in (("day", HISTORY + DAY, DAY), ("week", end, WEEK)):
                evidently = looked.evidently(at, length)
                found = {
                    f"evidently {name}, any column": bool(evidently.any()),
                    f"evidently {name}, half of them": bool(evidently.mean() >= 0.5),
                    f"3 sigma {name}": bool(looked.three_sigma(at, length).any()),
                }
                for method, value in found.items():
                    counts[method] = counts.get(method, 0) + value
        if watched:
            checks = [
                flagged([each.drifted for each in looked.both(HISTORY + DAY * (number + 1))])
                for number in range(WATCHED_DAYS)
            ]
            delays.append(alarm_day(checks, MONITOR.needed, MONITOR.of))
    looks = {name: repeats if name.startswith("headrace") else min(repeats, RIVAL_REPEATS) for name in counts}
    row.shares = {name: count / looks[name] for name, count in counts.items()}
    if delays:
        came = [delay for delay in delays if delay is not None]
        row.alarmed = len(came) / len(delays)
        row.delay_days = float(np.median(came)) if came else None
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 repeats each; nothing is kept")
    parser.add_argument("--page", action="store_true", help="write the page anew from results.json")
    parser.add_argument("--resume", action="store_true", help="go on where results.json ends")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", default="", help="worlds whose truth has this text; nothing is kept")
    given = parser.parse_args()
    kept = HERE / "results.json"
    if given.page:
        page.write(json.loads(kept.read_text("utf-8")), HERE)
        return
    before = (
        json.loads(kept.read_text("utf-8")) if given.resume and kept.exists() else {"seconds": 0, "rows": []}
    )
    if given.resume and before.get("seed", given.seed) != given.seed:
        parser.error(f"results.json is of seed {before['seed']}: go on with --seed {before['seed']}")
    keeps = not (given.quick or given.only)
    began, rows = time.perf_counter() - before["seconds"], before["rows"]
    for cell in [each for each in cells() if given.only in each.truth][len(rows) :]:
        start = time.perf_counter()
        rows.append(asdict(measure(cell, 10 if given.quick else cell.repeats, given.seed)))
        shares = ", ".join(f"{name} {share:.1%}" for name, share in rows[-1]["shares"].items())
        delay = rows[-1]["delay_days"]
        print(
            f"{cell.truth}, φ={cell.phi}, {cell.features} features: {shares}"
            + (f"; alarm in {rows[-1]['alarmed']:.0%}, after {delay} days" if cell.delay else "")
            + f" ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
        if keeps:
            found = {"seed": given.seed, "seconds": round(time.perf_counter() - began), "rows": rows}
            kept.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if keeps:
        page.write(json.loads(kept.read_text("utf-8")), HERE)


if __name__ == "__main__":
    main()
