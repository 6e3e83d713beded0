"""What is written down of checks and of requests to train again. Pure: no lake.

A request is a number of one registered model, given out once, and its rows: asked, joined (further
evidence), taken (a training run holds it), closed (with what came of it). While one is open no other
is: that there is one training for one reason hangs on these rows, never on how often an event arrived.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from feature_repo.datasets import Frozen
from pipelines.references import Window


class Cause(StrEnum):
    """What a check found, the worst first."""

    BROKEN_DATA = "broken data"
    QUALITY_LOSS = "quality loss"
    SKEW = "training-serving skew"
    DRIFT = "drift"
    NOT_ENOUGH_DATA = "not enough data"
    NOTHING = "nothing"


class Trigger(StrEnum):
    """Why a training was asked for."""

    SCHEDULE = "schedule"
    BY_HAND = "by hand"
    DRIFT_SCORE = "drift score"
    IMPORTANT_COLUMNS = "important columns"
    QUALITY = "quality below its floor"


class Event(StrEnum):
    ASKED = "asked"
    JOINED = "joined"
    TAKEN = "taken"
    CLOSED = "closed"


class Outcome(StrEnum):
    """What came of a request."""

    PROMOTED = "promoted"
    KEPT = "champion kept"  # the challenger did not prove better, or a person refused it
    FAILED = "training failed"
    WITHDRAWN = "withdrawn"  # data turned out broken, or a person withdrew it


class ColumnFinding(Frozen):
    """One drifted column, for the record."""

    column: str
    aspect: str
    detail: str
    effect: float
    adjusted: float
    importance: float


class Figures(Frozen):
    """Quality of a window by metric of the task, and what it rests on.

    Attributes:
        rows: Predictions that have their label.
        below: Metrics that broke their floor.
        fallen: Realised metrics that are worse than on the champion's own holdout by more than noise.
        of: What was answered: to callers, or on the grid of training.
        errors: Of estimated ones: what they may be off by, one standard deviation, where that is known.
        duplicates, contradictions: Of labels that came through the door.
    """

    values: dict[str, float] = Field(default_factory=dict)
    errors: dict[str, float] = Field(default_factory=dict)
    rows: int = 0
    below: tuple[str, ...] = ()
    fallen: tuple[str, ...] = ()
    of: Literal["served", "grid"] = "grid"
    duplicates: int = 0
    contradictions: int = 0


class Scored(Frozen):
    """An estimate of an earlier check, and what it was in truth, once labels had come.

    Attributes:
        window_end: Of the check that estimated; both are of the same observations.
        error: What the estimate gave itself, one standard deviation; None: it gave none.
    """

    metric: str
    window_end: datetime
    estimated: float
    realised: float
    error: float | None = None


class Late(Frozen):
    """Quality of answers that are older than those of a check, whose labels came through the door since the last look.

    Attributes:
        figures: They stand for as long as a check's longest window, unless newer ones come.
        at: Check that judged them; None: none did.
        seen: Version of the table of labels up to which they have been judged; None: there is none.
    """

    figures: Figures = Figures()
    at: datetime | None = None
    seen: int | None = None


class Check(Frozen):
    """One look at one version.

    Attributes:
        scored: Estimates of an earlier check whose labels have come by this one.
        attempt: Windows of broken data are looked at again, once they are mended.
        drift_score: Share of the tested columns that drifted, weighted by importance; None: not enough data.
        broken: What is broken, each named with its figures.
        skewed: Features that were served otherwise than the offline store has them.
        blind: Columns in which this window could not show a change of one standard deviation.
    """

    registered_name: str
    model: str
    version: str
    window: Window
    attempt: int = 0
    at: datetime
    cause: Cause
    drift_score: float | None
    important: int = 0
    tested: int = 0
    drifted: tuple[ColumnFinding, ...] = ()
    outputs: tuple[ColumnFinding, ...] = ()
    targets: tuple[ColumnFinding, ...] = ()
    broken: tuple[str, ...] = ()
    realised: Figures = Figures()
    estimated: Figures = Figures()
    scored: tuple[Scored, ...] = ()
    late: Late = Late()
    skewed: tuple[str, ...] = ()
    rows: int = 0
    blind: tuple[str, ...] = ()
    newest_row: datetime | None = None
    alarm: bool = False
    asked: int | None = Field(None, description="Number of the request that this check made or joined.")
    triggers: tuple[Trigger, ...] = ()
    changed_at: datetime | None = Field(None, description="Start of the first window that shows the change.")
    reason: str = ""
    report_url: str | None = None

    @property
    def work(self) -> str:
        again = f":{self.attempt}" if self.attempt else ""
        return f"check:{self.registered_name}:{self.version}:{self.window.end.isoformat()}{again}"


class RequestRow(Frozen):
    """One row of a request.

    Attributes:
        work: Names what was done, so that the same work done again adds nothing.
        seconds: That the training took, of the closing row.
        confirmed: Whether a quality loss was measured that bears the request out; None: nobody knows.
    """

    at: datetime
    registered_name: str
    number: int
    event: Event
    work: str
    triggers: tuple[Trigger, ...] = ()
    reason: str
    evidence: str = ""
    changed_at: datetime | None = None
    run: str | None = None
    attempt: int = 0
    outcome: Outcome | None = None
    version: str | None = None
    champion: str | None = None
    seconds: float | None = None
    confirmed: bool | None = None


@dataclass(frozen=True)
class Request:
    """A request with all its rows, the first of them the asking."""

    rows: tuple[RequestRow, ...]

    @property
    def asked(self) -> RequestRow:
        return self.rows[0]

    @property
    def number(self) -> int:
        return self.rows[0].number

    @property
    def taken(self) -> RequestRow | None:
        """By the run that holds it; the last one where others were given up for dead."""
        return max(
            (row for row in self.rows if row.event is Event.TAKEN), key=lambda row: row.attempt, default=None
        )

    @property
    def closed(self) -> RequestRow | None:
        return next((row for row in self.rows if row.event is Event.CLOSED), None)

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        return tuple(dict.fromkeys(trigger for row in self.rows for trigger in row.triggers))

    @property
    def state(self) -> str:
        if self.closed is not None:
            return "closed"
        return "pending" if self.taken is None else "in training"


def requests(rows: Iterable[RequestRow]) -> list[Request]:
    """Rows of one model as its requests, by number."""
    by_number: dict[int, list[RequestRow]] = {}
    for row in rows:
        by_number.setdefault(row.number, []).append(row)
    order = {Event.ASKED: 0, Event.JOINED: 1, Event.TAKEN: 2, Event.CLOSED: 3}
    return [
        Request(tuple(sorted(mine, key=lambda row: (order[row.event], row.attempt, row.at))))
        for _, mine in sorted(by_number.items())
        # Rows of a number without its asking cannot be: asking is what gives the number out.
        if any(row.event is Event.ASKED for row in mine)
    ]
