"""snapshot: labels and feature views become an immutable training set, named by its hash."""

from __future__ import annotations

import fnmatch
import hashlib
import io
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import Field

from feature_repo.datasets import ColumnType, Frozen
from models.manifest import FieldType, InputField
from models.specs import ModelSpec
from pipelines.adapters.lake import Lake
from pipelines.errors import SnapshotError
from pipelines.references import FeaturesRef, Layer, SnapshotRef, TableRef, Window

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.definitions import FeatureField
    from models.targets import Tables
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
    changed_at: datetime | None = Field(
        None, description="Since when things are otherwise, where that moved the cuts between the parts."
    )
    tables: dict[str, int]
    table_versions: dict[str, int] = Field(
        default_factory=dict, description="Version of each lake table that was read, by its path."
    )
    feature_views: dict[str, str] = Field(
        default_factory=dict, description="View of each feature, by its name."
    )
    entity: str
    inputs: tuple[InputField, ...]


def run(
    model: str, features: FeaturesRef, settings: Settings, changed_at: datetime | None = None
) -> SnapshotRef:
    """Build the training set of a model over the window of the features, and keep it.

    Args:
        changed_at: Since when things are otherwise, where that is why the model is trained:
            :func:`pipelines.snapshot.steps.cut_times`.

    Raises:
        SnapshotError: a part has no rows or one class only.
    """
    from models.catalogue import find
    from pipelines.adapters.feature_store import views
    from pipelines.sources.profile import load_profile

    profile = load_profile(features.source)
    spec = profile.spec_of(find(model))
    lake = Lake.of(settings)
    # Versions first, then reading at them: what was read is what is recorded, whoever writes meanwhile.
    read = {
        **{
            features.views[view.name].table: features.views[view.name].version
            for view in views(profile, spec.grid)
        },
        **{table: lake.version(table) for table in _clean_tables(profile, spec).values()},
    }
    rows, manifest = build(
        spec, features.source, features.window, read, settings.random_seed, settings, changed_at
    )
    return store(rows, manifest, lake)


def rebuild(manifest: SnapshotManifest, settings: Settings) -> pl.DataFrame:
    """The rows of a training set again, from the versions of the tables that its manifest names.

    Raises:
        LakeError: a table or that version of it is gone.
        SnapshotError: the manifest names no versions, or the rows cannot be built.
    """
    if not manifest.table_versions:
        raise SnapshotError(
            f"the snapshot of {manifest.model} over {manifest.window} does not say which tables it read; it was made "
            "before that was recorded, and can be read but not built again"
        )
    rows, _ = build(
        manifest.spec,
        manifest.source,
        manifest.window,
        manifest.table_versions,
        manifest.seed,
        settings,
        manifest.changed_at,
    )
    return rows


