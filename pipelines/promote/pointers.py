"""Moves of one alias, told by the ledger, whatever dies on the way.

The registry is the truth of what serves, the ledger the story of it. A move is: intention to the
ledger, ``previous``, the alias itself (one atomic call), tags, end to the ledger. Before each move,
and from time to time, the story is settled with the truth: an intention that was cut short is ended
by what the alias says, and a move that nobody told is told. Nothing here moves an alias to repair
anything but ``previous``: what serves is changed by those who decided it, and by no one else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil

from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import Registry, RegistryRefusedError
from pipelines.adapters.webhooks import AliasEvent
from pipelines.errors import PointerBusyError, PromotionError
from pipelines.promote import ledger, steps
from pipelines.promote.records import (
    PREVIOUS,
    PRODUCTION,
    ROLLBACKS,
    Action,
    ApprovalRef,
    LedgerLine,
    State,
    Story,
    story,
)

ROLLED_BACK_TAG = "headrace.rolled_back"
OVERRIDE_TAG = "headrace.override"

# How long an intention keeps others away. Its mover touches no alias in the second half, so that
# one that was held up for long cannot move what others have moved since.
LEASE = timedelta(seconds=60)

_BY_HAND = frozenset({Action.PROMOTE_BY_HAND, Action.OVERRIDE, Action.ROLLBACK})
_ATTEMPTS = 5


@dataclass(frozen=True)
class Move:
    """What shall be done, on whose word.

    Attributes:
        work: Names it: the same work again finds itself done, or goes on where it was cut short.
        to: None: the alias is removed.
    """

    work: str
    to: str | None
    action: Action
    actor: str
    reason: str
    verdict: str | None = None
    evidence_url: str | None = None
    approval: ApprovalRef | None = None


@dataclass(frozen=True)
class Settled:
    """The story as it is told now, and the lines that were added for it."""

    story: Story
    added: tuple[LedgerLine, ...]


class Pointer:
    """One alias of one registered model.

    Args:
        events: What MLflow told of moves at once: the ledger then has the time itself, not that of
            its notice.
        clock: Tells the time, UTC.
    """

    def __init__(
        self,
        registry: Registry,
        lake: Lake,
        name: str,
        alias: str = PRODUCTION,
        events: Iterable[AliasEvent] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry = registry
        self._lake = lake
        self._name = name
        self._alias = alias
        self._events = tuple(event for event in events if (event.name, event.alias) == (name, alias))
        self._clock = clock

    def serving(self) -> str | None:
        """The version that the alias names, asked of the registry."""
        return self._version_of(self._alias)

    def story(self) -> Story:
        return story(ledger.rows(self._lake, self._name), self._alias)

    def settle(self, work: str | None = None) -> Settled:
        """Bring the ledger to tell what the registry says.

        Args:
            work: Whose caller's own intention, where one is open, is known to be dead.

        Raises:
            PointerBusyError: somebody else's move is under way.
        """
        added: list[LedgerLine] = []
        for _ in range(_ATTEMPTS):
            # The ledger first: a move that begins after this reading takes the number that is tried below.
            told = self.story()
            truth = self.serving()
            if told.intention is not None and told.intention.work != work and self._lives(told.intention):
                raise PointerBusyError(_busy(told.intention))
            lacks = steps.settle(told, truth, self._clock(), self._told_at(told, truth))
            self._keep_previous(told, truth, lacks.outside)
            if lacks.of_intention is None and lacks.outside is None:
                return Settled(told, tuple(added))
            for line, key in ((lacks.of_intention, "end"), (lacks.outside, "")):
                if line is None:
                    continue
                line = line.model_copy(update={"registered_name": self._name, "alias": self._alias})
                if line.state is State.MOVED:
                    self._mark(line)
                if not ledger.write(self._lake, self._key(line.sequence, key), line):
                    break  # somebody else was first: read anew
                added.append(line)
        raise PointerBusyError(f"{self._name}: others keep moving the alias {self._alias}; try again")

    def move(self, move: Move) -> LedgerLine | None:
        """Carry a move out, or to its end where it was cut short; None: the alias was there already.

        Raises:
            PointerBusyError: somebody else moves the same alias at this moment.
            PromotionError: it was moved in the MLflow UI at this moment.
        """
        settled = self.settle(move.work)
        if settled.story.current == move.to:
            mine = (line for line in settled.added if line.work == move.work)
            return next((line for line in mine if line.state is State.MOVED), None)
        line = LedgerLine(
            at=self._clock(),
            registered_name=self._name,
            alias=self._alias,
            sequence=settled.story.next_sequence,
            state=State.INTENDED,
            action=move.action,
            actor=move.actor,
            from_version=settled.story.current,
            to_version=move.to,
            reason=move.reason,
            verdict=move.verdict,
            evidence_url=move.evidence_url,
            approved_by=move.approval.by if move.approval else None,
            approved_at=move.approval.at if move.approval else None,
            work=move.work,
            mover=_this_process(),
        )
        if not ledger.write(self._lake, self._key(line.sequence), line):
            raise PointerBusyError(
                f"{self._name}: somebody else began to move the alias {self._alias} just now; try again"
            )
        self._carry_out(line)
        moved = line.model_copy(update={"state": State.MOVED})
        self._mark(moved)
        if not ledger.write(self._lake, self._key(line.sequence, "end"), moved):
            raise PointerBusyError(
                f"{self._name}: the move to version {move.to} took so long that it was given up for dead; "
                f"headrace history {self._name} says what is so now"
            )
        return moved

    def prove(self, line: LedgerLine, answered: bool, detail: str) -> None:
        """Write down whether the version of a move answered, and how that was seen."""
        state = State.ANSWERED if answered else State.SILENT
        proof = line.model_copy(update={"state": state, "at": self._clock(), "reason": detail})
        ledger.write(self._lake, self._key(line.sequence, f"proof:{proof.at.isoformat()}"), proof)

    def _carry_out(self, line: LedgerLine) -> None:
        if self._alias == PRODUCTION and line.from_version is not None:
            self._registry.set_alias(self._name, PREVIOUS, line.from_version)
        if (names := self.serving()) != line.from_version:
            raise PromotionError(
                f"{self._name}: the alias {self._alias} was moved from version {line.from_version} to {names} at this "
                f"very moment, in the MLflow UI or over its API; look who it was, and try again"
            )
        if self._clock() - line.at > LEASE / 2:
            raise PointerBusyError(
                f"{self._name}: this move was held up for more than {LEASE / 2}; the alias was not touched. Try again"
            )
        if line.to_version is None:
            self._registry.delete_alias(self._name, self._alias)
        else:
            self._registry.set_alias(self._name, self._alias, line.to_version)

    def _keep_previous(self, told: Story, truth: str | None, outside: LedgerLine | None) -> None:
        """One step back must exist: ``previous`` is another version than the one that serves."""
        if self._alias != PRODUCTION or truth is None:
            return
        previous = self._version_of(PREVIOUS)
        if outside is not None:
            wanted = outside.from_version
        else:
            if previous is not None and previous != truth:
                return
            wanted = told.before(truth)
        if wanted is not None and self._registry.version(self._name, wanted) is not None:
            self._registry.set_alias(self._name, PREVIOUS, wanted)
        elif outside is None and wanted is None and previous is not None:
            self._registry.delete_alias(self._name, PREVIOUS)

    def _mark(self, line: LedgerLine) -> None:
        """Tags for those who look at the version in MLflow; decisions are made by the ledger."""
        if self._alias != PRODUCTION:
            return
        if line.action in ROLLBACKS and line.from_version is not None:
            self._tag(line.from_version, ROLLED_BACK_TAG, f"{line.actor}: {line.reason}")
        if line.action in _BY_HAND and line.to_version is not None:
            self._registry.delete_version_tag(self._name, line.to_version, ROLLED_BACK_TAG)
        if line.action is Action.OVERRIDE and line.to_version is not None:
            self._tag(line.to_version, OVERRIDE_TAG, f"{line.actor}: {line.reason}")

    def _tag(self, version: str, key: str, value: str) -> None:
        try:
            self._registry.set_version_tag(self._name, version, key, value)
        except RegistryRefusedError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":  # a version that was deleted has no page to say it on
                raise

    def _version_of(self, alias: str) -> str | None:
        found = self._registry.alias_version(self._name, alias)
        return found.version if found else None

    def _key(self, sequence: int, part: str = "") -> str:
        return ":".join(filter(None, ("pointer", self._name, self._alias, str(sequence), part)))

    def _told_at(self, told: Story, truth: str | None) -> datetime | None:
        """When MLflow told of the move to what the alias names now; None: it did not."""
        after = told.moves[-1].at if told.moves else datetime.min.replace(tzinfo=UTC)
        matching = [event.at for event in self._events if event.version == truth and event.at > after]
        return max(matching, default=None)

    def _lives(self, intention: LedgerLine) -> bool:
        """Whether the one who carries an intention out may still be at it."""
        host, _, process = intention.mover.rpartition("/")
        if host == socket.gethostname() and _is_gone(process, intention.at):
            return False
        return self._clock() - intention.at < LEASE


def _busy(intention: LedgerLine) -> str:
    return (
        f"{intention.registered_name}: {intention.actor} moves the alias {intention.alias} to version "
        f"{intention.to_version} at this moment (since {intention.at:%H:%M:%S}Z); try again in a minute"
    )


def _this_process() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


def _is_gone(process: str, since: datetime) -> bool:
    """Whether a process of this machine has ended; another one may have its number since."""
    try:
        return psutil.Process(int(process)).create_time() > since.timestamp()
    except (psutil.NoSuchProcess, ValueError):
        return True
    except psutil.AccessDenied:
        return False
