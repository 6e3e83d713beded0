"""Moves, crashes, people in the MLflow page and repairs, in any order: never no champion, never two stories."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipelines.adapters.lake import Lake
from pipelines.adapters.registry import ModelVersion, Registry
from pipelines.errors import PointerBusyError, PromotionError
from pipelines.promote import ledger
from pipelines.promote.pointers import LEASE, OVERRIDE_TAG, ROLLED_BACK_TAG, Move, Pointer
from pipelines.promote.records import PREVIOUS, PRODUCTION, Action, LedgerLine, State, story
from tests.pipelines.promote.crashing import Crash, dying

START = datetime(2026, 1, 1, tzinfo=UTC)
VERSIONS = ("1", "2", "3")


class Aliases(Registry):
    """The registry's aliases and tags in memory; the real one is asked in ``test_crashes.py``."""

    def __init__(self):
        super().__init__("http://127.0.0.1:9")
        self.named = {}
        self.moved_to = Counter()  # how often production was set, by version
        self.tags = {version: {} for version in VERSIONS}

    def alias_version(self, name, alias):
        return self.version(name, self.named[alias]) if alias in self.named else None

    def set_alias(self, name, alias, version):
        self.named[alias] = version
        self.moved_to[version] += alias == PRODUCTION

    def delete_alias(self, name, alias):
        self.named.pop(alias, None)

    def version(self, name, version):
        return ModelVersion(
            name=name,
            version=version,
            source="",
            run_id=None,
            status="READY",
            description="",
            tags=self.tags[version],
            aliases=(),
            created_at=START,
        )

    def set_version_tag(self, name, version, key, value):
        self.tags[version][key] = value

    def delete_version_tag(self, name, version, key):
        self.tags[version].pop(key, None)


class Rows(Lake):
    """The ledger's rows in memory, with the lake's promise: one append per piece of work."""

    def __init__(self):
        super().__init__("nowhere")
        self.lines, self.done = [], set()


@pytest.fixture
def rows(monkeypatch):
    return in_memory(monkeypatch)


def in_memory(patch):
    lake = Rows()

    def write(_, work, line):
        if work in lake.done:
            return False
        lake.done.add(work)
        lake.lines.append(line)
        return True

    patch.setattr(ledger, "write", write)
    patch.setattr(ledger, "rows", lambda _, name=None: list(lake.lines))
    return lake


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


def promotion(to, work="w", action=Action.PROMOTE, actor="ada"):
    return Move(work, to, action, actor, "better")


def test_a_move_is_told_once_with_what_it_left(rows):
    registry = Aliases()
    pointer = Pointer(registry, rows, "m", clock=Clock())
    assert pointer.move(promotion("1", "a")) is not None
    assert pointer.move(promotion("2", "b")) is not None
    assert pointer.move(promotion("2", "b")) is None, "the same work again does nothing"
    assert registry.named == {PRODUCTION: "2", PREVIOUS: "1"}
    assert [(line.from_version, line.to_version) for line in pointer.story().moves] == [
        (None, "1"),
        ("1", "2"),
    ]


def test_tags_say_what_people_did(rows):
    registry = Aliases()
    pointer = Pointer(registry, rows, "m", clock=Clock())
    pointer.move(promotion("1", "a"))
    pointer.move(promotion("2", "b", Action.OVERRIDE))
    assert registry.tags["2"] == {OVERRIDE_TAG: "ada: better"}
    pointer.move(promotion("1", "c", Action.ROLLBACK))
    assert registry.tags["2"][ROLLED_BACK_TAG] == "ada: better"
    pointer.move(promotion("2", "d", Action.PROMOTE_BY_HAND))
    assert ROLLED_BACK_TAG not in registry.tags["2"]


def test_while_one_moves_another_waits_and_the_dead_are_not_waited_for(rows):
    clock = Clock()
    living = f"{socket.gethostname()}/{os.getppid()}"
    elsewhere = "another-machine/1"

    def intend(mover):
        rows.lines.clear()
        rows.done.clear()
        rows.lines.append(
            LedgerLine(
                at=clock.now,
                registered_name="m",
                sequence=1,
                state=State.INTENDED,
                action=Action.PROMOTE,
                actor="airflow",
                to_version="1",
                reason="better",
                work="theirs",
                mover=mover,
            )
        )

    for mover in (living, elsewhere):
        clock.now = datetime.now(UTC)
        intend(mover)
        pointer = Pointer(Aliases(), rows, "m", clock=clock)
        with pytest.raises(PointerBusyError, match="airflow moves the alias"):
            pointer.move(promotion("2", "mine"))
        clock.now += LEASE
        assert pointer.move(promotion("2", "mine")) is not None
    clock.now = START  # long before any process of this machine began
    intend(f"{socket.gethostname()}/{os.getpid()}")
    pointer = Pointer(Aliases(), rows, "m", clock=clock)
    assert pointer.move(promotion("2", "again")) is not None, (
        "that process is gone: its number was given anew"
    )


