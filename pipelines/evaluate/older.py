"""The champion's own holdout, found by its lineage: what it once proved itself on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import HeadraceError
from pipelines.evaluate.checks import Check, CheckKind
from pipelines.evaluate.comparison import Answered
from pipelines.evaluate.steps import Older
from pipelines.references import Outcome, SnapshotRef

if TYPE_CHECKING:
    import polars as pl

    from models.base import Observations
    from pipelines.adapters.registry import ModelVersion
    from pipelines.adapters.runtimes.base import Predictor
    from pipelines.settings import Settings
    from pipelines.snapshot.job import SnapshotManifest

_SNAPSHOT_TAG, _SOURCE_TAG = "headrace.snapshot_sha256", "headrace.source"


def find(
    champion: ModelVersion,
    predictors: tuple[Predictor, Predictor],
    manifest: SnapshotManifest,
    sha256: str,
    learned_from: tuple[Observations, ...],
    settings: Settings,
) -> tuple[Older | Check | None, tuple[str, ...]]:
    """Both models' answers on the champion's own holdout, and what does not apply.

    Where lineage does not lead to the rows the evidence is missing, and that decides. Where the two
    snapshots ask different things of a model (another target, inputs that there were not yet), no
    comparison there could be made at all: that is reported and does not decide, or no feature could
    ever be added.

    Args:
        predictors: Of the candidate and of the champion.
        manifest: Of the candidate's snapshot.
        sha256: Of the candidate's snapshot.
        learned_from: The parts that the candidate was trained on.
    """
    from pipelines.snapshot.parts import observations

    digest = champion.tags.get(_SNAPSHOT_TAG)
    if digest == sha256:
        return None, ("The champion was made of this same snapshot, so that there is no older holdout.",)
    if digest is None:
        return _missing(f"version {champion.version} has no tag {_SNAPSHOT_TAG}"), ()
    source = champion.tags.get(_SOURCE_TAG, manifest.source)
    try:
        rows, older = _load(source, manifest.model, digest, settings)
    except (HeadraceError, OSError) as error:
        return _missing(str(error)), ()
    candidate, rival = predictors
    # Inputs of the head alone are no features, and no snapshot has them.
    features = {field.name for field in manifest.inputs} - {field.name for field in older.inputs}
    if lacks := [field.name for field in candidate.manifest.inputs if field.name in features]:
        return _other(f"it lacks {len(lacks)} of the candidate's inputs, such as {lacks[:3]}"), ()
    if older.spec.target != manifest.spec.target:
        return _other("its target is another one"), ()
    part = observations(rows, "holdout", older.entity, older.inputs)
    return (
        Older(
            part=part,
            candidate=Answered("candidate", candidate.predict(part.columns)),
            champion=Answered(f"version {champion.version}", rival.predict(part.columns)),
            learned=int(np.isin(_keys(part), np.concatenate([_keys(known) for known in learned_from])).sum()),
        ),
        (),
    )


def _load(source: str, model: str, sha256: str, settings: Settings) -> tuple[pl.DataFrame, SnapshotManifest]:
    """Rows and manifest of a snapshot by its hash."""
    from pipelines.adapters.lake import Lake
    from pipelines.snapshot.job import load, rows_path
    from pipelines.sources.profile import load_profile

    url = Lake.of(settings).address(rows_path(load_profile(source), model, sha256))
    return load(
        SnapshotRef(model=model, source=source, sha256=sha256, url=url, rows={}, positives={}), settings
    )


def _keys(part: Observations) -> NDArray[np.str_]:
    times = part.time.astype("datetime64[us]").astype(np.int64).astype(str)
    return np.char.add(np.char.add(part.entity.astype(str), "@"), times)


def _check(detail: str, remedy: str, *, blocking: bool) -> Check:
    return Check(
        name="gain on the champion's own holdout",
        kind=CheckKind.OLDER,
        outcome=Outcome.INSUFFICIENT,
        figure=None,
        wanted="both models' answers on its rows",
        n=0,
        blocking=blocking,
        question="Has the candidate forgotten what the champion proved itself on?",
        detail=detail,
        remedy=remedy,
    )


def _missing(reason: str) -> Check:
    return _check(
        f"its rows cannot be had: {reason}",
        "Restore the snapshot in the lake; or promote by hand, with your name and the reason: "
        "headrace promote MODEL VERSION --reason …",
        blocking=True,
    )


def _other(reason: str) -> Check:
    return _check(
        f"the champion's snapshot cannot be asked of the candidate: {reason}",
        "Nothing to do: the newest holdout decides alone",
        blocking=False,
    )
