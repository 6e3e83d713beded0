"""Features of entities from the online store."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.errors import HeadraceError
from pipelines.settings import Settings
from pipelines.sources.profile import load_profile
from serving.errors import FeaturesUnavailableError

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
