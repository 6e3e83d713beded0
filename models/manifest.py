"""What a serving export says of itself. Written by train, read by evaluate and by the server.

An export is a folder: ``manifest.json``, the model file of its runtime, and ``sample.json`` with
rows and the predictions that were made of them at training time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from feature_repo.datasets import Frozen

MANIFEST_FILE = "manifest.json"
SAMPLE_FILE = "sample.json"


class FieldType(StrEnum):
    """Types of inputs and outputs, by MLflow's names."""

    DOUBLE = "double"
    LONG = "long"
    STRING = "string"
    BOOLEAN = "boolean"


class InputField(Frozen):
    """One input of a model."""

    name: str
    type: FieldType
    required: bool = Field(True, description="False: may be missing, null or NaN.")
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = Field(
        None, description="For strings: what training saw. Other strings count as missing."
    )


class OutputField(Frozen):
    """One output of a model."""

    name: str
    type: FieldType
    description: str = ""


class SigmoidCalibration(Frozen):
    """Platt scaling of the raw score: p = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: float
    intercept: float


class Manifest(Frozen):
    """Everything that is needed to load, check and answer with a version."""

    format: Literal[1] = 1
    model: str
    runtime: Literal["lightgbm"]
    inputs: tuple[InputField, ...] = Field(min_length=1)
    outputs: tuple[OutputField, ...] = Field(min_length=1)
    calibration: SigmoidCalibration
    alarm_threshold: float = Field(description="Probability from which on the model says: alarm.")
    tolerance: float = Field(gt=0, description="Largest difference to the training-time predictions.")
    files: dict[str, str] = Field(description="SHA-256 of each other file of the export, by its name.")
    lineage: dict[str, str] = Field(default_factory=dict, description="Snapshot, run, code, seed, source.")


class Sample(Frozen):
    """Rows with the predictions of training time; a loaded model must reproduce them."""

    rows: tuple[dict[str, float | int | str | None], ...] = Field(min_length=1)
    predictions: tuple[dict[str, float | bool | str], ...] = Field(min_length=1)
