"""What was counted, and where it is kept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results.json"
SUPERIOR = "superior"
#: Worse by the whole margin under the rule that allows less: a promotion is false, just.
NOT_INFERIOR = "no worse by the margin"
#: A better ranking, and the share of right decisions worse by the whole margin: false all the same.
ALARMS_WORSE = "alarms worse by the margin"


@dataclass(frozen=True)
class Cell:
    """How often each method promoted in one world.

    Attributes:
        rule: One of the rules above.
        effect: What the candidate is better by, in the world's unit; below 0: worse.
        promoted: Times that each method promoted, of ``repeats``.
    """

    world: str
    rule: str
    rows: int
    phi: float
    effect: float
    repeats: int
    promoted: dict[str, int]

    def share(self, method: str) -> float:
        return self.promoted[method] / self.repeats

    def error(self, method: str) -> float:
        """Monte-Carlo standard error of the share."""
        share = self.share(method)
        return float(np.sqrt(share * (1 - share) / self.repeats))

    @property
    def is_null(self) -> bool:
        """Whether a promotion is false."""
        return self.effect <= 0 or self.rule == ALARMS_WORSE


def read() -> list[Cell]:
    if not RESULTS.is_file():
        return []
    return [Cell(**cell) for cell in json.loads(RESULTS.read_text("utf-8"))]


def write(cells: list[Cell]) -> None:
    RESULTS.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n", "utf-8")
