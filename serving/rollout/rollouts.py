"""Which models have a challenger with traffic, as the registry last told."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import NamedTuple

from prometheus_client.core import Metric

from pipelines.adapters.registry import ALIAS_CHALLENGER
from pipelines.adapters.traffic import Traffic, parse_traffic
from pipelines.errors import InvalidRequestError
from serving.rollout.counts import TrialCounts, TrialKey, families
from serving.rollout.mirror import Mirror
from serving.rollout.trial import Trial
from serving.versions import LoadedVersion, VersionTable

log = logging.getLogger(__name__)


class Tag(NamedTuple):
    """What the tag of a version says, as it stands in the registry; None: there is no such tag."""

    version: str
    text: str | None


class Assigned(NamedTuple):
    """Traffic, and the version whose tag says so: another one that has the alias by now gets none."""

    version: str
    traffic: Traffic


class Rollouts:
    """Finds the trial that a request belongs to.

    Reading takes no lock, as with the table of versions: what the registry tells is one reference.
    """

    def __init__(self, table: VersionTable, mirror: Mirror) -> None:
        self._table = table
        self.mirror = mirror
        self._tags: Mapping[str, Tag] = {}
        self._assigned: Mapping[str, Assigned] = {}
        self._problems: Mapping[str, str] = {}
        self._trials: dict[str, tuple[TrialKey, Trial]] = {}
        self._counts: dict[TrialKey, TrialCounts] = {}
        self._lock = Lock()

    def assign(self, tags: Mapping[str, Tag]) -> None:
        """Take over what the registry tells. A tag that names no traffic gives none, and is told of.

        Args:
            tags: Of challengers, by model; those that are missing have no trial.
        """
        if tags == self._tags:
            return
        assigned, problems = {}, {}
        for name, tag in tags.items():
            try:
                assigned[name] = Assigned(tag.version, parse_traffic(tag.text))
            except InvalidRequestError as error:
                problems[name] = f"version {tag.version} gets no traffic: {error}"
        with self._lock:
            before, self._assigned = self._assigned, assigned
            self._tags, self._problems = dict(tags), problems
            for key in list(self._counts):
                now = assigned.get(key.model)
                if now is None or (now.version, now.traffic.text) != (key.challenger, key.traffic):
                    del self._counts[key]
            self._trials = {name: found for name, found in self._trials.items() if found[0] in self._counts}
        for name, now in assigned.items():
            if before.get(name) != now:
                share = (
                    f"{now.traffic.text} % of the requests" if now.traffic.percent else "all in the shadow"
                )
                log.info("challenger of %s: version %s gets %s", name, now.version, share)
        for name, problem in problems.items():
            log.warning("challenger of %s: %s", name, problem)

    def told(self, name: str) -> tuple[str, str]:
        """What the registry gives to a model's challenger, and why it gives nothing; either is empty."""
        assigned = self._assigned.get(name)
        return assigned.traffic.text if assigned else "", self._problems.get(name, "")

    def of(self, champion: LoadedVersion) -> Trial | None:
        """The trial of a version that answers requests without a version; None: it answers alone."""
        assigned = self._assigned.get(champion.name)
        if assigned is None:
            return None
        challenger = self._table.at(champion.name, ALIAS_CHALLENGER)
        if challenger is None or challenger.version != assigned.version:
            return None  # the one that the tag is about is being loaded, or was refused
        if challenger.version == champion.version:
            return None  # it was promoted
        known = self._trials.get(champion.name)
        if known is not None:
            trial = known[1]
            if (
                trial.champion is champion
                and trial.challenger is challenger
                and trial.traffic == assigned.traffic
            ):
                return trial
        return self._begin(champion, challenger, assigned.traffic)

    def _begin(self, champion: LoadedVersion, challenger: LoadedVersion, traffic: Traffic) -> Trial:
        key = TrialKey(champion.name, champion.version, challenger.version, traffic.text)
        with self._lock:
            counts = self._counts.setdefault(key, TrialCounts())
            trial = Trial(champion, challenger, traffic, counts, self.mirror)
            self._trials[champion.name] = key, trial
        return trial

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        with self._lock:
            trials = list(self._counts.items())
        yield from families(trials)
        yield self.mirror.queued()
