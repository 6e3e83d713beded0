"""Champion and challenger of one model while the registry gives both traffic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.adapters.traffic import Traffic, place_of
from serving.rollout.counts import ANSWERED, CHALLENGER, CHAMPION, MIRRORED, TrialCounts
from serving.rollout.mirror import Mirror
from serving.versions import LoadedVersion

if TYPE_CHECKING:
    from serving.dataplane import Answer

log = logging.getLogger(__name__)


class Trial:
    """Who is asked first, what becomes of a challenger's failure, and what is mirrored.

    A transport asks the first of :meth:`order`. Where that is the challenger and it fails, whatever
    the failure is, the champion is asked, and :meth:`fell_back` told: no client sees an error, or
    a refusal, that is only the challenger's. What was answered goes to :meth:`answered`.
    """

    def __init__(
        self,
        champion: LoadedVersion,
        challenger: LoadedVersion,
        traffic: Traffic,
        counts: TrialCounts,
        mirror: Mirror,
    ) -> None:
        self.champion = champion
        self.challenger = challenger
        self.traffic = traffic
        self._counts = counts
        self._mirror = mirror

    @property
    def entity_input(self) -> str | None:
        """The input that is the entity itself, where the champion has one."""
        return self.champion.predictor.manifest.lineage.get("entity_input")

    def order(self, key: bytes) -> tuple[LoadedVersion, LoadedVersion]:
        """Who answers, and who is asked beside it.

        Args:
            key: From :func:`serving.rollout.sticky.key_of`.
        """
        if place_of(self.champion.name, key) * 100 < self.traffic.percent:
            return self.challenger, self.champion
        return self.champion, self.challenger

    def answered(
        self, answer: Answer, seconds: float, again: Callable[[LoadedVersion], Answer], size: int
    ) -> None:
        """Count an answer that goes to a client, and have the other version asked the same beside it.

        Args:
            again: Reads and answers the request by another version.
            size: Bytes that are held until then.
        """
        first = answer.version
        other = self.champion if first is self.challenger else self.challenger
        self._counts.asked(self._role(first), ANSWERED, seconds)

        def task() -> None:
            self._mirror_to(other, answer, again)

        if not self._mirror.offer(task, size):
            self._counts.drop()

    def fell_back(self, error: Exception, seconds: float) -> None:
        """Count a failure of the challenger on a request that the champion then answered."""
        self._failed(self.challenger, ANSWERED, error, seconds)

    def failed(self, seconds: float) -> None:
        """Count a failure of the champion that no client is to blame for."""
        self._counts.asked(CHAMPION, ANSWERED, seconds, failed=True)

    def _mirror_to(
        self, version: LoadedVersion, answer: Answer, again: Callable[[LoadedVersion], Answer]
    ) -> None:
        began = self._mirror.clock()
        try:
            mirrored = again(version)
        except Exception as error:
            self._failed(version, MIRRORED, error, self._mirror.clock() - began)
            log.debug("a mirrored request failed", exc_info=True)
            return
        seconds = self._mirror.clock() - began
        self._counts.asked(self._role(version), MIRRORED, seconds)
        self._counts.compare(answer.outputs, mirrored.outputs)
        self._mirror.record(mirrored, answer, seconds)

    def _failed(self, version: LoadedVersion, how: str, error: Exception, seconds: float) -> None:
        errors = self._counts.asked(self._role(version), how, seconds, failed=True)
        if (
            errors & (errors - 1) == 0
        ):  # the first, and at each doubling: a bad challenger must not fill the disk
            log.warning(
                "%s version %s, %s, failed where version %s answered (%d times until now): %s: %s",
                *(version.name, version.version, how),
                self.champion.version if version is self.challenger else self.challenger.version,
                *(errors, type(error).__name__, error),
            )

    def _role(self, version: LoadedVersion) -> str:
        return CHALLENGER if version is self.challenger else CHAMPION
