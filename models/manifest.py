"""What a serving export says of itself. Written by train, read by evaluate and by the server.

An export is a folder: ``manifest.json``, one file per estimator in its runtime's own format, and
``sample.json`` with rows and the predictions that were made of them at training time.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from feature_repo.datasets import Frozen
from models.heads import FieldType as FieldType
from models.heads import Head
from models.heads import OutputField as OutputField

MANIFEST_FILE = "manifest.json"
SAMPLE_FILE = "sample.json"
SIGNATURE_FILE = "manifest.sig"  # over the manifest, which names all other files; it names itself nowhere

#: Tag of a registered version that holds the SHA-256 of its manifest's bytes. The server refuses a
#: version without it: the registry vouches for the manifest, and the manifest for every other file.
MANIFEST_TAG = "headrace.manifest_sha256"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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


class Estimator(Frozen):
    """One model file, and how it is asked: inputs in, raw answers of shape (n,) or (n, k) out."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    runtime: Literal["lightgbm", "onnx"]
    file: str
    inputs: tuple[str, ...] = Field(min_length=1, description="Names of inputs, in the estimator's order.")
    shape: tuple[int, ...] | None = Field(
        None, description="Shape of one row, in row-major order of the inputs; None: flat."
    )
    fill: tuple[float, ...] | None = Field(
        None, description="What missing values become, by input; None: they stay NaN."
    )
    paths: str | None = Field(
        None, description="File of the ways to the trees' leaves, for explanations; None: there is none."
    )

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.shape is not None and math.prod(self.shape) != len(self.inputs):
            raise ValueError(f"estimator {self.name}: shape {self.shape} is not of {len(self.inputs)} inputs")
        if self.fill is not None and len(self.fill) != len(self.inputs):
            raise ValueError(
                f"estimator {self.name}: fill has {len(self.fill)} values for {len(self.inputs)} inputs"
            )
        return self


class Manifest(Frozen):
    """Everything that is needed to load, check and answer with a version."""

    format: Literal[2] = 2
    model: str
    inputs: tuple[InputField, ...] = Field(min_length=1)
    outputs: tuple[OutputField, ...] = Field(min_length=1)
    estimators: tuple[Estimator, ...] = Field(min_length=1)
    head: Head
    tolerance: float = Field(gt=0, description="Largest difference to the training-time predictions.")
    files: dict[str, str] = Field(description="SHA-256 of each other file of the export, by its name.")
    lineage: dict[str, str] = Field(default_factory=dict, description="Snapshot, run, code, seed, source.")

    @model_validator(mode="after")
    def _names_are_distinct_and_files_plain(self) -> Self:
        for kind, names in (
            ("inputs", [field.name for field in self.inputs]),
            ("outputs", [field.name for field in self.outputs]),
            ("estimators", [estimator.name for estimator in self.estimators]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{kind} name one twice: {names}")
        for name, sha256 in self.files.items():
            # A name with a slash, or one that begins with a dot, could lead out of the folder.
            if not _PLAIN_NAME.fullmatch(name) or name in {MANIFEST_FILE, SIGNATURE_FILE}:
                raise ValueError(f"files: {name!r} is not the plain name of another file in the same folder")
            if not _SHA256.fullmatch(sha256):
                raise ValueError(f"files: {sha256!r} of {name} is not a SHA-256 in lower-case hexadecimal")
        if SAMPLE_FILE not in self.files:
            raise ValueError(f"files lack {SAMPLE_FILE}")
        return self

    @model_validator(mode="after")
    def _parts_belong_together(self) -> Self:
        known = {field.name for field in self.inputs}
        for estimator in self.estimators:
            if unknown := [name for name in estimator.inputs if name not in known]:
                raise ValueError(f"estimator {estimator.name} takes {unknown}, which are no inputs")
            for file in (estimator.file, estimator.paths):
                if file is not None and file not in self.files:
                    raise ValueError(f"files lack {file} of estimator {estimator.name}")
        if self.outputs != self.head.outputs():
            raise ValueError(
                f"outputs {[field.name for field in self.outputs]} are not those of head {self.head.kind}: "
                f"{[field.name for field in self.head.outputs()]}"
            )
        return self


@dataclass(frozen=True)
class ServingParts:
    """What a model's export is made of, besides the files that ``save`` wrote.

    Attributes:
        estimators: The model files and how each is asked.
        head: What turns their raw answers into the model's outputs.
        tolerance: Largest difference to the native model's answers, absolute.
    """

    estimators: tuple[Estimator, ...]
    head: Head
    tolerance: float


class Sample(Frozen):
    """Rows with the predictions of training time; a loaded model must reproduce them."""

    rows: tuple[dict[str, float | int | str | None], ...] = Field(min_length=1)
    predictions: tuple[dict[str, float | int | bool | str | None], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_row_has_a_prediction(self) -> Self:
        if len(self.rows) != len(self.predictions):
            raise ValueError(f"{len(self.rows)} rows, but {len(self.predictions)} predictions")
        return self
