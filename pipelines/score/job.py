"""score: a table in, a table of predictions out, a day at a time.

A plan pins what is read: the version of the model, of the table and of the feature tables. Each day
of it is one commit that names all of these, so a run that was killed goes on with the days that are
missing, and one that was done does nothing. A plan that is not finished is taken up again by the next
run of the same request, whatever was ingested meanwhile; a finished one gives way to a new one.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.adapters.lake import Lake
from pipelines.errors import LakeError, ScoringError
from pipelines.references import Layer, Reference, TableRef, Window

if TYPE_CHECKING:
    import polars as pl

    from pipelines.adapters.registry import ModelVersion, Registry
    from pipelines.adapters.runtimes import Predictor
    from pipelines.settings import Settings

# Bounds memory: rows whose features are held at a time.
ROWS_AT_A_TIME = 200_000

Progress = Callable[[int, int], None]


class ScorePlan(Reference):
    """What is scored by what; the same plan gives the same rows.

    Attributes:
        table, table_version: What is asked: rows with the entity and ``event_time``.
        source, grid, entity: Whose features answer.
        features: Version of each feature table, by view.
        keep: Columns of the table that stay beside the answers.
        days: Of the rows' event times, UTC; each is one commit.
        output: Table of the predictions, partitioned by version and day.
    """

    registered_name: str
    version: str
    table: str
    table_version: int
    window: Window | None
    source: str
    grid: str | None
    entity: str
    features: dict[str, int]
    keep: tuple[str, ...]
    days: tuple[date, ...]
    output: str

    def work_of(self, day: date) -> str:
        """Name, in the table of predictions, of the work of scoring one day."""
        read = self.model_dump_json(include={"table", "table_version", "window", "features", "keep"})
        digest = hashlib.sha256(read.encode()).hexdigest()[:16]
        return f"score:{self.version}:{digest}:{day.isoformat()}"


class ScoreRef(Reference):
    """A scored table.

    Attributes:
        rows, refused: That this run added, and how many of them have no answer.
    """

    registered_name: str
    version: str
    scored: TableRef
    days: int
    rows: int
    refused: int


def plan(
    registered_name: str,
    settings: Settings,
    *,
    table: str | None = None,
    window: Window | None = None,
    version: str | None = None,
    keep: Sequence[str] = (),
) -> ScorePlan:
    """What a run has to do; the unfinished plan of the same request, if there is one.

    Args:
        table: Below the lake, ``path`` or ``path@version``; the newest version where none is named. Its
            rows have the source's entity and ``event_time`` (UTC). None: the feature table of the
            model's own view, so that each entity is scored at each time of its grid.
        window: Of event times; None: all rows.
        version: Of the model; None: the one in production.
        keep: Columns of the table to keep beside the answers.

    Raises:
        ScoringError: there is no such version, or the table cannot be scored by it.
        LakeError: there is no such table.
        RegistryError: the registry does not answer.
    """
    from pipelines.adapters.registry import Registry

    lake = Lake.of(settings)
    with Registry(settings.tracking) as registry:
        found = _version(registry, registered_name, version)
        with _loaded(registry, found, settings) as predictor:
            lineage = predictor.manifest.lineage
    source, grid = lineage.get("source", settings.source), lineage.get("grid")
    views = _views(source, grid)
    path, _, number = (table or views[0][1]).partition("@")
    if number and not number.isdecimal():
        raise ScoringError(f"{table!r} is no version of a table: write it as {path}@12")
    request = f"{registered_name}|{found.version}|{path}|{number}|{window}|{','.join(keep)}"
    kept = f"score_plans/{hashlib.sha256(request.encode()).hexdigest()[:32]}.json"
    unfinished = _unfinished(lake, kept)
    if unfinished is not None:
        return unfinished
    pinned = {name: lake.version(feature_table) for name, feature_table in views}
    at = int(number) if number else lake.version(path)
    entity = _entity(source, grid, settings)
    made = ScorePlan(
        registered_name=registered_name,
        version=found.version,
        table=path,
        table_version=at,
        window=window,
        source=source,
        grid=grid,
        entity=entity,
        features=pinned,
        keep=tuple(keep),
        days=_days(lake, path, at, window, entity, keep),
        output=_output(registered_name, path),
    )
    lake.write_object(kept, made.model_dump_json(indent=2).encode())
    return made


def run(
    scoring: ScorePlan,
    settings: Settings,
    at: datetime,
    days: Sequence[date] | None = None,
    progress: Progress | None = None,
) -> ScoreRef:
    """Score the days of a plan that are not there yet. Several processes may share one plan.

    Args:
        at: When; it is recorded with the rows.
        days: Only these; None: all.
        progress: Called with days done and days in all.

    Raises:
        ArtifactError: the version is not what was registered.
        FeatureError, LakeError: a table cannot be read or written.
        ScoringError: the table lacks an input that the version needs.
    """
    from pipelines.adapters.registry import Registry

    lake = Lake.of(settings)
    wanted = list(scoring.days if days is None else days)
    present = lake.done(scoring.output, [scoring.work_of(day) for day in scoring.days])
    missing = [day for day in wanted if scoring.work_of(day) not in present]
    report = progress or (lambda _done, _total: None)
    report(len(wanted) - len(missing), len(wanted))
    rows = refused = 0
    if missing:
        with Registry(settings.tracking) as registry:
            found = _version(registry, scoring.registered_name, scoring.version)
            with _loaded(registry, found, settings) as predictor:
                scorer = _Scorer(scoring, predictor, lake, settings)
                for done, day in enumerate(missing, start=len(wanted) - len(missing) + 1):
                    scored = scorer.day(day, at)
                    if _put(lake, scoring, day, scored):
                        rows += scored.height
                        refused += scored["refused"].count()
                    report(done, len(wanted))
    return ScoreRef(
        registered_name=scoring.registered_name,
        version=scoring.version,
        scored=TableRef(table=scoring.output, version=lake.version(scoring.output), rows_added=rows),
        days=len(wanted),
        rows=rows,
        refused=refused,
    )


class _Scorer:
    """Answers the rows of single days."""

    def __init__(self, scoring: ScorePlan, predictor: Predictor, lake: Lake, settings: Settings) -> None:
        from pipelines.adapters.feature_store import FeatureStore
        from pipelines.sources.profile import load_profile

        self._plan = scoring
        self._predictor = predictor
        self._lake = lake
        self._store = FeatureStore(load_profile(scoring.source), settings)
        manifest = predictor.manifest
        named = {field.name for field in manifest.inputs}
        fields = [field for field in self._store.fields(scoring.grid) if field.name in named]
        own = self._store.views_of([scoring.grid])[0].name
        self._features = [field.name for field in fields]
        self._own = [field.name for field in fields if field.view == own] or self._features
        self._entity_input = manifest.lineage.get("entity_input")

    def day(self, day: date, at: datetime) -> pl.DataFrame:
        """Predictions of the rows of one day, in the order of the table."""
        import polars as pl

        rows = _rows(self._lake, self._plan, day)
        parts = [self._answered(part, at) for part in rows.iter_slices(ROWS_AT_A_TIME)]
        return pl.concat(parts)

    def _answered(self, rows: pl.DataFrame, at: datetime) -> pl.DataFrame:
        import polars as pl

        from pipelines.score import steps
        from pipelines.snapshot.parts import columns

        scoring, manifest = self._plan, self._predictor.manifest
        keys = rows.select(scoring.entity, steps.EVENT_TIME)
        joined = self._store.historical(keys, scoring.features, scoring.grid).select(self._features)
        given = [name for name in rows.columns if name not in joined.columns]
        asked = rows.select(given).hstack(joined)
        if self._entity_input:
            asked = asked.with_columns(pl.col(scoring.entity).alias(self._entity_input))
        asked = steps.asked(asked, manifest.inputs, self._features)
        refused = steps.refusals(asked, manifest.inputs, self._own)
        known = asked.filter(refused.is_null())
        inputs = [field for field in manifest.inputs if field.name in asked.columns]
        return steps.answered(
            asked,
            refused,
            self._predictor.predict(columns(known, inputs)) if known.height else {},
            manifest.outputs,
            entity=scoring.entity,
            version=scoring.version,
            keep=scoring.keep,
            at=at,
        )


def _put(lake: Lake, scoring: ScorePlan, day: date, scored: pl.DataFrame) -> bool:
    """Put a day's predictions in the place of what the version said of that day before."""
    from pipelines.score.steps import DAY, VERSION

    ref = lake.replace(
        scoring.output,
        scored,
        where=f"{VERSION} = '{scoring.version}' AND {DAY} = '{day}'",
        work=[scoring.work_of(day)],
        partition_by=(VERSION, DAY),
    )
    return ref.rows_added > 0


