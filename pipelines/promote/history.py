"""The history of one model's pointer: every move with how long it served, and what led to none. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from feature_repo.datasets import Frozen
from pipelines.promote.records import PRODUCTION, LedgerLine, State, story


class Entry(Frozen):
    """One line of the history.

    Attributes:
        until: When the next move ended this one's time in production; None: it has not ended, or
            the line moved nothing.
        served: How long ``line.to_version`` was in production; None where nothing was moved to.
        proof: What was seen of the version's answers after the move; None: nobody looked.
    """

    line: LedgerLine
    until: datetime | None = None
    served: timedelta | None = None
    proof: LedgerLine | None = None

    @property
    def moved(self) -> bool:
        return self.line.state is State.MOVED

    def to_json(self) -> dict[str, Any]:
        proof = self.proof
        return self.line.model_dump(mode="json") | {
            "served_seconds": None if self.served is None else self.served.total_seconds(),
            "until": None if self.until is None else self.until.isoformat(),
            "answered": None if proof is None else proof.state is State.ANSWERED,
            "proof": None if proof is None else proof.reason,
        }


def entries(rows: Iterable[LedgerLine], now: datetime, alias: str = PRODUCTION) -> tuple[Entry, ...]:
    """The rows of one model as people read them, oldest first.

    Args:
        rows: All rows of the model.
        now: Up to when the current version has served.
    """
    lines = list(rows)
    told = story(lines, alias)
    found = []
    for line, following in zip_longest(told.moves, told.moves[1:]):
        until = following.at if following else None
        served = None if line.to_version is None else max((until or now) - line.at, timedelta(0))
        found.append(Entry(line=line, until=until, served=served, proof=told.proofs.get(line.sequence)))
    found += [Entry(line=line) for line in told.abandoned]
    found += [Entry(line=line) for line in lines if line.state is State.DECIDED and line.alias == alias]
    # Moves stay in the order of their numbers: it is true even where the clocks of two machines differ.
    return tuple(sorted(found, key=lambda entry: (entry.line.at, not entry.moved)))


def spoken(span: timedelta) -> str:
    """A length of time as people say it: its two largest units."""
    seconds = int(span.total_seconds())
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
