"""Features of entities from the online store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.errors import HeadraceError
from pipelines.settings import Settings
from pipelines.sources.profile import load_profile
from serving.errors import FeaturesUnavailableError
from serving.tracing import Tracer

if TYPE_CHECKING:
    from pipelines.adapters.feature_store import FeatureStore


log = logging.getLogger(__name__)


class FeatureLookup(Protocol):
    def online(
        self, source: str, entities: Sequence[str], at: datetime, grid: str | None = None
    ) -> list[Mapping[str, Any] | None]:
        """The features of each entity on a grid of the source, None for an unknown entity.

        Raises:
            FeaturesUnavailableError: the store cannot be asked.
        """
        ...


class WatchedLookup:
    """Counts and times looks into another lookup, and makes each a part of its request's trace."""

    def __init__(
        self, lookup: FeatureLookup, count: Callable[[str, float], None], tracer: Tracer | None
    ) -> None:
        self._lookup = lookup
        self._count = count
        self._tracer = tracer

    def online(
        self, source: str, entities: Sequence[str], at: datetime, grid: str | None = None
    ) -> list[Mapping[str, Any] | None]:
        began, outcome = time.perf_counter(), "failed"
        part = self._tracer.part("features.online", entities=len(entities)) if self._tracer else nullcontext()
        try:
            with part:
                found = self._lookup.online(source, entities, at, grid)
            outcome = "unknown" if None in found else "found"
            return found
        finally:
            self._count(outcome, time.perf_counter() - began)


class OnlineStore:
    """Asks Feast's online store; opens it at the first use, since importing Feast takes seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stores: dict[str, FeatureStore] = {}
        self._asking = Lock()  # Feast keeps one connection, and does not say that threads may share it

    def online(
        self, source: str, entities: Sequence[str], at: datetime, grid: str | None = None
    ) -> list[Mapping[str, Any] | None]:
        try:
            with self._asking:
                return list(self._store(source).online(list(entities), at, grid))
        except ImportError as error:
            raise FeaturesUnavailableError(
                f"this server has no feature store client ({error.name} is not installed): install headrace[pipeline] "
                "beside it, or send records instead of entities",
                installed=False,
            ) from error
        except HeadraceError as error:
            raise FeaturesUnavailableError(
                f"features of source {source!r} cannot be read: {error}"
            ) from error

    def _store(self, source: str) -> FeatureStore:
        if source not in self._stores:
            from pipelines.adapters.feature_store import FeatureStore

            self._stores[source] = FeatureStore(load_profile(source), self._settings)
        return self._stores[source]
