"""Serving exports: written by train, verified and loaded by evaluate and by the server.

Nothing in an export is code: a manifest and a sample in JSON, and model files in their runtime's
own format. Loading one therefore runs nothing that came with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from models.manifest import (
    MANIFEST_FILE,
    SAMPLE_FILE,
    SIGNATURE_FILE,
    FieldType,
    InputField,
    Manifest,
    Sample,
    ServingParts,
)
from models.manifest import MANIFEST_TAG as MANIFEST_TAG  # re-exported: the tag goes with the check
from pipelines.adapters.runtimes import Predictor, open_runtime, to_column
from pipelines.errors import ArtifactError, InvalidRequestError

if TYPE_CHECKING:
    from pipelines.adapters.signing import Trust

_CHUNK_BYTES = 2**20


def write_export(
    folder: Path,
    save: Callable[[Path], ServingParts],
    *,
    model: str,
    inputs: tuple[InputField, ...],
    sample: Sample,
    lineage: Mapping[str, str],
) -> str:
    """Write an export, prove that it loads and reproduces its sample, and put it in place.

    Args:
        folder: Where the export shall stand; what is there is replaced. It appears whole or not at all.
        save: Writes the estimators' files into the folder that it is given (``Fitted.save``).
        inputs: What callers may send.
        sample: From :func:`make_sample`, with the predictions of the model as it was trained.

    Returns:
        The SHA-256 of the manifest, for the tag ``MANIFEST_TAG`` of the registered version.

    Raises:
        ArtifactError: the export does not load, or does not reproduce the sample.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        parts = save(part)
        (part / SAMPLE_FILE).write_text(_json(sample.model_dump(mode="json")), "utf-8")
        manifest = Manifest(
            model=model,
            inputs=inputs,
            outputs=parts.head.outputs(),
            estimators=parts.estimators,
            head=parts.head,
            tolerance=parts.tolerance,
            lineage=dict(lineage),
            files={path.name: _sha256(path) for path in sorted(part.iterdir())},
        )
        (part / MANIFEST_FILE).write_text(_json(manifest.model_dump(mode="json")), "utf-8")
        digest = manifest_sha256(part)
        load_export(part, digest)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return digest


@dataclass(frozen=True)
class Export:
    """A verified export, loaded and warm."""

    predictor: Predictor
    sample: Sample

    def check(self) -> None:
        """Predict the sample again.

        Raises:
            ArtifactError: an output differs from training time by more than the manifest's tolerance.
        """
        check_sample(self.predictor, self.sample, where=self.predictor.manifest.model)


def open_export(
    folder: Path, expected_manifest_sha256: str | None = None, trust: Trust | None = None
) -> Export:
    """Verify an export and load it: who signed it, each byte, then its own sample.

    Args:
        expected_manifest_sha256: What the registry says the manifest is. Give it wherever the
            folder came over a wire or from a cache.
        trust: Whose signature is wanted. None only where nobody shall rely on the export yet: train,
            which is about to sign it, and MLflow's own loader.

    Raises:
        ArtifactError: a file is missing, extra or changed, the signature is missing or wrong, or the
            sample is not reproduced. The text says which.
    """
    manifest = _read_manifest(folder, expected_manifest_sha256)
    if trust is not None:
        trust.verify(folder, manifest_sha256(folder))
    _verify_files(folder, manifest)
    predictor = open_runtime(manifest, folder)
    sample = _read_sample(folder)
    check_sample(predictor, sample, where=str(folder))
    return Export(predictor, sample)


def load_export(
    folder: Path, expected_manifest_sha256: str | None = None, trust: Trust | None = None
) -> Predictor:
    """The predictor of :func:`open_export`, for those who need no further checks."""
    return open_export(folder, expected_manifest_sha256, trust).predictor


def manifest_sha256(folder: Path) -> str:
    """SHA-256 of the manifest's bytes, in lower-case hexadecimal.

    Raises:
        ArtifactError: there is no manifest.
    """
    return hashlib.sha256(_manifest_bytes(folder)).hexdigest()


def find_export(folder: Path) -> Path:
    """The export inside a downloaded MLflow model: the folder that holds the manifest.

    Raises:
        ArtifactError: there is none, or more than one.
    """
    found = sorted(path.parent for path in folder.rglob(MANIFEST_FILE))
    if len(found) != 1:
        raise ArtifactError(
            f"{len(found)} files {MANIFEST_FILE} in the downloaded model, one is wanted: "
            "is this a version that Headrace trained?"
        )
    return found[0]


