"""What a serving export says of itself. Written by train, read by evaluate and by the server.

An export is a folder: ``manifest.json``, the model file of its runtime, and ``sample.json`` with
rows and the predictions that were made of them at training time.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from feature_repo.datasets import Frozen

MANIFEST_FILE = "manifest.json"
SAMPLE_FILE = "sample.json"

#: Tag of a registered version that holds the SHA-256 of its manifest's bytes. The server refuses a
#: version without it: the registry vouches for the manifest, and the manifest for every other file.
MANIFEST_TAG = "headrace.manifest_sha256"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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

    @model_validator(mode="after")
    def _names_are_distinct_and_files_plain(self) -> Self:
        for kind, names in (
            ("inputs", [field.name for field in self.inputs]),
            ("outputs", [field.name for field in self.outputs]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{kind} name a field twice: {names}")
        for name, sha256 in self.files.items():
            # A name with a slash, or one that begins with a dot, could lead out of the folder.
            if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST_FILE:
                raise ValueError(f"files: {name!r} is not the plain name of another file in the same folder")
            if not _SHA256.fullmatch(sha256):
                raise ValueError(f"files: {sha256!r} of {name} is not a SHA-256 in lower-case hexadecimal")
        if SAMPLE_FILE not in self.files:
            raise ValueError(f"files lack {SAMPLE_FILE}")
        return self


class Sample(Frozen):
    """Rows with the predictions of training time; a loaded model must reproduce them."""

    rows: tuple[dict[str, float | int | str | None], ...] = Field(min_length=1)
    predictions: tuple[dict[str, float | bool | str], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_row_has_a_prediction(self) -> Self:
        if len(self.rows) != len(self.predictions):
            raise ValueError(f"{len(self.rows)} rows, but {len(self.predictions)} predictions")
        return self
