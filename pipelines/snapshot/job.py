"""snapshot: labels and feature views become an immutable training set, named by its hash."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

from feature_repo.datasets import ColumnType, Frozen
from models.manifest import FieldType, InputField
from models.specs import ModelSpec
from pipelines.adapters.lake import Lake
from pipelines.errors import SnapshotError
from pipelines.references import FeaturesRef, Layer, SnapshotRef, Window

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.definitions import FeatureField
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

_ROWS, _MANIFEST = "data.parquet", "manifest.json"

_TYPES = {
    ColumnType.FLOAT: FieldType.DOUBLE,
    # Counts are doubles at the door: an integer column could not say "missing".
    ColumnType.INTEGER: FieldType.DOUBLE,
    ColumnType.STRING: FieldType.STRING,
}


class SnapshotManifest(Frozen):
    """Where a snapshot came from, and what its feature columns are."""

    model: str
    source: str
    window: Window
    spec: ModelSpec
    seed: int
    tables: dict[str, int]
    entity: str
    inputs: tuple[InputField, ...]


def run(model: str, features: FeaturesRef, settings: Settings) -> SnapshotRef:
    """Build the training set of a model over the window of the features.

    Raises:
        SnapshotError: a part has no rows or one class only.
    """
    import polars as pl

    from models.catalogue import find
    from pipelines.adapters.feature_store import FeatureStore
    from pipelines.snapshot import steps
    from pipelines.sources.profile import load_profile

    profile = load_profile(features.source)
    spec = profile.spec_of(find(model))
    lake, views = Lake.of(settings), FeatureStore(profile, settings)
    window = features.window
    versions = {view: ref.version for view, ref in features.views.items()}

    entity = profile.dataset(spec.label.dataset).entity
    outcomes = _outcomes(lake, profile, spec)
    observations = _observations(lake, profile, spec, features, entity)
    labelled = steps.label(observations, outcomes, entity, spec.label.horizon, window.end)
    cuts = steps.cut_times(labelled, spec.split)
    seed = settings.random_seed
    parted = steps.assign_parts(labelled, entity, spec.split, cuts, spec.label.horizon, seed)
    chosen = steps.thin_negatives(parted, entity, spec.split.negatives_kept, seed)

    joined = views.historical(chosen.select(entity, "event_time"), versions)
    fields = views.fields()
    names = [field.name for field in fields]
    snapshot = pl.concat([chosen, joined.select(names)], how="horizontal").sort(entity, "event_time")
    snapshot = snapshot.filter(
        ~pl.all_horizontal(pl.col(name).is_null() for name in _telemetry_names(fields))
    )
    manifest = SnapshotManifest(
        model=model,
        source=features.source,
        window=window,
        spec=spec,
        seed=seed,
        entity=entity,
        tables=versions | {spec.label.dataset: lake.version(profile.table(Layer.CLEAN, spec.label.dataset))},
        inputs=tuple(_input(field, snapshot) for field in fields),
    )
    return store(snapshot, manifest, lake)


def store(snapshot: pl.DataFrame, manifest: SnapshotManifest, lake: Lake) -> SnapshotRef:
    """Keep a training set under the SHA-256 of its Parquet file; the same rows are the same object.

    Raises:
        SnapshotError: a part is empty or has one class only.
    """
    from pipelines.snapshot import steps
    from pipelines.sources.profile import load_profile

    rows, positives = steps.counts(snapshot)
    content = _parquet(snapshot)
    sha256 = hashlib.sha256(content).hexdigest()
    # A source may be named by the path of its profile; its name is what tables are kept under.
    folder = f"snapshots/{load_profile(manifest.source).name}/{manifest.model}/{sha256}"
    # The manifest first: a snapshot that can be found can be read.
    lake.write_object(f"{folder}/{_MANIFEST}", manifest.model_dump_json(indent=2).encode())
    url = lake.write_object(f"{folder}/{_ROWS}", content)
    return SnapshotRef(
        model=manifest.model, source=manifest.source, sha256=sha256, url=url, rows=rows, positives=positives
    )


def load(ref: SnapshotRef, settings: Settings) -> tuple[pl.DataFrame, SnapshotManifest]:
    """A snapshot's rows and manifest.

    Raises:
        SnapshotError: the content does not have the hash of its name.
    """
    import polars as pl

    lake = Lake.of(settings)
    content = lake.read_object(ref.url)
    if (found := hashlib.sha256(content).hexdigest()) != ref.sha256:
        raise SnapshotError(
            f"{ref.url} was changed: its content hashes to {found}, its name says {ref.sha256}"
        )
    manifest = lake.read_object(ref.url.removesuffix(_ROWS) + _MANIFEST)
    return pl.read_parquet(io.BytesIO(content)), SnapshotManifest.model_validate_json(manifest)


def _outcomes(lake: Lake, profile: SourceProfile, spec: ModelSpec) -> pl.DataFrame:
    import polars as pl

    dataset = profile.dataset(spec.label.dataset)
    return (
        lake.scan(profile.table(Layer.CLEAN, dataset.name))
        .filter(pl.col(spec.label.column) == spec.label.value)
        .select(dataset.entity, pl.col(dataset.event_time).alias("event_time"))
        .collect()
    )


def _observations(
    lake: Lake, profile: SourceProfile, spec: ModelSpec, features: FeaturesRef, entity: str
) -> pl.DataFrame:
    """Entities and times at which the model would have been asked: while telemetry features last."""
    import polars as pl

    from pipelines.snapshot import steps

    window, ref = features.window, features.views[_telemetry_view(profile)]
    times = (
        lake.scan(ref.table, ref.version)
        .filter(pl.col("event_time").is_between(window.start, window.end, closed="right"))
        .select(entity, "event_time")
    )
    if spec.observe_every is None:
        return times.sort(entity, "event_time").collect()
    lives = (
        times.group_by(entity)
        .agg(first=pl.col("event_time").min(), last=pl.col("event_time").max())
        .collect()
    )
    return steps.observation_times(lives, entity, spec.observe_every)


def _telemetry_view(profile: SourceProfile) -> str:
    from pipelines.adapters.feature_store import views

    return views(profile)[0].name


def _telemetry_names(fields: tuple[FeatureField, ...]) -> list[str]:
    return [field.name for field in fields if field.view == fields[0].view]


def _input(field: FeatureField, snapshot: pl.DataFrame) -> InputField:
    import polars as pl

    categories = None
    if field.type is ColumnType.STRING:
        seen = snapshot.filter(pl.col("part") == "train")[field.name].drop_nulls().unique().sort()
        categories = tuple(seen.to_list())
    return InputField(
        name=field.name,
        type=_TYPES[field.type],
        required=False,
        unit=field.unit,
        minimum=field.minimum,
        maximum=field.maximum,
        categories=categories,
    )


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    # One row group order and one chunk: the bytes hang on the rows alone, not on how they were made.
    frame.rechunk().write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()
