"""Whether watching was worth it: alarm precision, retrain yield, time to a new champion. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import fmean, median

from pipelines.monitor.records import Cause, Check, Outcome, Request

_OF_THE_MODEL = frozenset({Cause.DRIFT, Cause.QUALITY_LOSS})


@dataclass(frozen=True)
class Off:
    """How far estimates of a metric lay from what came.

    Attributes:
        checks: That labels caught up with.
        bias: Mean of estimated less realised.
        absolute: Mean of its size.
    """

    checks: int
    bias: float
    absolute: float


def off(checks: Sequence[Check]) -> dict[str, Off]:
    """By metric, over the checks of one model; what was never estimated or never came is not there."""
    errors: dict[str, list[float]] = {}
    for check in checks:
        for each in check.scored:
            errors.setdefault(each.metric, []).append(each.estimated - each.realised)
    return {
        metric: Off(len(found), fmean(found), fmean(abs(error) for error in found))
        for metric, found in errors.items()
    }


@dataclass(frozen=True)
class Worth:
    """Counts and the figures made of them; a figure is None where nothing can be said.

    Attributes:
        checks: Looks at this model.
        alarms: Episodes: consecutive checks of one version with an alarm of drift or quality are one.
        confirmed: Episodes in which realised quality broke its floor, during it or before the next one began.
        judged: Episodes for which labels came at all.
        requests: That were made.
        trainings: Requests that ended with a verdict or failed.
        promoted: Trainings whose candidate became champion.
        training_hours: That all trainings took together.
        to_champion: Median time from the first window that showed the change to the new champion.
    """

    checks: int
    alarms: int
    confirmed: int
    judged: int
    requests: int
    trainings: int
    promoted: int
    training_hours: float
    to_champion: timedelta | None

    @property
    def alarm_precision(self) -> float | None:
        """Alarms that a loss of quality confirmed, of those that labels could judge."""
        return self.confirmed / self.judged if self.judged else None

    @property
    def retrain_yield(self) -> float | None:
        """Trainings that brought a new champion."""
        return self.promoted / self.trainings if self.trainings else None


def worth(checks: Sequence[Check], requests: Sequence[Request]) -> Worth:
    """Of one model; checks by the end of their windows."""
    found = episodes(checks)
    judged = [
        looks for looks in found if any(look.realised.values or look.late.figures.values for look in looks)
    ]
    ended = [
        request.closed
        for request in requests
        if request.closed is not None and request.closed.outcome is not Outcome.WITHDRAWN
    ]
    won = [
        request.closed.at - request.asked.changed_at
        for request in requests
        if request.closed is not None
        and request.closed.outcome is Outcome.PROMOTED
        and request.asked.changed_at is not None
    ]
    return Worth(
        checks=len(checks),
        alarms=len(found),
        confirmed=sum(
            any(look.realised.below or look.late.figures.below for look in looks) for looks in judged
        ),
        judged=len(judged),
        requests=len(requests),
        trainings=len(ended),
        promoted=len(won),
        training_hours=sum(row.seconds or 0.0 for row in ended) / 3600,
        to_champion=timedelta(seconds=median(span.total_seconds() for span in won)) if won else None,
    )


def episodes(checks: Sequence[Check]) -> list[list[Check]]:
    """Each alarm with the looks from it up to the next one; broken data are no alarm of the model's."""
    found: list[list[Check]] = []
    before: Check | None = None
    for check in checks:
        rings = check.alarm and check.cause in _OF_THE_MODEL
        rang = before is not None and before.alarm and before.cause in _OF_THE_MODEL
        same = before is not None and before.version == check.version
        if rings and not (rang and same):
            found.append([check])
        elif found:
            found[-1].append(check)
        before = check
    return found
