"""Typed hand-overs between stages. Tasks exchange these, never data."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from pipelines.errors import WindowError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Reference(BaseModel):
    """A small frozen value that travels through XCom as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_xcom(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def from_xcom(cls, value: dict[str, Any]) -> Self:
        return cls.model_validate(value)


class Window(Reference):
    """A half-open span of time, ``[start, end)``, in UTC."""

    start: datetime
    end: datetime

    @model_validator(mode="after")
    def _is_a_span_in_utc(self) -> Window:
        for name in ("start", "end"):
            moment: datetime = getattr(self, name)
            if moment.tzinfo is None or moment.utcoffset() != timedelta(0):
                raise WindowError(f"window {name} {moment.isoformat()} is not UTC: write it with +00:00")
        if self.start >= self.end:
            raise WindowError(
                f"window start {self.start.isoformat()} is not before end {self.end.isoformat()}"
            )
        return self

    @classmethod
    def parse(cls, start: str, end: str) -> Window:
        """From ISO 8601 dates or date-times; a date or a time without zone is taken as UTC."""
        return cls(start=_utc(start), end=_utc(end))

    def slices(self, step: timedelta) -> Iterator[Window]:
        """Cut at multiples of ``step`` since the Unix epoch, so that any two windows agree on slices.

        Raises:
            WindowError: the window does not begin and end at slice borders.
        """
        for name, moment in (("start", self.start), ("end", self.end)):
            if (moment - _EPOCH) % step:
                raise WindowError(
                    f"window {name} {moment.isoformat()} is not on a border of {step}: "
                    "ingest is exactly-once per slice, so windows must be made of whole slices"
                )
        at = self.start
        while at < self.end:
            yield Window(start=at, end=at + step)
            at += step

    def widened(self, step: timedelta) -> Window:
        """The smallest window of whole slices that holds this one."""
        start = self.start - (self.start - _EPOCH) % step
        return Window(start=start, end=self.end + (_EPOCH - self.end) % step)

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%M}Z..{self.end:%Y-%m-%dT%H:%M}Z"


def _utc(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise WindowError(f"{text!r} is not an ISO 8601 date or time, as 2026-01-31 is") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Layer(StrEnum):
    """Where in the lake a table stands."""

    RAW = "raw"
    CLEAN = "clean"
    QUARANTINE = "quarantine"
    FEATURES = "features"


class TableRef(Reference):
    """One version of one lake table, as it stood after a step."""

    table: str  # "raw/simulated/telemetry": layer, source, data set
    version: int
    rows_added: int = 0


class IngestRef(Reference):
    """What ingest left behind for one data set."""

    source: str
    dataset: str
    window: Window
    raw: TableRef


class ValidationRef(Reference):
    """What validate left behind for one data set."""

    source: str
    dataset: str
    window: Window
    clean: TableRef
    quarantine: TableRef
    data_docs_url: str | None = None


class FeaturesRef(Reference):
    """The feature tables after a run of the features stage."""

    source: str
    window: Window
    views: dict[str, TableRef]
    online_rows: int


class SnapshotRef(Reference):
    """An immutable training set, named by the hash of its content."""

    model: str
    source: str
    sha256: str
    url: str
    rows: dict[str, int]  # per part
    positives: dict[str, int]


class TuningShareRef(Reference):
    """What one worker does of a study.

    Attributes:
        trials: Of the whole study, over all its workers.
        worker: Number of this worker, from 0.
    """

    snapshot: SnapshotRef
    registered_name: str
    study: str
    run_id: str
    trials: int
    worker: int
    workers: int


class StudyRef(Reference):
    """A finished study."""

    model: str
    study: str
    trials: int
    best_value: float
    best_params: dict[str, float | int | str | bool]
    run_id: str


class CandidateRef(Reference):
    """A registered version under evaluation."""

    model: str
    registered_name: str
    version: str
    run_id: str
    snapshot: SnapshotRef


class Outcome(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INSUFFICIENT = "insufficient evidence"


class VerdictRef(Reference):
    """The decision on a candidate, and where its evidence lies."""

    candidate: CandidateRef
    champion: str | None
    outcome: Outcome
    reasons: tuple[str, ...]
    report_url: str | None = None


class PromotionRef(Reference):
    """What the pointer says after the promote stage."""

    registered_name: str
    production: str | None
    previous: str | None
    moved: bool
    reason: str
    proof: str | None = None  # how it was seen that the version answers, where that was looked at
