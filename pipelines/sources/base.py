"""What every source does: give the rows of a data set that arrived in a window, as they came."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from feature_repo.datasets import Dataset
from pipelines.references import Window
from pipelines.sources.profile import FilesOrigin, SimulatedOrigin, SourceProfile

if TYPE_CHECKING:
    import polars as pl

    from pipelines.settings import Settings


class Source(Protocol):
    """A place that telemetry comes from."""

    def read(self, dataset: Dataset, window: Window) -> pl.DataFrame:
        """Rows that arrived in the window, in a fixed order, with the data set's column names.

        Types are as the source has them: a column may hold text where numbers belong. Columns
        that the source lacks are absent. The same window gives the same rows, always.

        Raises:
            SourceError: the source cannot be read, or lacks a column that the profile promises.
        """
        ...


def home_regimes(settings: Settings) -> Path:
    """The script of what changes in this home's simulated world, where a profile names none of its own."""
    return settings.home / "simulator" / "regimes.yaml"


def open_source(profile: SourceProfile, settings: Settings) -> Source:
    """The source that a profile describes."""
    match profile.origin:
        case SimulatedOrigin() as origin:
            from pipelines.sources.simulated.source import SimulatedSource

            own = home_regimes(settings)
            if origin.regimes is None and own.exists():
                origin = origin.model_copy(update={"regimes": str(own)})
            return SimulatedSource(origin, profile.folder)
        case FilesOrigin() as origin:
            from pipelines.sources.files import FilesSource

            return FilesSource(origin, profile.folder, settings.shared_data, settings.home)