def make_sample(
    inputs: tuple[InputField, ...], columns: Mapping[str, NDArray], predictions: Mapping[str, NDArray]
) -> Sample:
    """Rows and predictions as an export keeps them.

    Args:
        columns: As :meth:`Predictor.predict` takes them, n rows; 10 to 100 rows are plenty.
        predictions: Outputs of the model as it was trained, each of shape (n,).
    """
    named = {
        field.name: [_plain(value) for value in columns[field.name]]
        for field in inputs
        if field.name in columns  # optional inputs of the head alone need no example
    }
    answers = {name: [_plain(value) for value in values] for name, values in predictions.items()}
    return Sample(
        rows=tuple(dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)),
        predictions=tuple(
            dict(zip(answers, row, strict=True)) for row in zip(*answers.values(), strict=True)
        ),
    )


def check_sample(predictor: Predictor, sample: Sample, where: str) -> None:
    """Predict the sample's rows and compare with what was predicted at training time.

    Raises:
        ArtifactError: an output differs by more than the manifest's tolerance.
    """
    manifest = predictor.manifest
    try:
        columns = {
            field.name: to_column(field, [row.get(field.name) for row in sample.rows])
            for field in manifest.inputs
        }
        answers = predictor.predict(columns)
    except (InvalidRequestError, TypeError, ValueError) as error:
        raise ArtifactError(f"{where}: {SAMPLE_FILE} does not fit the manifest's inputs: {error}") from error
    margin = manifest.head.margin(answers)
    for field in manifest.outputs:
        stored = [prediction.get(field.name) for prediction in sample.predictions]
        if field.type is not FieldType.STRING and any(value is None for value in stored):
            raise ArtifactError(f"{where}: {SAMPLE_FILE} lacks predictions of {field.name!r}")
        wrong = _differs(manifest, field.type, answers[field.name], stored)
        if field.type is not FieldType.DOUBLE and margin is not None:
            # At a threshold itself, a rounding in the last digit decides; that is not another model.
            wrong &= margin > manifest.tolerance
        if np.any(wrong):
            row = int(np.argmax(wrong))
            raise ArtifactError(
                f"{where}: {int(np.sum(wrong))} of {len(stored)} predictions of the sample are not those of "
                f"training time; row {row}, {field.name}: {answers[field.name][row]!s} now, {stored[row]!s} then "
                f"(tolerance {manifest.tolerance:g})"
            )


def _differs(manifest: Manifest, kind: FieldType, answers: NDArray, stored: list[Any]) -> NDArray[np.bool_]:
    if kind is not FieldType.DOUBLE:
        return np.array([_plain(now) != then for now, then in zip(answers, stored, strict=True)])
    # Not "greater than": a NaN must count as different.
    far: NDArray[np.bool_] = ~(np.abs(answers - np.array(stored, dtype=np.float64)) <= manifest.tolerance)
    return far


def _manifest_bytes(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{folder} has no readable {MANIFEST_FILE}: {error.strerror}") from error


def _read_manifest(folder: Path, expected: str | None) -> Manifest:
    content = _manifest_bytes(folder)
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected:
        raise ArtifactError(
            f"{folder / MANIFEST_FILE} has SHA-256 {found}, but the registry names {expected}: "
            "it was changed after it was registered"
        )
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactError(f"{folder / MANIFEST_FILE} is refused: {_reasons(error)}") from error


def _read_sample(folder: Path) -> Sample:
    try:
        return Sample.model_validate_json((folder / SAMPLE_FILE).read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{folder / SAMPLE_FILE} is refused: {_reasons(error)}") from error


def _verify_files(folder: Path, manifest: Manifest) -> None:
    found = {path.name for path in folder.iterdir()} - {MANIFEST_FILE, SIGNATURE_FILE}
    if missing := sorted(set(manifest.files) - found):
        raise ArtifactError(f"{folder} lacks {missing}, which its manifest names")
    if extra := sorted(found - set(manifest.files)):
        raise ArtifactError(f"{folder} holds {extra}, which its manifest does not name")
    for name, expected in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{path} is not a regular file")
        sha256 = _sha256(path)
        if sha256 != expected:
            raise ArtifactError(
                f"{path} ({path.stat().st_size} bytes) has SHA-256 {sha256}, but the manifest names {expected}: "
                "it was changed, or is incomplete"
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _plain(value: Any) -> float | int | bool | str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and np.isnan(value):
        return None
    return value  # type: ignore[no-any-return]


def _json(value: Any) -> str:
    """One text for one value, so that one export has one digest; NaN is refused."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _reasons(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}"
        for item in error.errors(include_url=False)
    )
