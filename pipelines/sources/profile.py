"""A source profile: where telemetry comes from, what its tables are, what each model changes for it.

A profile is a YAML file, bundled (``pipelines/sources/profiles/``) or the user's own. DAG files
read it at parse, so this module imports nothing heavy.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from feature_repo.datasets import TABLE_NAME, Dataset, FeatureGrid, Frozen
from models.specs import ModelSpec
from pipelines.errors import SourceError
from pipelines.references import Layer

BUNDLED = Path(__file__).parent / "profiles"


class ColumnFrom(Frozen):
    """Where one of our columns comes from in a file."""

    column: str | None = Field(None, description="Name in the file.")
    constant: str | float | int | None = Field(None, description="The same value for each row.")
    shift: timedelta = Field(
        timedelta(0),
        description="Added to a time. A daily mean stamped at the day's start is known a day later: shift 1 day.",
    )
    counts: (
        Literal["days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds"] | None
    ) = Field(None, description="Numbers in the file are times, counted in this since 1970-01-01T00:00Z.")

    @model_validator(mode="after")
    def _one_origin(self) -> ColumnFrom:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give either 'column' or 'constant'")
        return self


class TableFile(Frozen):
    """One file, or a glob of files, that yields rows of a data set."""

    url: str = Field(
        description="fsspec address or path, *.parquet, *.csv or *.csv.gz, may be a glob; a relative path is taken from the profile's folder, "
        "and ${HEADRACE_SHARED_DATA} and ${HEADRACE_HOME} stand for those settings."
    )
    columns: dict[str, ColumnFrom] = Field(
        default_factory=dict, description="Ours to theirs; a column not named here has our name."
    )
    arrived: ColumnFrom | None = Field(
        None,
        description="When the row reached the file, which decides its slice. None: at its event time.",
    )


class SimulatedOrigin(Frozen):
    """The deterministic fleet simulator."""

    kind: Literal["simulated"]
    machines: int = Field(60, ge=1)
    seed: int = 7
    regimes: str | None = Field(None, description="Path of a regime script, see `headrace simulate --help`.")


class FilesOrigin(Frozen):
    """Parquet or CSV files."""

    kind: Literal["files"]
    tables: dict[str, tuple[TableFile, ...]] = Field(description="Files per data set.")
    storage_options: dict[str, str] = Field(
        default_factory=dict,
        description="For files in an object store, e.g. {AWS_ENDPOINT_URL: …}. Keys belong in the environment.",
    )


class SourceProfile(Frozen):
    """A source with its data sets."""

    name: str = Field(pattern=TABLE_NAME)
    description: str
    origin: Annotated[SimulatedOrigin | FilesOrigin, Field(discriminator="kind")]
    datasets: tuple[Dataset, ...]
    features: dict[Annotated[str, Field(pattern=TABLE_NAME)], FeatureGrid] = Field(
        default_factory=lambda: {"hourly": FeatureGrid()},
        min_length=1,
        description="Grids of feature rows by name.",
    )
    default_grid: str = Field(
        "", description="The grid that is meant where none is named. Needed where there are several."
    )
    features_schedule: str | None = Field("20 * * * *", description="Cron (UTC) of features_<name>.")
    window_start: datetime | None = Field(None, description="First moment of a finite source.")
    window_end: datetime | None = Field(None, description="End of a finite source.")
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Per model: fields of its spec that differ for this source."
    )
    folder: str = Field("", description="Folder of the profile's file; set when it is read.")

    @field_validator("features", mode="before")
    @classmethod
    def _grids_have_names(cls, value: Any) -> Any:
        if isinstance(value, dict) and (bare := sorted(value.keys() & FeatureGrid.model_fields.keys())):
            raise ValueError(f"{bare} stand outside a grid: write features: {{hourly: {{{bare[0]}: …}}}}")
        return value

    @model_validator(mode="after")
    def _default_grid_is_said(self) -> SourceProfile:
        grids = list(self.features)
        if self.default_grid not in self.features and (self.default_grid or len(grids) > 1):
            raise ValueError(
                f"default_grid is {self.default_grid!r}: name the one of the grids {grids} that is meant where a "
                "spec names none"
            )
        return self

    @model_validator(mode="after")
    def _tables_match(self) -> SourceProfile:
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) != len(names):
            raise ValueError(f"a data set is named twice: {sorted(names)}")
        if isinstance(self.origin, FilesOrigin) and set(self.origin.tables) != set(names):
            raise ValueError(
                f"origin.tables {sorted(self.origin.tables)} are not the datasets {sorted(names)}"
            )
        return self

    def grid_name(self, name: str | None) -> str:
        """The name that is given, else that of the default grid, else of the only one."""
        return name or self.default_grid or next(iter(self.features))

    def grid(self, name: str | None = None) -> FeatureGrid:
        """A grid by name. Raises SourceError where the source has no such grid."""
        try:
            return self.features[self.grid_name(name)]
        except KeyError:
            raise SourceError(
                f"source {self.name} has no feature grid {name!r}; it has {list(self.features)}"
            ) from None

    def dataset(self, name: str) -> Dataset:
        """Raises SourceError where the source has no such data set."""
        for dataset in self.datasets:
            if dataset.name == name:
                return dataset
        raise SourceError(
            f"source {self.name} has no data set {name!r}; it has {[dataset.name for dataset in self.datasets]}"
        )

    def table(self, layer: Layer, name: str) -> str:
        """Path in the lake: layer, source, data set or view."""
        return f"{layer.value}/{self.name}/{name}"

    def spec_of(self, spec: ModelSpec) -> ModelSpec:
        """The model's spec with what this source changes.

        Raises:
            SourceError: the profile names a field that specs do not have, or a wrong value.
        """
        changed = _merge(spec.model_dump(), self.models.get(spec.name, {}))
        try:
            return ModelSpec.model_validate(changed)
        except ValidationError as error:
            raise SourceError(f"profile {self.name}, models.{spec.name}: {error}") from error


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def located(source: str) -> str:
    """The source as any process of this machine finds it: a bundled profile's name, or an absolute path.

    What was trained names its source, and the server, which reads features by it, works in another folder.
    """
    return str(Path(source).expanduser().resolve()) if _is_path(source) else source


def _is_path(source: str) -> bool:
    return source.endswith((".yaml", ".yml"))


def load_profile(source: str) -> SourceProfile:
    """A bundled profile by name, or a file by path.

    Raises:
        SourceError: no such profile, or its text is refused; the message names each field.
    """
    path = Path(located(source)) if _is_path(source) else BUNDLED / f"{source}.yaml"
    if not path.is_file():
        bundled = sorted(file.stem for file in BUNDLED.glob("*.yaml"))
        raise SourceError(f"no source profile {source!r}: give the path of a YAML file, or one of {bundled}")
    return _read(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, _mtime_ns: int) -> SourceProfile:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        return SourceProfile.model_validate({**content, "folder": str(path.parent)})
    except (yaml.YAMLError, TypeError) as error:
        raise SourceError(f"{path} is not a YAML mapping: {error}") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False)
        ]
        raise SourceError(f"{path} is refused:\n  " + "\n  ".join(lines)) from error


def registered_name(spec: ModelSpec, profile: SourceProfile, default_source: str) -> str:
    """Name in the registry: the model's own for the configured source, else with the source's name.

    A model of another source has other inputs; under the same name it could replace the one that
    callers use.
    """
    return spec.name if profile.name == load_profile(default_source).name else f"{spec.name}-{profile.name}"
