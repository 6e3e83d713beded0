"""Errors that a person can act on: each says what was found, where, and what to do about it."""

from __future__ import annotations


class HeadraceError(Exception):
    """Root of all errors that Headrace raises on purpose. Its text is for the person on call."""


class SettingsError(HeadraceError):
    """A setting is unknown, missing or out of range."""


class SourceError(HeadraceError):
    """A source cannot be read, or does not have what its profile promises."""


class WindowError(HeadraceError):
    """A time window is naive, empty, reversed or not cut at slice borders."""


class LakeError(HeadraceError):
    """A table is missing, or cannot be read or written."""


class LakeConflictError(LakeError):
    """Another writer changed the rows first: read again, compute again, write again."""


class DataValidationError(HeadraceError):
    """A batch is broken as a whole. Retrying cannot help."""


class FeatureError(HeadraceError):
    """Features cannot be computed, retrieved or published."""


class SnapshotError(HeadraceError):
    """A training set cannot be built: too few rows, one class only, an empty part."""


class TrainingError(HeadraceError):
    """A model cannot be trained or exported."""


class ClusterError(HeadraceError):
    """The machines that train together did not answer, or one was lost: try again once they are there."""


class EvaluationError(HeadraceError):
    """Evidence for a verdict cannot be gathered."""


class PromotionError(HeadraceError):
    """A pointer may not be moved."""


class PointerBusyError(HeadraceError):
    """Somebody else moves the same pointer at this moment: try again shortly."""


class RegistryError(HeadraceError):
    """The tracking server or registry refused, or did not answer."""


class ArtifactError(HeadraceError):
    """A stored model is incomplete, was changed, or does not reproduce its own sample."""


class InvalidRequestError(HeadraceError):
    """A request does not fit the model's signature. ``field`` names the culprit."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PredictionError(HeadraceError):
    """A logged prediction cannot be found."""


class ScoringError(HeadraceError):
    """A table cannot be scored: it lacks columns that the version needs, or there is no version."""


class MaintenanceError(HeadraceError):
    """A part of housekeeping failed; the other parts were done."""


class BackupError(HeadraceError):
    """A backup cannot be written, or not be restored."""


class ProcessError(HeadraceError):
    """A supervised process did not start, stop or answer."""


class LineageError(HeadraceError):
    """Where a version came from is not known, or it cannot be made again from it."""


class MonitorError(HeadraceError):
    """A model cannot be watched: it has no version in production, or nothing to compare with."""


class BrokenDataError(HeadraceError):
    """Data are broken: what was found is named, somebody must mend it, and nothing is learned from them."""
