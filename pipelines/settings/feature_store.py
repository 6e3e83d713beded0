"""The feature store: values for predictions, and the registry of what they mean."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field

from pipelines.settings.addresses import with_driver
from pipelines.settings.machine import MachineSettings


class FeatureStoreSettings(MachineSettings):
    online_store_url: str = Field(
        "", description="redis://host:port/db, or sqlite:///path. Default: SQLite under $HEADRACE_HOME."
    )
    feature_registry_url: str = Field("", description="SQLAlchemy URL of Feast's registry.")

    @cached_property
    def online_store(self) -> str:
        return self.online_store_url or f"sqlite:///{self.home / 'features' / 'online.db'}"

    @cached_property
    def feature_registry(self) -> str:
        return with_driver(self.feature_registry_url) or f"sqlite:///{self.home / 'features' / 'registry.db'}"
