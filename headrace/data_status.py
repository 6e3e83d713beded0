"""The lake's part of `headrace status`: how fresh the rows are, what monitoring saw, which requests to train are open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipelines.references import Layer

if TYPE_CHECKING:
    from pipelines.adapters.lake import Lake
    from pipelines.settings import Settings
    from pipelines.sources.profile import SourceProfile

_LATE = timedelta(hours=1)


@dataclass(frozen=True)
class Freshness:
    """The newest clean row of a data set.

    Attributes:
        newest: Its event time (UTC); None: there is no row.
        late: Whether it is older than the data set's slices let it be.
    """

    newest: datetime | None
    late: bool

    def to_json(self, now: datetime) -> dict[str, Any]:
        age = None if self.newest is None else round((now - self.newest).total_seconds())
        newest = None if self.newest is None else self.newest.isoformat()
        return {"newest": newest, "age_seconds": age, "late": self.late}


@dataclass(frozen=True)
class Watched:
    """What monitoring last saw of a model.

    Attributes:
        until: End of the window that was looked at last; None: it was never looked at.
        cause: What was found, in the words of the check.
        request: Number of the open request to train; None: there is none.
        request_state: pending or in training.
    """

    until: datetime | None = None
    version: str | None = None
    cause: str = ""
    alarm: bool = False
    drift_score: float | None = None
    request: int | None = None
    request_state: str = ""

    def to_json(self) -> dict[str, Any]:
        asked = None if self.request is None else {"number": self.request, "state": self.request_state}
        return {
            "checked_until": None if self.until is None else self.until.isoformat(),
            "version": self.version,
            "cause": self.cause,
            "alarm": self.alarm,
            "drift_score": self.drift_score,
            "request": asked,
        }


def freshness(settings: Settings, now: datetime) -> dict[str, Freshness]:
    """By data set of the configured source; those that have no table yet are left out.

    Raises:
        LakeError: a table cannot be read.
        SourceError: there is no such source.
    """
    from pipelines.adapters.lake import Lake
    from pipelines.sources.profile import load_profile

    profile, lake = load_profile(settings.source), Lake.of(settings)
    return {
        dataset.name: _newest(lake, profile, dataset.name, now)
        for dataset in profile.datasets
        if lake.exists(profile.table(Layer.CLEAN, dataset.name))
    }


def _newest(lake: Lake, profile: SourceProfile, name: str, now: datetime) -> Freshness:
    dataset = profile.dataset(name)
    column = dataset.event_time
    found = lake.scan(profile.table(Layer.CLEAN, name)).select(column).max().collect().item()
    finite = profile.window_end is not None
    # An hourly slice is whole an hour after it began, and is read some minutes later.
    late = found is None or (not finite and now - found > 2 * dataset.slice + _LATE)
    return Freshness(found, late)


def watched(settings: Settings) -> dict[str, Watched]:
    """By registered model, where there was a check or a request.

    Raises:
        LakeError: a table cannot be read.
    """
    from pipelines.adapters.lake import Lake
    from pipelines.monitor import checks, requests

    lake = Lake.of(settings)
    last = {check.registered_name: check for check in checks.read(lake)}
    open_now = {each.asked.registered_name: each for each in requests.read(lake) if each.state != "closed"}
    found = {}
    for name in sorted({*last, *open_now}):
        check, asked = last.get(name), open_now.get(name)
        found[name] = Watched(
            until=check.window.end if check else None,
            version=check.version if check else None,
            cause=check.cause.value if check else "",
            alarm=bool(check and check.alarm),
            drift_score=check.drift_score if check else None,
            request=asked.number if asked else None,
            request_state=asked.state if asked else "",
        )
    return found