def build(
    spec: ModelSpec,
    source: str,
    window: Window,
    table_versions: Mapping[str, int],
    seed: int,
    settings: Settings,
    changed_at: datetime | None = None,
) -> tuple[pl.DataFrame, SnapshotManifest]:
    """A training set and where it came from, out of the named versions of the lake's tables.

    Raises:
        LakeError: a table or that version of it is not there.
        SnapshotError: a table has no version named.
    """
    import polars as pl

    from pipelines.adapters.feature_store import FeatureStore, views
    from pipelines.snapshot import steps
    from pipelines.sources.profile import load_profile

    profile = load_profile(source)
    lake, features_of = Lake.of(settings), FeatureStore(profile, settings)
    horizon, own = spec.target.horizon, views(profile, spec.grid)
    stored = {view.name: profile.table(Layer.FEATURES, view.name) for view in own}
    clean = _clean_tables(profile, spec)
    if missing := sorted({*stored.values(), *clean.values()} - set(table_versions)):
        raise SnapshotError(f"{spec.name}: no version is named of {missing}, which its training set reads")
    versions = {name: table_versions[path] for name, path in stored.items()}
    pinned = {name: TableRef(table=path, version=table_versions[path]) for name, path in clean.items()}
    first = TableRef(table=stored[own[0].name], version=versions[own[0].name])

    entity, tables = features_of.entity_of(spec.grid), _tables(lake, profile, pinned)
    observations = _observations(lake, spec, first, entity, window)
    labelled = spec.target.attach(observations, entity, tables, window.end)
    cuts = steps.cut_times(labelled, spec.split, changed_at, horizon)
    parted = steps.assign_parts(labelled, entity, spec.split, cuts, horizon, seed)
    if spec.split.by != "entity":
        parted = steps.as_known(parted, cuts)
    chosen = _given(steps.thin(parted, entity, spec.split, seed), entity, spec, tables, window)

    fields = _chosen_fields(features_of.fields(spec.grid), spec)
    joined = features_of.historical(chosen.select(entity, "event_time"), versions, spec.grid)
    names = [field.name for field in fields]
    snapshot = pl.concat([chosen, joined.select(names)], how="horizontal").sort(entity, "event_time")
    snapshot = snapshot.filter(
        ~pl.all_horizontal(pl.col(name).is_null() for name in _own_names(fields, own[0].name))
    )
    if spec.entity_input:
        snapshot = snapshot.with_columns(pl.col(entity).alias(spec.entity_input))
    manifest = SnapshotManifest(
        model=spec.name,
        source=source,
        window=window,
        spec=spec,
        seed=seed,
        changed_at=changed_at,
        entity=entity,
        tables=versions | {name: table.version for name, table in pinned.items()},
        table_versions={path: table_versions[path] for path in (*stored.values(), *clean.values())},
        feature_views={field.name: field.view for field in fields},
        inputs=(*(_input(field, snapshot) for field in fields), *_asked(spec, profile, snapshot)),
    )
    return snapshot, manifest


def store(snapshot: pl.DataFrame, manifest: SnapshotManifest, lake: Lake) -> SnapshotRef:
    """Keep a training set under the SHA-256 of its Parquet file; the same rows are the same object.

    Raises:
        SnapshotError: a part is empty or has one class only.
    """
    from pipelines.snapshot import steps
    from pipelines.sources.profile import load_profile

    rows, positives = steps.counts(snapshot)
    content = parquet(snapshot)
    sha256 = hashlib.sha256(content).hexdigest()
    path = rows_path(load_profile(manifest.source), manifest.model, sha256)
    # The manifest first: a snapshot that can be found can be read.
    lake.write_object(path.removesuffix(_ROWS) + _MANIFEST, manifest.model_dump_json(indent=2).encode())
    url = lake.write_object(path, content)
    return SnapshotRef(
        model=manifest.model, source=manifest.source, sha256=sha256, url=url, rows=rows, positives=positives
    )


def rows_path(source: SourceProfile, model: str, sha256: str) -> str:
    """Path in the lake of a training set's rows."""
    # A source may be named by the path of its profile; its name is what tables are kept under.
    return f"snapshots/{source.name}/{model}/{sha256}/{_ROWS}"


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
    return pl.read_parquet(io.BytesIO(content)), load_manifest(ref, settings)


def load_manifest(ref: SnapshotRef, settings: Settings) -> SnapshotManifest:
    """A snapshot's manifest alone.

    Raises:
        LakeError: it is gone.
    """
    content = Lake.of(settings).read_object(ref.url.removesuffix(_ROWS) + _MANIFEST)
    return SnapshotManifest.model_validate_json(content)


def _clean_tables(profile: SourceProfile, spec: ModelSpec) -> dict[str, str]:
    """Paths of the clean tables that the target reads, by data set."""
    return {name: profile.table(Layer.CLEAN, name) for name in spec.target.datasets}


def _tables(lake: Lake, profile: SourceProfile, pinned: Mapping[str, TableRef]) -> Tables:
    from models.targets import Table

    return {
        name: Table(profile.dataset(name), lake.scan(ref.table, ref.version)) for name, ref in pinned.items()
    }


def _observations(lake: Lake, spec: ModelSpec, ref: TableRef, entity: str, window: Window) -> pl.DataFrame:
    """Entities and times at which the model would have been asked: while its own features last."""
    import polars as pl

    from pipelines.snapshot import steps

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