def _version(registry: Registry, name: str, version: str | None) -> ModelVersion:
    found = registry.alias_version(name, "production") if version is None else registry.version(name, version)
    if found is None:
        wanted = "version in production" if version is None else f"version {version}"
        raise ScoringError(
            f"{name} has no {wanted}: train and promote one first, or name another with --model-version"
        )
    return found


@contextmanager
def _loaded(registry: Registry, version: ModelVersion, settings: Settings) -> Iterator[Predictor]:
    """The version as the server loads it: verified, and able to reproduce its own sample."""
    from pipelines.monitor.champion import loaded

    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        yield loaded(registry, version, Path(folder), settings)


def _views(source: str, grid: str | None) -> list[tuple[str, str]]:
    """Views of the grid with their tables, the model's own first."""
    from pipelines.adapters.feature_store import views
    from pipelines.sources.profile import load_profile

    profile = load_profile(source)
    return [(view.name, profile.table(Layer.FEATURES, view.name)) for view in views(profile, grid)]


def _entity(source: str, grid: str | None, settings: Settings) -> str:
    from pipelines.adapters.feature_store import FeatureStore
    from pipelines.sources.profile import load_profile

    return FeatureStore(load_profile(source), settings).entity_of(grid)


def _unfinished(lake: Lake, path: str) -> ScorePlan | None:
    try:
        found = ScorePlan.model_validate_json(lake.read_object(lake.address(path)))
    except LakeError:
        return None
    works = [found.work_of(day) for day in found.days]
    return found if lake.done(found.output, works) != set(works) else None


