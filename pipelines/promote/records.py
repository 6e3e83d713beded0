"""The ledger's rows, and what a person answered. Pure: no lake, no registry.

A move is two rows of one number: what was intended, before the alias is touched, and how it ended.
A number is given out once per alias, so of two who would move at the same time one is told so.
Further rows tell of a move's proof (the server answered with the version), and of people's decisions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from feature_repo.datasets import Frozen
from pipelines.errors import PromotionError
from pipelines.references import Reference

PRODUCTION, PREVIOUS, CHALLENGER = "production", "previous", "challenger"


class Action(StrEnum):
    PROMOTE = "promote"
    PROMOTE_BY_HAND = "promote by hand"  # the gate was passed; a person moved the alias
    OVERRIDE = "override"  # the gate was not passed; a person moved the alias all the same
    ROLLBACK = "rollback"
    MOVED_OUTSIDE = "moved outside"  # in the MLflow UI or over its API
    ROLLED_BACK_OUTSIDE = "rolled back outside"
    CHALLENGE = "challenge"  # of the alias challenger: a rollout began
    ADVANCE = "advance"  # the challenger gets more traffic; no pointer moved
    WITHDRAW = "withdraw"  # the challenger gets none any more
    APPROVE = "approve"
    REFUSE = "refuse"
    TIME_OUT = "not answered in time"


ROLLBACKS = frozenset({Action.ROLLBACK, Action.ROLLED_BACK_OUTSIDE})


class State(StrEnum):
    INTENDED = "intended"
    MOVED = "moved"
    ABANDONED = "abandoned"
    ANSWERED = "answered"  # the proof of a move: the version answers
    SILENT = "silent"  # the proof was sought, and the version did not answer
    DECIDED = "decided"  # a person's decision on a candidate; no pointer moved


class LedgerLine(Frozen):
    """One row: a move of an alias, its proof, or a decision."""

    at: datetime
    registered_name: str
    alias: str = PRODUCTION
    sequence: int = 0  # number of the move; 0: none, or from before moves were numbered
    state: State = State.MOVED
    action: Action
    actor: str
    from_version: str | None = None
    to_version: str | None = None  # None: the alias was removed
    reason: str
    verdict: str | None = None
    evidence_url: str | None = None
    approved_by: str | None = None
    approved_at: datetime | None = None
    work: str = ""  # names what was done, so that a rerun knows its own intention again
    mover: str = ""  # host/process that carries the move out


@dataclass(frozen=True)
class Story:
    """What the ledger tells of one alias.

    Attributes:
        moves: Those that were carried out, oldest first.
        intention: One that has begun and is not known to have ended.
        abandoned: Those that never moved the alias.
        proofs: Rows of state answered or silent, by the move's number; the last one counts.
    """

    moves: tuple[LedgerLine, ...]
    intention: LedgerLine | None
    abandoned: tuple[LedgerLine, ...]
    proofs: dict[int, LedgerLine]
    next_sequence: int

    @property
    def current(self) -> str | None:
        """The version that the alias names, by the last move."""
        return self.moves[-1].to_version if self.moves else None

    def before(self, version: str | None) -> str | None:
        """The last version that served and is not this one."""
        served = (line.from_version for line in reversed(self.moves))
        return next((each for each in served if each is not None and each != version), None)


class ApprovalRef(Reference):
    """What a person answered, or that nobody did.

    Attributes:
        by: Who; None: the time ran out.
    """

    approved: bool
    by: str | None
    at: datetime

    def told(self) -> str:
        moment = f"{self.at:%Y-%m-%d %H:%M}Z"
        if self.by is None:
            return f"nobody answered until {moment}, which counts as a refusal"
        return f"{'approved' if self.approved else 'refused'} by {self.by} at {moment}"


class Override(Reference):
    """A person's word for a candidate that its gate did not pass."""

    by: str
    reason: str

    @classmethod
    def of(cls, by: str | None, reason: str | None) -> Override | None:
        """None where neither is given.

        Raises:
            PromotionError: one is given without the other.
        """
        words = ((by or "").strip(), (reason or "").strip())
        if not any(words):
            return None
        if not all(words):
            raise PromotionError(
                f"an override asks for a name and a reason: override_by is {by!r}, override_reason is {reason!r}"
            )
        return cls(by=words[0], reason=words[1])


def story(lines: Iterable[LedgerLine], alias: str) -> Story:
    """Put the rows of one model in order."""
    mine = [line for line in lines if line.alias == alias and line.state is not State.DECIDED]
    by_state = {
        state: sorted((line for line in mine if line.state is state), key=lambda line: line.sequence)
        for state in State
    }
    ended = {line.sequence for state in (State.MOVED, State.ABANDONED) for line in by_state[state]}
    pending = [line for line in by_state[State.INTENDED] if line.sequence not in ended]
    return Story(
        moves=tuple(by_state[State.MOVED]),
        intention=pending[-1] if pending else None,
        abandoned=tuple(by_state[State.ABANDONED]),
        proofs={
            line.sequence: line
            for line in sorted([*by_state[State.ANSWERED], *by_state[State.SILENT]], key=lambda line: line.at)
        },
        next_sequence=1 + max((line.sequence for line in mine), default=0),
    )