def _given(
    chosen: pl.DataFrame, entity: str, spec: ModelSpec, tables: Tables, window: Window
) -> pl.DataFrame:
    """Add the inputs that callers suppose, as they were over the span that the target is of.

    Raises:
        SnapshotError: the target has no such span.
    """
    from models.targets import PREFIX, ValuesAhead, ValuesNow

    if not spec.given:
        return chosen
    target = spec.target
    if not isinstance(target, ValuesNow | ValuesAhead) or getattr(target, "steps", 1) > 1:
        raise SnapshotError(
            f"{spec.name}: `given` inputs are read from the one span of the target's data set, and a target of kind "
            f"{target.kind} with these settings has none"
        )
    span = ValuesAhead(
        dataset=target.dataset,
        columns=tuple(spec.given.values()),
        ahead=getattr(target, "ahead", timedelta(0)),
        width=target.width,
    )
    known = span.attach(chosen.select(entity, "event_time").unique(), entity, tables, window.end)
    renamed = known.rename({f"{PREFIX}{column}": name for name, column in spec.given.items()})
    return chosen.join(renamed, on=[entity, "event_time"], how="inner").sort(entity, "event_time")


def _chosen_fields(fields: tuple[FeatureField, ...], spec: ModelSpec) -> tuple[FeatureField, ...]:
    """Features that the spec's patterns name, in the store's order.

    Raises:
        SnapshotError: a pattern names none.
    """
    names = [field.name for field in fields]
    if idle := [pattern for pattern in spec.inputs if not fnmatch.filter(names, pattern)]:
        raise SnapshotError(
            f"{spec.name}: inputs {idle} match none of the {len(names)} features: {names[:8]} …"
        )
    wanted = {name for pattern in spec.inputs for name in fnmatch.filter(names, pattern)}
    return tuple(field for field in fields if field.name in wanted)


def _asked(spec: ModelSpec, profile: SourceProfile, snapshot: pl.DataFrame) -> tuple[InputField, ...]:
    """Inputs that are no features: the entity, what the caller supposes, and how far ahead it asks."""
    from models.targets import STEPS_AHEAD

    fields = []
    if spec.entity_input:
        seen = _seen_in_training(snapshot[spec.entity_input], snapshot["part"])
        fields.append(
            InputField(name=spec.entity_input, type=FieldType.STRING, required=False, categories=seen)
        )
    if spec.given:
        columns = {column.name: column for column in profile.dataset(spec.target.datasets[0]).columns}
        fields += [
            InputField(
                name=name,
                type=FieldType.DOUBLE,
                unit=columns[column].unit,
                minimum=columns[column].minimum,
                maximum=columns[column].maximum,
            )
            for name, column in spec.given.items()
        ]
    steps = getattr(spec.target, "steps", 1)
    if steps > 1:
        fields.append(InputField(name=STEPS_AHEAD, type=FieldType.DOUBLE, minimum=1, maximum=steps))
    return tuple(fields)


def _own_names(fields: tuple[FeatureField, ...], view: str) -> list[str]:
    return [field.name for field in fields if field.view == view] or [field.name for field in fields]


def _input(field: FeatureField, snapshot: pl.DataFrame) -> InputField:
    is_text = field.type is ColumnType.STRING
    return InputField(
        name=field.name,
        type=_TYPES[field.type],
        required=False,
        unit=field.unit,
        minimum=field.minimum,
        maximum=field.maximum,
        categories=_seen_in_training(snapshot[field.name], snapshot["part"]) if is_text else None,
    )


def _seen_in_training(column: pl.Series, part: pl.Series) -> tuple[str, ...]:
    return tuple(column.filter(part == "train").drop_nulls().unique().sort().to_list())


def parquet(frame: pl.DataFrame) -> bytes:
    """The bytes that a training set is stored as, and named by the hash of."""
    buffer = io.BytesIO()
    # One row group order and one chunk: the bytes hang on the rows alone, not on how they were made.
    frame.rechunk().write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()