def _days(
    lake: Lake, table: str, version: int, window: Window | None, entity: str, keep: Sequence[str]
) -> tuple[date, ...]:
    """Days of the rows to be scored.

    Raises:
        ScoringError: the table has no such columns, or rows without entity or time.
    """
    import polars as pl

    from pipelines.score.steps import EVENT_TIME
    from pipelines.times import TIME

    rows = lake.scan(table, version)
    names = rows.collect_schema().names()
    if lacking := [name for name in (entity, EVENT_TIME, *keep) if name not in names]:
        raise ScoringError(f"{table}@{version} has no columns {lacking}; it has {names[:12]}")
    if (held := rows.collect_schema()[EVENT_TIME]) != TIME:
        raise ScoringError(f"{table}@{version}: {EVENT_TIME} holds {held}; times in UTC ({TIME}) are wanted")
    bare = pl.col(entity).is_null() | pl.col(EVENT_TIME).is_null()
    nameless = int(rows.select(bare.sum()).collect().item())
    if nameless:
        raise ScoringError(
            f"{table}@{version}: {nameless} rows have no {entity} or no {EVENT_TIME}: nothing can be said of them; "
            "take them out"
        )
    found = _within(rows, window).select(pl.col(EVENT_TIME).dt.date().unique().sort()).collect()
    if found.is_empty():
        span = f" in {window}" if window else ""
        raise ScoringError(
            f"{table}@{version} has no rows{span}: has the stage before run, is the window right?"
        )
    return tuple(found[EVENT_TIME])


def _rows(lake: Lake, scoring: ScorePlan, day: date) -> pl.DataFrame:
    import polars as pl

    from pipelines.score.steps import DAY, EVENT_TIME

    rows = lake.scan(scoring.table, scoring.table_version)
    if scoring.table.startswith(f"{Layer.FEATURES}/"):
        rows = rows.filter(pl.col(DAY) == day)  # there it is the partition, by which files are skipped
    wanted = _within(rows, scoring.window).filter(pl.col(EVENT_TIME).dt.date() == day)
    if scoring.table.startswith(f"{Layer.FEATURES}/"):
        # The rest are features, which come from the store.
        wanted = wanted.select(*dict.fromkeys((scoring.entity, EVENT_TIME, *scoring.keep)))
    return wanted.collect()


def _within(rows: pl.LazyFrame, window: Window | None) -> pl.LazyFrame:
    import polars as pl

    from pipelines.score.steps import EVENT_TIME

    if window is None:
        return rows
    return rows.filter(pl.col(EVENT_TIME) >= window.start, pl.col(EVENT_TIME) < window.end)


def _output(registered_name: str, table: str) -> str:
    from pipelines.predictions.table import table_of

    # Escaped as the prediction log's name is.
    return f"scores/{table_of(registered_name).partition('/')[2]}/{table}"
