"""All concerns in one class."""

from __future__ import annotations

from pipelines.settings.access import AccessSettings
from pipelines.settings.airflow import AirflowSettings
from pipelines.settings.feature_store import FeatureStoreSettings
from pipelines.settings.lake import LakeSettings
from pipelines.settings.monitoring import MonitoringSettings
from pipelines.settings.predictions import PredictionSettings
from pipelines.settings.registry import RegistrySettings
from pipelines.settings.serving import ServingSettings
from pipelines.settings.training import TrainingSettings


# Fields are listed from the last of these to the first: as data take their way, from the lake to the reports.
class Settings(
    MonitoringSettings,
    PredictionSettings,
    AccessSettings,
    ServingSettings,
    AirflowSettings,
    RegistrySettings,
    TrainingSettings,
    FeatureStoreSettings,
    LakeSettings,
):
    """All settings. Build with :func:`load_settings`, which also refuses unknown names."""
