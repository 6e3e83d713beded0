"""Regimes: lasting changes of the fleet from a time on, given as a YAML script.

A regime touches only what has an event time in ``[from, until)`` (a new population of machines,
only its own rows), so all rows before it are those of the simulation without it. The form of
the script is in docs/simulator.md.
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from pipelines.errors import SourceError

if TYPE_CHECKING:
    from pipelines.sources.simulated.fleet import Fleet
    from pipelines.sources.simulated.randomness import Bools, Ints

Service = Literal["web", "api", "batch", "database"]
Zone = Literal["a", "b", "c"]
Metric = Literal[
    "cpu_percent", "memory_percent", "disk_percent", "disk_latency_ms", "network_in_mbps", "network_out_mbps",
    "requests_per_second", "latency_p50_ms", "latency_p95_ms", "error_percent", "temperature_c",
    "corrected_memory_errors", "reallocated_sectors",
]  # fmt: skip


class _Regime(BaseModel):
    """What all regimes have: when, and for which machines. No filter: for all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    start: datetime = Field(alias="from", description="UTC; a date is its midnight.")
    end: datetime | None = Field(None, alias="until", description="None: for good.")
    machines: tuple[str, ...] | None = Field(None, min_length=1)
    services: tuple[Service, ...] | None = Field(None, min_length=1)
    zones: tuple[Zone, ...] | None = Field(None, min_length=1)

    @field_validator("start", "end")
    @classmethod
    def _in_utc(cls, moment: datetime | None) -> datetime | None:
        if moment is None:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> _Regime:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"'until' {self.end.isoformat()} is not after 'from' {self.start.isoformat()}")
        return self

    def concerns(self, fleet: Fleet) -> Bools:
        """Which machines pass the filters, shape (machines,)."""
        chosen = np.ones(len(fleet), dtype=bool)
        for wanted, names in (
            (self.machines, fleet.ids),
            (self.services, fleet.service_names),
            (self.zones, fleet.zone_names),
        ):
            if wanted is not None:
                chosen &= np.isin(np.array(names), wanted)
        return chosen

    def during(self, times: Ints) -> Bools:
        """Which of these times (seconds since 1970) lie within the regime; shape as given."""
        within = times >= self.start.timestamp()
        return within if self.end is None else within & (times < self.end.timestamp())

    def mask(self, fleet: Fleet, times: Ints) -> Bools | None:
        """Shape (machines, times), or None where the regime touches none of them."""
        within = self.during(times)
        if not within.any():
            return None
        chosen = self.concerns(fleet)
        return chosen[:, None] & within[None, :] if chosen.any() else None


class LoadScale(_Regime):
    """More or fewer requests, and all that follows from them: CPU, latency, heat, bills."""

    kind: Literal["load_scale"]
    factor: float = Field(ge=0, le=1000)


class MetricShift(_Regime):
    """A metric becomes ``value * multiply + add``, held within what is physically possible."""

    kind: Literal["metric_shift"]
    column: Metric
    add: float = 0.0
    multiply: float = Field(1.0, ge=0)


class Noise(_Regime):
    """The metrics scatter more, or less."""

    kind: Literal["noise"]
    factor: float = Field(ge=0, le=1000)


class FailureRate(_Regime):
    """More or fewer failures; a machine has at most one in 8 days, so factors saturate near 2.2."""

    kind: Literal["failure_rate"]
    factor: float = Field(ge=0, le=1000)


class HiddenSigns(_Regime):
    """Firmware that hides decay: a share of its signs is not shown, and the machine throttles instead.

    Harmless trouble shows as ever. Counters of errors go on for decay that began before. Throttling is slow
    answers, less load and less heat.
    """

    kind: Literal["hidden_signs"]
    share: float = Field(gt=0, le=1)


class UnitChange(_Regime):
    """A column is reported in another unit: each value times the factor, unbounded."""

    kind: Literal["unit_change"]
    column: Metric
    factor: float = Field(gt=0)


