"""Whether a new champion fails more often than the one before it. Pure: figures in, alarms out.

A version is watched from the moment at which the servers show it in production. Its errors are
weighed by :func:`pipelines.rollout.sequential.evidence_against`, so that looking each second for ten
minutes costs no false alarms beyond the stated rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pipelines.rollout.sequential import cautious_share, evidence_against

#: Codes that a version can be the cause of: it failed, or refused what the version before took.
BLAMED = frozenset({"400", "422", "500"})

_FEW = 20  # requests of the version before; with fewer lately, all that it ever answered counts
_UNKNOWN = 0.5  # share of errors of a version that was never asked


@dataclass(frozen=True)
class Limits:
    """When a champion is rolled back.

    Attributes:
        watched_for: After the switch.
        baseline: Of the version before, up to the switch.
        allowed: Share of errors beyond that of the version before.
        false_alarms: Chance that a switch to a version that keeps to it is undone.
        min_errors: Fewer prove nothing, whatever the evidence.
    """

    watched_for: timedelta = timedelta(minutes=10)
    baseline: timedelta = timedelta(minutes=10)
    allowed: float = 0.02
    false_alarms: float = 0.001
    min_errors: int = 5


@dataclass(frozen=True)
class Count:
    """Requests of one version until now, and those that ended with a blamed code."""

    requests: int = 0
    errors: int = 0

    def since(self, before: Count) -> Count:
        """What came in between; all of it, where the server was started anew."""
        if self.requests < before.requests or self.errors < before.errors:
            return self
        return Count(self.requests - before.requests, self.errors - before.errors)


@dataclass(frozen=True)
class Figures:
    """What the servers show of one model."""

    production: str | None
    counts: Mapping[str, Count]


@dataclass(frozen=True)
class Alarm:
    """A champion to be rolled back.

    Attributes:
        to: The version before.
        switched: When the servers showed the champion first.
    """

    name: str
    version: str
    to: str
    switched: datetime
    reason: str


@dataclass
class _Watched:
    """A switch that is watched."""

    version: str
    before: str
    switched: datetime
    baseline: Count
    start: Count


@dataclass
class _Model:
    production: str | None = None
    past: deque[tuple[datetime, Count]] = field(default_factory=deque)
    watched: _Watched | None = None


class Watch:
    """Remembers, model by model, what was in production and how it fared."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._models: dict[str, _Model] = {}

    def knows(self, name: str) -> bool:
        return name in self._models

    def resume(self, name: str, version: str, before: str, switched: datetime) -> None:
        """Watch a switch that happened before this watch began; the versions' whole counts are compared."""
        self._models[name] = _Model(version, watched=_Watched(version, before, switched, Count(-1), Count()))

    def look(self, name: str, figures: Figures, at: datetime) -> Alarm | None:
        """Take in what the servers show of a model; an alarm, as long as its champion is to be rolled back.

        A rollback is a switch like any other: if the version before fails as often, nothing is moved
        again, since it is no worse than the one that it followed.

        Args:
            at: The present, UTC.
        """
        model = self._models.setdefault(name, _Model())
        version = figures.production
        if version is None:
            return None
        count = figures.counts.get(version, Count())
        if version != model.production:
            self._switched(model, version, figures, at)
        model.past.append((at, count))
        while at - model.past[0][0] > self._limits.baseline:
            model.past.popleft()
        return self._judge(name, model, figures, at)

    def _switched(self, model: _Model, version: str, figures: Figures, at: datetime) -> None:
        before, model.production = model.production, version
        model.watched = None
        if before is not None:
            whole = figures.counts.get(before, Count())
            recent = whole.since(model.past[0][1]) if model.past else whole
            # What a version answered by its number, or as challenger, before the switch counts for nothing.
            model.watched = _Watched(
                version,
                before,
                at,
                baseline=recent if recent.requests >= _FEW else whole,
                start=figures.counts.get(version, Count()),
            )
        model.past.clear()

    def _judge(self, name: str, model: _Model, figures: Figures, at: datetime) -> Alarm | None:
        watched = model.watched
        if watched is None:
            return None
        if at - watched.switched > self._limits.watched_for:
            model.watched = None
            return None
        if watched.baseline.requests < 0:
            watched.baseline = figures.counts.get(watched.before, Count())
        count = figures.counts.get(watched.version, Count())
        seen = count.since(watched.start)
        before = watched.baseline
        usual = cautious_share(before.errors, before.requests) if before.requests else _UNKNOWN
        tolerated = min(self._limits.allowed + usual, 0.999)
        if seen.errors < self._limits.min_errors:
            return None
        if evidence_against(seen.errors, seen.requests, tolerated) < 1 / self._limits.false_alarms:
            return None
        return Alarm(
            name,
            watched.version,
            watched.before,
            watched.switched,
            f"{seen.errors} of {seen.requests} requests failed since version {watched.version} came into production "
            f"{(at - watched.switched).total_seconds():.0f} s ago; of version {watched.before} it were {before.errors} of "
            f"{before.requests}; {tolerated:.1%} are tolerated",
        )