def test_a_mover_that_was_held_up_touches_no_alias(rows, monkeypatch):
    clock = Clock()
    registry = Aliases()
    pointer = Pointer(registry, rows, "m", clock=clock)
    pointer.move(promotion("1", "a"))
    set_alias = registry.set_alias

    def slow(name, alias, version):
        clock.now += LEASE
        set_alias(name, alias, version)

    registry.set_alias = slow
    with pytest.raises(PointerBusyError, match="held up"):
        pointer.move(promotion("2", "b"))
    assert registry.named[PRODUCTION] == "1"


def test_a_move_in_the_page_at_the_same_moment_is_not_overwritten(rows):
    registry = Aliases()
    pointer = Pointer(registry, rows, "m", clock=Clock())
    pointer.move(promotion("1", "a"))
    set_alias = registry.set_alias

    def a_person_is_faster(name, alias, version):
        set_alias(name, alias, version)
        if alias == PREVIOUS:
            set_alias(name, PRODUCTION, "3")

    registry.set_alias = a_person_is_faster
    with pytest.raises(PromotionError, match="at this very moment"):
        pointer.move(promotion("2", "b"))
    registry.set_alias = set_alias
    assert registry.named[PRODUCTION] == "3"
    told = pointer.settle("b").story
    assert (told.current, told.moves[-1].action) == ("3", Action.MOVED_OUTSIDE)


class AnyOrder(RuleBasedStateMachine):
    """Promotions, rollbacks and repairs that die at any call, and people who move aliases in the page."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.lake = in_memory(self.patch)
        self.registry = Aliases()
        self.clock = Clock()
        self.work = 0

    def teardown(self):
        self.patch.undo()

    def pointer(self):
        return Pointer(self.registry, self.lake, "m", clock=self.clock)

    def run_until(self, at, when, job):
        """Runs a job that may die at a call; afterwards its lease is over."""
        targets = [
            (Aliases, name) for name in ("alias_version", "set_alias", "set_version_tag", "delete_alias")
        ]
        with pytest.MonkeyPatch.context() as patch, dying(at, when) as counter:
            for owner, name in targets:
                patch.setattr(owner, name, counter.wrap(getattr(owner, name)))
            for name in ("write", "rows"):
                patch.setattr(ledger, name, counter.wrap(getattr(ledger, name)))
            with contextlib.suppress(Crash):
                job()
        self.clock.now += LEASE

    @initialize()
    def first(self):
        self.pointer().move(promotion("1", "first"))

    @rule(
        to=st.sampled_from(VERSIONS),
        action=st.sampled_from([Action.PROMOTE, Action.ROLLBACK, Action.OVERRIDE]),
        at=st.integers(1, 25),
        when=st.sampled_from(["before", "after"]),
        again=st.booleans(),
    )
    def move(self, to, action, at, when, again):
        self.work += not again
        self.run_until(at, when, lambda: self.pointer().move(promotion(to, f"work-{self.work}", action)))

    @rule(at=st.integers(1, 12), when=st.sampled_from(["before", "after"]))
    def repair(self, at, when):
        self.run_until(at, when, lambda: self.pointer().settle())

    @rule(to=st.sampled_from(VERSIONS))
    def a_person_moves_it(self, to):
        # A person who does by hand what a dead mover had intended cannot be told from it.
        self.registry.set_alias("m", PRODUCTION, to)

    @invariant()
    def there_is_a_champion(self):
        assert self.registry.named.get(PRODUCTION, "1") in VERSIONS

    @precondition(lambda self: PRODUCTION in self.registry.named)
    @invariant()
    def a_repair_makes_one_story_of_it(self):
        lines, done = list(self.lake.lines), set(self.lake.done)
        named = dict(self.registry.named)
        tags = {version: dict(tags) for version, tags in self.registry.tags.items()}
        self.pointer().settle()
        told = story(self.lake.lines, PRODUCTION)
        assert self.registry.named[PRODUCTION] == named[PRODUCTION], "a repair moves nothing that serves"
        assert told.current == named[PRODUCTION]
        assert told.intention is None
        mine = Counter(line.to_version for line in told.moves if line.actor == "ada")
        assert mine <= self.registry.moved_to, "what is told as moved was moved"
        ends = [None, *(line.to_version for line in told.moves)]
        assert [line.from_version for line in told.moves] == ends[:-1], (
            "each move begins where the last ended"
        )
        if len(set(ends) - {None}) > 1:
            assert self.registry.named[PREVIOUS] != named[PRODUCTION], "one step back goes somewhere"
        before = len(self.lake.lines)
        self.pointer().settle()
        assert len(self.lake.lines) == before, "a repair finds nothing after a repair"
        # The repair was a look only: the next step finds what the crash left.
        self.lake.lines[:], self.lake.done = lines, done
        self.registry.named, self.registry.tags = named, tags


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = examples(max_examples=30, stateful_step_count=10, deadline=None)