class StuckSensor(_Regime):
    """A sensor repeats what it showed when the regime began."""

    kind: Literal["stuck_sensor"]
    column: Metric


class NewMachines(_Regime):
    """More machines, busier, fuller, cooler and faster than those there were."""

    kind: Literal["new_machines"]
    count: int = Field(ge=1, le=100_000)

    @model_validator(mode="after")
    def _are_not_there_yet(self) -> NewMachines:
        if self.machines is not None:
            raise ValueError("new_machines names its machines itself; filter by services or zones")
        return self


class MissingColumn(_Regime):
    """A share of a column's values is not delivered."""

    kind: Literal["missing_column"]
    column: Metric
    share: float = Field(1.0, gt=0, le=1)


Regime = Annotated[
    LoadScale
    | MetricShift
    | Noise
    | FailureRate
    | HiddenSigns
    | UnitChange
    | StuckSensor
    | NewMachines
    | MissingColumn,
    Field(discriminator="kind"),
]
_ONE: TypeAdapter[Regime] = TypeAdapter(Regime)


class _Script(BaseModel):
    model_config = ConfigDict(extra="forbid")

    regimes: tuple[Regime, ...]


def parse_regime(fields: dict[str, Any]) -> Regime:
    """A regime from plain values, as a script or a command line has them.

    Raises:
        SourceError: a field is unknown, missing or refused; the text names each of them.
    """
    try:
        return _ONE.validate_python(fields)
    except ValidationError as error:
        raise SourceError(f"regime {fields} is refused:\n  " + _reasons(error)) from error


def load_regimes(path: str | Path) -> tuple[Regime, ...]:
    """The regimes of a script, in its order, which is the order in which they apply.

    Raises:
        SourceError: there is no such file, or it is refused; the text names each field.
    """
    try:
        return _parse(Path(path), Path(path).read_text("utf-8"))
    except OSError as error:
        raise SourceError(
            f"the regime script {path} cannot be read ({error.strerror}): "
            "correct origin.regimes in the profile, or take it out"
        ) from error


def append_regime(path: str | Path, regime: Regime) -> None:
    """Add a regime to a script, which is made if there is none. All or nothing; comments stay.

    Raises:
        SourceError: the script is refused as it is, and left alone, or cannot be written.
    """
    file = Path(path)
    present = load_regimes(file) if file.exists() else ()
    item = regime.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    wanted = (*present, regime)
    try:
        _replace(file, _with_item(file, wanted, item))
    except OSError as error:
        raise SourceError(f"the regime script {file} cannot be written: {error.strerror}") from error


def _with_item(file: Path, wanted: tuple[Regime, ...], item: dict[str, Any]) -> str:
    """The script's text with one item more: appended as text where that reads back as wanted."""
    if len(wanted) > 1:
        text = file.read_text("utf-8").rstrip()
        line = yaml.safe_dump(item, default_flow_style=True, sort_keys=False, width=10_000).strip()
        for indent in ("  ", ""):
            longer = f"{text}\n{indent}- {line}\n"
            try:
                if _parse(file, longer) == wanted:
                    return longer
            except SourceError:
                continue  # the list is written in another style
    items = [each.model_dump(mode="json", by_alias=True, exclude_defaults=True) for each in wanted]
    return yaml.safe_dump({"regimes": items}, sort_keys=False)


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as part:
            part.write(text)
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)


def _parse(path: Path, text: str) -> tuple[Regime, ...]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SourceError(f"the regime script {path} is not YAML: {error}") from error
    try:
        return _Script.model_validate(content).regimes
    except ValidationError as error:
        raise SourceError(f"the regime script {path} is refused:\n  {_reasons(error)}") from error


def _reasons(error: ValidationError) -> str:
    return "\n  ".join(
        f"{'.'.join(map(str, item['loc'])) or 'script'}: {item['msg']} (found {item['input']!r})"
        if item["type"] != "missing"
        else f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
        for item in error.errors(include_url=False)
    )
